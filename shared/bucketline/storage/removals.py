"""Removals: the durable intent to delete one object, kept until everything that hangs on it is gone and said.

Written before anything is deleted. Whoever finds one that is old finishes it: each step may be done again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NotRequired, TypedDict

from pymongo import InsertOne

from bucketline.storage.mongo import Collection, Database, DuplicateKey, Index
from bucketline.storage.pending import Owed, PendingDocument, PendingStore


class RemovalDocument(TypedDict):
    """``_id`` is the object's id.

    ``carried`` are events that the object still owed, ``event`` is its ``object.deleted``; together they become
    ``pending`` once the object is gone. ``staged`` are keys of content that nobody else refers to.
    """

    _id: str
    bucket_id: str
    namespace_id: str
    created_at: datetime
    carried: list[PendingDocument]
    staged: list[str]
    event: PendingDocument
    pending: NotRequired[list[PendingDocument]]
    pending_since: NotRequired[datetime]


INDEXES = (
    Index("age", [("created_at", 1)]),
    Index("outbox", [("pending_since", 1)], where={"pending_since": {"$exists": True}}),
)


class _RemovalOutbox(PendingStore):
    """A removal whose events are published has done its duty."""

    async def clear(self, paid: Sequence[Owed]) -> None:
        ids = [owed.document_id for owed in paid]
        await self._collection.delete_many({"_id": {"$in": ids}, "pending_since": {"$exists": True}})


class Removals:
    """The repository of removals."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[RemovalDocument] = database.collection("removals")
        self.outbox = _RemovalOutbox(database.collection("removals"))

    async def begin(self, removal: RemovalDocument) -> None:
        """Writes the intent; one that is there already stays as it is."""
        try:
            await self.collection.insert(removal)
        except DuplicateKey:
            return

    async def begin_many(self, removals: Sequence[RemovalDocument]) -> None:
        """The same for many, in one round trip."""
        await self.collection.bulk([InsertOne(removal) for removal in removals])

    async def gone_many(self, object_ids: Sequence[str], at: datetime) -> list[RemovalDocument]:
        """:meth:`gone` for many; what they owe, also where somebody else was first and has not published yet."""
        own = {"_id": {"$in": list(object_ids)}}
        await self.collection.update_many(
            {**own, "pending_since": {"$exists": False}},
            [{"$set": {"pending": {"$concatArrays": ["$carried", ["$event"]]}, "pending_since": at}}],
        )
        return await self.collection.find(own, limit=len(object_ids))

    async def carry(self, object_id: str, carried: Sequence[PendingDocument], staged: Sequence[str]) -> None:
        """The object was changed after the intent was written: what it leaves behind is this."""
        await self.collection.update_one(
            {"_id": object_id, "pending_since": {"$exists": False}},
            {"$set": {"carried": list(carried), "staged": list(staged)}},
        )

    async def gone(self, object_id: str, at: datetime) -> RemovalDocument | None:
        """Everything is deleted: from here on the events are owed. None when somebody else was first."""
        return await self.collection.find_and_update(
            {"_id": object_id, "pending_since": {"$exists": False}},
            [{"$set": {"pending": {"$concatArrays": ["$carried", ["$event"]]}, "pending_since": at}}],
        )

    async def unfinished(self, before: datetime, *, limit: int) -> list[RemovalDocument]:
        """Intents that were written before ``before`` and not carried out, oldest first."""
        return await self.collection.find(
            {"created_at": {"$lt": before}, "pending_since": {"$exists": False}},
            limit=limit,
            sort=[("created_at", 1)],
        )
