"""Windows: drafts of a bucket that are collected until there are enough of them, or the oldest has waited long enough.

A window is one document, so that adding a draft and closing it exclude each other. Two unique indexes say the rest: a
bucket has one open window, and a draft (an object in one of its versions) is in one window, for ever.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from bucketline.db.mongo import Index
from bucketline.db.repository import Repository


class BatchingWindowDocument(TypedDict):
    """A window. ``members`` are ``<object>:<run>``; ``batch_id`` is the batch that it will become.

    States: *open* (takes members), *closing* (its members are final, its batch may not be there yet), *closed*.
    """

    _id: str
    bucket_id: str
    namespace_id: str
    state: Literal["open", "closing", "closed"]
    members: list[str]
    count: int
    bytes: int
    batch_id: str
    opened_at: datetime
    closes_at: datetime
    closed_at: NotRequired[datetime]


INDEXES = (
    Index("open_bucket", [("bucket_id", 1)], unique=True, where={"state": "open"}),
    Index("by_bucket", [("bucket_id", 1), ("_id", 1)]),
    Index("member_unique", [("members", 1)], unique=True),
    Index("due", [("state", 1), ("closes_at", 1)]),
    Index("expiry", [("closed_at", 1)], expire_after_seconds=30 * 24 * 3600),
)

_FACTS = (
    "bucket_id",
    "namespace_id",
    "state",
    "count",
    "bytes",
    "batch_id",
    "opened_at",
    "closes_at",
    "closed_at",
)


class BatchingWindows(Repository[BatchingWindowDocument]):
    """The repository of windows. What it returns is without members, except for :meth:`whole`."""

    name = "batching_windows"

    async def open_of(self, bucket_id: str) -> BatchingWindowDocument | None:
        return await self.collection.find_one({"bucket_id": bucket_id, "state": "open"}, fields=_FACTS)

    async def join(
        self, window: BatchingWindowDocument, members: Sequence[str], size: int
    ) -> BatchingWindowDocument | None:
        """Adds drafts if nobody has touched the window since it was read; None otherwise.

        Raises ``DuplicateKey`` when one of them is in another window. None of them may be in this one.
        """
        return await self.collection.find_and_update(
            {"_id": window["_id"], "state": "open", "count": window["count"], "bytes": window["bytes"]},
            {"$push": {"members": {"$each": list(members)}}, "$inc": {"count": len(members), "bytes": size}},
            fields=_FACTS,
        )

    async def known(self, members: Sequence[str]) -> set[str]:
        """Which of these drafts are in a window."""
        wanted = set(members)
        rows = await self.collection.aggregate(
            [
                {"$match": {"members": {"$in": list(members)}}},
                {"$project": {"members": {"$setIntersection": ["$members", list(members)]}}},
            ],
            limit=len(members),
        )
        return wanted & {member for row in rows for member in row["members"]}

    async def close(self, window_id: str, now: datetime, **also: object) -> bool:
        """From here on its members are final. Whether it was this call that closed it."""
        update: Mapping[str, object] = {"$set": {"state": "closing", "closed_at": now}}
        return await self.collection.update_one({"_id": window_id, "state": "open", **also}, update)

    async def whole(self, window_id: str) -> BatchingWindowDocument | None:
        return await self.collection.get(window_id)

    async def finish(self, window_id: str) -> None:
        """Its batch is there."""
        await self.collection.update_one({"_id": window_id, "state": "closing"}, {"$set": {"state": "closed"}})

    async def delete_of_bucket(self, bucket_id: str) -> None:
        """Delete all windows of the bucket."""
        await self.collection.delete_many({"bucket_id": bucket_id})

    async def find_due(self, now: datetime, *, limit: int) -> list[BatchingWindowDocument]:
        """Open windows whose time is over."""
        return await self.collection.find(
            {"state": "open", "closes_at": {"$lte": now}}, limit=limit, sort=[("closes_at", 1)], fields=_FACTS
        )

    async def closing(self, *, limit: int) -> list[BatchingWindowDocument]:
        """Windows that were closed and whose batch may not be there yet."""
        return await self.collection.find({"state": "closing"}, limit=limit, sort=[("closes_at", 1)], fields=_FACTS)
