"""Tasks: asynchronous work that a caller may follow. A batch's task is a view of the batch and not stored here."""

from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.storage.mongo import Collection, Database, Index


class TaskDocument(TypedDict):
    """A task; while it is PENDING or IN_PROGRESS it is also the durable intent from which a sweeper goes on."""

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
    attempts: NotRequired[int]


INDEXES = (
    Index("listing", [("organization_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("due", [("due_at", 1)], where={"due_at": {"$exists": True}}),
    Index("expiry", [("updated_at", 1)], expire_after_seconds=30 * 24 * 3600),
)


class Tasks:
    """The repository of tasks."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[TaskDocument] = database.collection("tasks")
