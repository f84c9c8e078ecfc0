"""Removals: the durable intent to delete one object, kept until everything that hangs on it is gone and said.

Written before anything is deleted. Whoever finds one that is old finishes it: each step may be done again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NotRequired, TypedDict

from pymongo import ReplaceOne

from bucketline.db.mongo import Collection, Database, Index
from bucketline.db.outbox_store import OutboxDocument, OutboxEntry, OutboxStore


class ObjectDeletionDocument(TypedDict):
    """``_id`` is the object's id, ``revision`` the one that all of this was read from.

    ``carried`` are events that the object still owed, ``event`` is its ``object.deleted``; together they become
    ``pending`` once the object is gone. ``staged`` are keys of content that nobody else refers to.
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
    """A removal whose events are published has done its duty."""

    async def clear(self, paid: Sequence[OutboxEntry]) -> None:
        ids = [owed.document_id for owed in paid]
        await self._collection.delete_many({"_id": {"$in": ids}, "pending_since": {"$exists": True}})


class ObjectDeletions:
    """The repository of removals."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[ObjectDeletionDocument] = database.collection("object_deletions")
        self.outbox = _DeletionOutbox(database.collection("object_deletions"))

    async def start(self, removals: Sequence[ObjectDeletionDocument]) -> None:
        """Writes the intents in one round trip.

        One that was read from a later revision of its object replaces an earlier one, unless that was carried out.
        """
        await self.collection.bulk([_intent(removal) for removal in removals])

    async def mark_deleted(self, object_ids: Sequence[str], at: datetime) -> list[ObjectDeletionDocument]:
        """The objects are deleted: from here on their events are owed.

        Returns what is owed, also where somebody else was first and has not published yet.
        """
        own = {"_id": {"$in": list(object_ids)}}
        await self.collection.update_many(
            {**own, "pending_since": {"$exists": False}},
            [{"$set": {"pending": {"$concatArrays": ["$carried", ["$event"]]}, "pending_since": at}}],
        )
        return await self.collection.find(own, limit=len(object_ids))

    async def find_pending(self, before: datetime, *, limit: int) -> list[ObjectDeletionDocument]:
        """Intents that were written before ``before`` and not carried out, oldest first."""
        return await self.collection.find(
            {"created_at": {"$lt": before}, "pending_since": {"$exists": False}},
            limit=limit,
            sort=[("created_at", 1)],
        )


def _intent(removal: ObjectDeletionDocument) -> "ReplaceOne[ObjectDeletionDocument]":
    """Refused by the ``_id`` index, as an insert, where the intent that is there is to stay."""
    earlier = {"_id": removal["_id"], "revision": {"$lt": removal["revision"]}, "pending_since": {"$exists": False}}
    return ReplaceOne(earlier, removal, upsert=True)
