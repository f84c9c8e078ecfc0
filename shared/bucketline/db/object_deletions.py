"""Durable intents to delete an object, kept until its data is deleted and the events are published.

An intent is stored before anything is deleted. The reconciler finishes old ones; every step can be repeated.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NotRequired, TypedDict

from pymongo import ReplaceOne

from bucketline.db.mongo import Collection, Database, Index
from bucketline.db.outbox_store import OutboxDocument, OutboxEntry, OutboxStore


class ObjectDeletionDocument(TypedDict):
    """``_id`` is the object's id, ``revision`` the revision that was read.

    ``carried`` are unpublished events of the object and ``event`` is its ``object.deleted``; together they become
    ``pending`` once the object is deleted. ``staged`` are keys of content to which nothing else refers.
    """

    _id: str
    bucket_id: str
    namespace_id: str
    revision: int
    created_at: datetime
    carried: list[OutboxDocument]
    staged: list[str]
    event: OutboxDocument
    pending: NotRequired[list[OutboxDocument]]
    pending_since: NotRequired[datetime]


INDEXES = (
    Index("age", [("created_at", 1)]),
    Index("outbox", [("pending_since", 1)], where={"pending_since": {"$exists": True}}),
)


class _DeletionOutbox(OutboxStore):
    """Deletes the whole document once its events are published."""

    async def clear(self, entries: Sequence[OutboxEntry]) -> None:
        ids = [entry.document_id for entry in entries]
        await self._collection.delete_many({"_id": {"$in": ids}, "pending_since": {"$exists": True}})


class ObjectDeletions:
    """The repository of object deletions."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[ObjectDeletionDocument] = database.collection("object_deletions")
        self.outbox = _DeletionOutbox(database.collection("object_deletions"))

    async def start(self, deletions: Sequence[ObjectDeletionDocument]) -> None:
        """Store the intents in one round trip.

        An intent for a later revision of its object replaces an earlier one whose object is not deleted yet.
        """
        await self.collection.bulk([_intent(deletion) for deletion in deletions])

    async def mark_deleted(self, object_ids: Sequence[str], at: datetime) -> list[ObjectDeletionDocument]:
        """Record that the objects are deleted, which makes their events due for publishing.

        Return the deletions, including those that another process recorded and has not published yet.
        """
        own = {"_id": {"$in": list(object_ids)}}
        await self.collection.update_many(
            {**own, "pending_since": {"$exists": False}},
            [{"$set": {"pending": {"$concatArrays": ["$carried", ["$event"]]}, "pending_since": at}}],
        )
        return await self.collection.find(own, limit=len(object_ids))

    async def find_pending(self, before: datetime, *, limit: int) -> list[ObjectDeletionDocument]:
        """Return intents from before ``before`` whose objects are not deleted yet, oldest first."""
        return await self.collection.find(
            {"created_at": {"$lt": before}, "pending_since": {"$exists": False}},
            limit=limit,
            sort=[("created_at", 1)],
        )


def _intent(deletion: ObjectDeletionDocument) -> "ReplaceOne[ObjectDeletionDocument]":
    """Return the write of an intent. If the stored intent has to stay, the ``_id`` index refuses it."""
    earlier = {"_id": deletion["_id"], "revision": {"$lt": deletion["revision"]}, "pending_since": {"$exists": False}}
    return ReplaceOne(earlier, deletion, upsert=True)
