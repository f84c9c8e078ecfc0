"""The outbox inside a document: a fact and the event that tells it are one atomic write.

``pending`` lists envelopes in the order in which they must be published; ``pending_since`` is there while the list is
not empty, so that a partial index finds the overdue at no cost for the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from pymongo import UpdateOne

from bucketline.db.mongo import Collection
from bucketline.events.cloudevents import CloudEvent


class OutboxDocument(TypedDict):
    """An envelope as stored."""

    topic: NotRequired[str]
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
    """Events that one document still owes, in order."""

    document_id: str
    envelopes: tuple[CloudEvent, ...]


def outbox_entry_of(document: Mapping[str, Any]) -> OutboxEntry:
    """What ``document`` owes as it was read."""
    return OutboxEntry(
        str(document["_id"]), tuple(CloudEvent.from_document(row) for row in document.get("pending", ()))
    )


class OutboxStore:
    """The outbox side of a collection."""

    def __init__(self, collection: Collection[Any]) -> None:
        self._collection = collection

    async def overdue(self, before: datetime, *, limit: int, without: Sequence[str] = ()) -> list[OutboxEntry]:
        """Return documents that owe events since before ``before``, oldest first, except those in ``without``."""
        where: dict[str, object] = {"pending_since": {"$lt": before}}
        if without:
            where["_id"] = {"$nin": list(without)}
        found = await self._collection.find(where, limit=limit, sort=[("pending_since", 1)], fields=["pending"])
        return [outbox_entry_of(document) for document in found]

    async def oldest(self) -> datetime | None:
        """Since when the oldest unpublished event waits."""
        found = await self._collection.find_one(
            {"pending_since": {"$exists": True}}, sort=[("pending_since", 1)], fields=["pending_since"]
        )
        return found["pending_since"] if found else None

    async def clear(self, paid: Sequence[OutboxEntry]) -> None:
        """Forgets published events. Those added meanwhile stay.

        The usual case, a document that owed just what was published, is one update for all; the rest is pulled one
        by one.
        """
        ids = [owed.document_id for owed in paid]
        events = [envelope.id for owed in paid for envelope in owed.envelopes]
        done = await self._collection.update_many(
            {"_id": {"$in": ids}, "pending": {"$size": 1}, "pending.id": {"$in": events}},
            {"$unset": {"pending": "", "pending_since": ""}},
        )
        if done < len(paid):
            await self._collection.bulk([_pull(owed) for owed in paid])


def _pull(owed: OutboxEntry) -> UpdateOne:
    published = [envelope.id for envelope in owed.envelopes]
    rest = {"$filter": {"input": "$pending", "cond": {"$not": [{"$in": ["$$this.id", published]}]}}}
    return UpdateOne(
        {"_id": owed.document_id, "pending.id": {"$in": published}},
        [
            {"$set": {"pending": rest}},
            {
                "$set": {
                    "pending": {"$cond": [{"$eq": ["$pending", []]}, "$$REMOVE", "$pending"]},
                    "pending_since": {"$cond": [{"$eq": ["$pending", []]}, "$$REMOVE", "$pending_since"]},
                }
            },
        ],
    )
