"""Transactional outbox embedded in documents: a state change and its events are written atomically.

``pending`` lists the CloudEvents in the order in which they must be published. ``pending_since`` exists while the list
is not empty, so that a partial index finds overdue entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

from pymongo import UpdateOne

from bucketline.db.mongo import Collection
from bucketline.events.cloudevents import CloudEvent


class OutboxDocument(TypedDict):
    """A CloudEvent as stored."""

    topic: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    key: str
    data: str
    trace: dict[str, str]


@dataclass(frozen=True)
class OutboxEntry:
    """The unpublished events of one document, in order."""

    document_id: str
    events: tuple[CloudEvent, ...]


def outbox_entry_of(document: Mapping[str, Any]) -> OutboxEntry:
    """Return the outbox entry in a document."""
    return OutboxEntry(
        str(document["_id"]), tuple(CloudEvent.from_document(row) for row in document.get("pending", ()))
    )


class OutboxStore:
    """The outbox entries in the documents of one collection."""

    def __init__(self, collection: Collection[Any]) -> None:
        self._collection = collection

    async def find_overdue(self, before: datetime, *, limit: int, without: Sequence[str] = ()) -> list[OutboxEntry]:
        """Return entries that exist since before ``before``, oldest first, except of the documents ``without``."""
        where: dict[str, object] = {"pending_since": {"$lt": before}}
        if without:
            where["_id"] = {"$nin": list(without)}
        found = await self._collection.find(where, limit=limit, sort=[("pending_since", 1)], fields=["pending"])
        return [outbox_entry_of(document) for document in found]

    async def oldest_pending_since(self) -> datetime | None:
        """Return since when the oldest entry exists."""
        found = await self._collection.find_one(
            {"pending_since": {"$exists": True}}, sort=[("pending_since", 1)], fields=["pending_since"]
        )
        return found["pending_since"] if found else None

    async def clear(self, entries: Sequence[OutboxEntry]) -> None:
        """Remove published events. Events that were added to the documents in the meantime stay.

        Documents whose only event was published, which is the usual case, take one update for all of them.
        """
        ids = [entry.document_id for entry in entries]
        events = [event.id for entry in entries for event in entry.events]
        cleared = await self._collection.update_many(
            {"_id": {"$in": ids}, "pending": {"$size": 1}, "pending.id": {"$in": events}},
            {"$unset": {"pending": "", "pending_since": ""}},
        )
        if cleared < len(entries):
            await self._collection.bulk([_remove_events(entry) for entry in entries])


def _remove_events(entry: OutboxEntry) -> UpdateOne:
    published = [event.id for event in entry.events]
    remaining = {"$filter": {"input": "$pending", "cond": {"$not": [{"$in": ["$$this.id", published]}]}}}
    is_empty = {"$eq": ["$pending", []]}
    return UpdateOne(
        {"_id": entry.document_id, "pending.id": {"$in": published}},
        [
            {"$set": {"pending": remaining}},
            {
                "$set": {
                    "pending": {"$cond": [is_empty, "$$REMOVE", "$pending"]},
                    "pending_since": {"$cond": [is_empty, "$$REMOVE", "$pending_since"]},
                }
            },
        ],
    )
