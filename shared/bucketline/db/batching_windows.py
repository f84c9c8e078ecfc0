"""Batching windows: drafts of a bucket, collected until there are enough or the oldest has waited long enough.

A window is one document, so that adding a draft and closing the window exclude each other. Unique indexes ensure that a
bucket has one open window, and that a draft (an object in one of its versions) is only ever in one window.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from bucketline.db.mongo import Index
from bucketline.db.repository import Repository


class BatchingWindowDocument(TypedDict):
    """A window. ``members`` are ``<object>:<run>``; ``batch_id`` is the batch that it will become.

    States: *open* (accepts members), *closing* (its members are final, its batch may not exist yet), *closed*.
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
    """The repository of windows. Only :meth:`get_by_id` returns their members."""

    name = "batching_windows"

    async def open_of(self, bucket_id: str) -> BatchingWindowDocument | None:
        """Return the open window of the bucket."""
        return await self.collection.find_one({"bucket_id": bucket_id, "state": "open"}, fields=_FACTS)

    async def join(
        self, window: BatchingWindowDocument, members: Sequence[str], size: int
    ) -> BatchingWindowDocument | None:
        """Add drafts to a window that is unchanged since it was read and return it; return None otherwise.

        Raise ``DuplicateKey`` when a draft is in another window. None of the drafts may be in this window.
        """
        return await self.collection.find_and_update(
            {"_id": window["_id"], "state": "open", "count": window["count"], "bytes": window["bytes"]},
            {"$push": {"members": {"$each": list(members)}}, "$inc": {"count": len(members), "bytes": size}},
            fields=_FACTS,
        )

    async def known(self, members: Sequence[str]) -> set[str]:
        """Return those of these drafts that are in a window."""
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
        """Close the window, which makes its members final; return whether this call closed it."""
        update: Mapping[str, object] = {"$set": {"state": "closing", "closed_at": now}}
        return await self.collection.update_one({"_id": window_id, "state": "open", **also}, update)

    async def finish(self, window_id: str) -> None:
        """Record that the batch of the window exists."""
        await self.collection.update_one({"_id": window_id, "state": "closing"}, {"$set": {"state": "closed"}})

    async def delete_of_bucket(self, bucket_id: str) -> None:
        """Delete all windows of the bucket."""
        await self.collection.delete_many({"bucket_id": bucket_id})

    async def find_due(self, now: datetime, *, limit: int) -> list[BatchingWindowDocument]:
        """Return open windows that have to be closed."""
        return await self.collection.find(
            {"state": "open", "closes_at": {"$lte": now}}, limit=limit, sort=[("closes_at", 1)], fields=_FACTS
        )

    async def closing(self, *, limit: int) -> list[BatchingWindowDocument]:
        """Return closed windows whose batch may not exist yet."""
        return await self.collection.find({"state": "closing"}, limit=limit, sort=[("closes_at", 1)], fields=_FACTS)
