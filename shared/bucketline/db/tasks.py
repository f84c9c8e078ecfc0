"""Tasks: asynchronous work that a caller may follow. A batch's task is a view of the batch and not stored here."""

from collections.abc import Mapping
from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.db.lease_queue import LeaseFields, LeaseQueue
from bucketline.db.mongo import Database, Index
from bucketline.db.repository import Repository
from bucketline.domain.status import Status


class TaskDocument(TypedDict):
    """A task; while it is PENDING or IN_PROGRESS it is also the durable intent that the runner resumes.

    ``due_at`` exists until the task is over: from then on it may be claimed. A claim moves ``due_at`` to the end of the
    lease and stores its token in ``claim``. ``attempts`` counts consecutive failed attempts.
    """

    _id: str
    type: str
    status: str
    organization_id: str
    namespace_id: str | None
    inputs: list[str]
    outputs: list[str]
    data: dict[str, object]
    error: str | None
    created_at: datetime
    updated_at: datetime
    due_at: NotRequired[datetime]
    claim: NotRequired[str]
    attempts: NotRequired[int]
    hidden: NotRequired[bool]


INDEXES = (
    Index("listing", [("organization_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_namespace", [("namespace_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("due", [("due_at", 1)], where={"due_at": {"$exists": True}}),
    Index("expiry", [("updated_at", 1)], expire_after_seconds=30 * 24 * 3600),
)


class Tasks(Repository[TaskDocument]):
    """The repository of tasks."""

    name = "tasks"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._queue = LeaseQueue(self.collection, LeaseFields(owner="claim", due_at="due_at"))

    async def claim(self, task_id: str, claim: str, *, now: datetime, until: datetime) -> TaskDocument | None:
        """Claim a task that is due and count the attempt; None if it is leased or over."""
        fields = {
            "status": str(Status.IN_PROGRESS),
            "updated_at": now,
            "attempts": {"$add": [{"$ifNull": ["$attempts", 0]}, 1]},
        }
        return await self._queue.claim(task_id, claim, now=now, until=until, fields=fields)

    async def renew_lease(self, task_id: str, claim: str, *, until: datetime) -> bool:
        """Extend the lease; return False if it was lost."""
        return bool(await self._queue.renew({task_id: claim}, until=until))

    async def save_progress(self, task_id: str, data: Mapping[str, object]) -> None:
        """Store the progress of an attempt, from which the next attempt continues."""
        await self.collection.update_one({"_id": task_id}, {"$set": {f"data.{k}": v for k, v in data.items()}})

    async def end_attempt(
        self, task_id: str, claim: str, changes: Mapping[str, object], *, due: datetime | None
    ) -> bool:
        """End an attempt: the task is due again at ``due``, or over when None.

        Return False, and change nothing, if the lease was lost.
        """
        update = {"$set": changes}
        if due is None:
            return await self._queue.release(task_id, claim, changes=update)
        return await self._queue.reschedule(task_id, claim, due_at=due, changes=update)

    async def restart(self, task_id: str, now: datetime) -> TaskDocument | None:
        """Make a FAILED task due again and return it; return None for any other."""
        begun: dict[str, object] = {"status": str(Status.PENDING), "error": None, "attempts": 0}
        return await self.collection.find_and_update(
            {"_id": task_id, "status": str(Status.FAILED), "due_at": {"$exists": False}},
            {"$set": {**begun, "due_at": now, "updated_at": now}},
        )

    async def find_due(self, now: datetime, *, limit: int) -> list[str]:
        """Return the ids of tasks that may be claimed, the longest overdue first."""
        return [task["_id"] for task in await self._queue.find_due(now, limit=limit, fields=["_id"])]

    async def hide(self, task_id: str) -> None:
        """Delete a task that is over; hide one that still runs."""
        if not await self.collection.delete_one({"_id": task_id, "due_at": {"$exists": False}}):
            await self.collection.update_one({"_id": task_id}, {"$set": {"hidden": True}})
