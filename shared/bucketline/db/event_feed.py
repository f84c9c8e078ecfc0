"""The stored feed of events, which clients read page by page and resume by cursor.

The events of a micro-batch are one document, so the feed costs one write for hundreds of events. Documents are ordered
by ``at``, which the server sets while it writes, and then by id.

No event is skipped although several replicas write at once. A document becomes visible shortly after its ``at``,
because the server ends a write after :data:`WRITE_SECONDS`; one that was not acknowledged is repeated with a new
``at``. Readers see only what is older than :data:`SETTLE_SECONDS`, so nothing appears behind a position that they have
passed. Both times are those of the server, so the clocks of replicas do not matter.
"""

from collections.abc import Collection as Group
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from bson import ObjectId
from bson.errors import InvalidId
from pymongo import UpdateOne

from bucketline.db.mongo import Collection, Database, Index, query_timeout

WRITE_SECONDS = 2.0
SETTLE_SECONDS = 2.5

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_INDEX = 1_000_000
_ORDER = [("at", 1), ("_id", 1)]
_SETTLED = {"$expr": {"$lt": ["$at", {"$subtract": ["$$NOW", round(SETTLE_SECONDS * 1000)]}]}}

INDEXES = (
    Index("order", [("organization_id", 1), *_ORDER]),
    Index("tail", _ORDER),
    Index("subject", [("subjects", 1), *_ORDER]),
    Index("expiry", [("expires_at", 1)], expire_after_seconds=0),
)


class FeedEvent(TypedDict):
    """One event. ``payload`` is the body that webhooks receive."""

    event_type: str
    namespace_id: str
    payload: dict[str, Any]
    trace_id: str | None


class FeedDocument(TypedDict):
    """Events of one organization. ``subjects`` are the ids of their objects, buckets and batches."""

    _id: ObjectId
    at: datetime
    organization_id: str
    subjects: list[str]
    events: list[FeedEvent]
    expires_at: datetime


@dataclass(frozen=True, order=True)
class Position:
    """The place of an event in the feed: its document, and its index there. Index -1 precedes the document's events."""

    at: datetime
    document_id: ObjectId
    index: int = -1

    @classmethod
    def of(cls, document: FeedDocument, index: int) -> "Position":
        """Return the position of an event of a document."""
        return cls(document["at"], document["_id"], index)

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Return the position that ``str`` has encoded. Raises ``ValueError`` for any other text."""
        try:
            milliseconds, document_id, index = text.split(".")
            at = _EPOCH + timedelta(milliseconds=int(milliseconds))
            return cls(at, ObjectId(document_id), int(index))
        except (InvalidId, OverflowError) as error:
            raise ValueError(str(error)) from error

    def __str__(self) -> str:
        return f"{self.milliseconds}.{self.document_id}.{self.index}"

    @property
    def milliseconds(self) -> int:
        """The time since 1970."""
        return (self.at - _EPOCH) // timedelta(milliseconds=1)


class EventFeed:
    """The repository of the feed."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[FeedDocument] = database.collection("event_feed")

    async def append(
        self, organization_id: str, events: Sequence[FeedEvent], subjects: Group[str], *, expires_at: datetime
    ) -> None:
        """Append events. An error means that they may or may not be there: append them again, with the same ids."""
        document = {
            "organization_id": organization_id,
            "subjects": sorted(subjects),
            "events": list(events),
            "expires_at": expires_at,
        }
        # Only an update can set a field to the time of the server.
        insert = UpdateOne({"_id": ObjectId()}, {"$setOnInsert": document, "$currentDate": {"at": True}}, upsert=True)
        with query_timeout(WRITE_SECONDS):
            await self.collection.bulk([insert])

    async def find_after(
        self,
        position: Position | None,
        *,
        limit: int,
        organization_id: str | None = None,
        subject: str | None = None,
    ) -> list[FeedDocument]:
        """Return the next documents in order, from the one that contains ``position``; see :class:`Position`."""
        where: dict[str, object] = dict(_SETTLED)
        if organization_id is not None:
            where["organization_id"] = organization_id
        if subject is not None:
            where["subjects"] = subject
        if position is not None:
            where["at"] = {"$gte": position.at}
            where["$or"] = [{"at": {"$gt": position.at}}, {"_id": {"$gte": position.document_id}}]
        return await self.collection.find(where, limit=limit, sort=_ORDER)

    async def end(self) -> Position:
        """Return the position after the last event that readers see, of any organization."""
        found = await self.collection.find(_SETTLED, limit=1, sort=[("at", -1), ("_id", -1)], fields=["at"])
        return Position.of(found[0], _MAX_INDEX) if found else Position(_EPOCH, ObjectId("0" * 24))
