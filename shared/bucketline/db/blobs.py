"""Records of stored content, one per hash, shared by writers and the garbage collector.

A writer touches the record (:meth:`Blobs.claim`) or creates it (:meth:`Blobs.record`) *before* it stores a reference to
the content. The garbage collector deletes only records that have not been touched for at least :data:`MIN_GRACE`, by
compare-and-set on the time of the touch. A reference that is written within a few minutes of the touch is therefore
seen by the collector, or its writer knows that the content is being deleted.

Order of writes: content, record, reference. Order of deletion: mark the record, look for references again, delete the
content, delete the record.
"""

from collections.abc import Collection as Group
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NotRequired, TypedDict

from pymongo import UpdateOne

from bucketline.db.mongo import Index
from bucketline.db.repository import Repository

MIN_GRACE = timedelta(hours=1)
"""Content younger than this, counted from its last touch, is never collected."""

FRESH = timedelta(minutes=15)
"""A record touched this recently is not touched again: references are written long before the grace period ends."""

STAGED_INLINE = "staging/inline"
"""Prefix of inline content that is too large for a document, until it is mirrored.

Keys are ``staging/inline/<object_id>/<blob_id>``."""


class BlobRecord(TypedDict):
    """Stored content. ``_id`` is its SHA-256 in hex.

    ``touched_at`` is updated when an object starts to refer to the content. ``mime_type`` and ``charset`` come from the
    first object with the content; later objects may declare others.

    In the state *deleting* no new reference is allowed, and the bytes may be deleted until ``deleting_until``. After
    that time the garbage collector has given up, and the content may be stored again.
    """

    _id: str
    key: str
    size_bytes: int
    mime_type: str
    created_at: datetime
    touched_at: datetime
    state: Literal["live", "deleting"]
    charset: NotRequired[str]
    deleting_until: NotRequired[datetime]
    collector: NotRequired[str]


INDEXES = (
    Index("age", [("touched_at", 1), ("_id", 1)]),
    Index("leaving", [("deleting_until", 1)], where={"deleting_until": {"$exists": True}}),
)


@dataclass(frozen=True, slots=True)
class NewContent:
    """Content that has just been stored under its hash."""

    sha256: str
    size_bytes: int
    mime_type: str
    charset: str | None = None


@dataclass(frozen=True)
class Claimed:
    """Content that may be referred to, by hash; content in ``leaving`` is being deleted; try again later."""

    held: Mapping[str, BlobRecord]
    leaving: frozenset[str] = field(default=frozenset())


class Blobs(Repository[BlobRecord]):
    """The repository of stored content."""

    name = "blobs"

    async def claim(self, hashes: Group[str], now: datetime) -> Claimed:
        """Return which of these hashes (hex) are stored and may be referred to within the next minutes.

        Takes one read, and one write for content that was not touched recently. Content that is neither held nor
        leaving has to be stored and then recorded.
        """
        if not hashes:
            return Claimed({})
        found = await self.collection.find({"_id": {"$in": list(hashes)}}, limit=len(hashes))
        held = {record["_id"]: record for record in found if record["state"] == "live"}
        leaving = {r["_id"] for r in found if r["state"] == "deleting" and r.get("deleting_until", now) >= now}
        stale = [sha256 for sha256, record in held.items() if record["touched_at"] < now - FRESH]
        if stale:
            lost = await self._touch(stale, now)
            leaving |= lost
            for sha256 in lost:
                del held[sha256]
        return Claimed(held, frozenset(leaving))

    async def record(self, contents: Sequence[NewContent], now: datetime) -> frozenset[str]:
        """Create or renew the records of content that was just stored; return the hashes that are being deleted.

        Nothing may refer to those: their bytes have to be stored again later.
        """
        rows = list({content.sha256: content for content in contents}.values())
        for _ in range(2):
            # The later of two concurrent inserts is refused too; the second attempt finds the record of the other.
            outcome = await self.collection.bulk([_renewal(content, now) for content in rows])
            rows = [rows[index] for index in outcome.refused]
        return frozenset(content.sha256 for content in rows)

    async def known(self, hashes: Group[str]) -> set[str]:
        """Return those of the hashes that have a record."""
        return set(await self.get_many(hashes, fields=["_id"]))

    async def unused_since(
        self, before: datetime, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[BlobRecord]:
        """Return live records that were last touched before ``before``, oldest first.

        ``after`` is ``touched_at`` and id of the last record that was read.
        """
        where: dict[str, object] = {"state": "live", "touched_at": {"$lt": before}}
        if after is not None:
            touched_at, sha256 = after
            where["$or"] = [{"touched_at": {"$gt": touched_at}}, {"touched_at": touched_at, "_id": {"$gt": sha256}}]
            where["touched_at"] = {"$gte": touched_at, "$lt": before}
        return await self.collection.find(where, limit=limit, sort=[("touched_at", 1), ("_id", 1)])

    async def abandoned(self, now: datetime, *, limit: int) -> list[BlobRecord]:
        """Return records whose collector has marked them and has not finished in time."""
        return await self.collection.find({"deleting_until": {"$lt": now}}, limit=limit)

    async def mark_deleting(
        self, records: Sequence[BlobRecord], *, until: datetime, collector: str
    ) -> list[BlobRecord]:
        """Mark those of the records that have not changed since they were read, and return them."""
        marks = [
            UpdateOne(
                {
                    "_id": record["_id"],
                    "state": record["state"],
                    "touched_at": record["touched_at"],
                    "deleting_until": record.get("deleting_until"),
                },
                {"$set": {"state": "deleting", "deleting_until": until, "collector": collector}},
            )
            for record in records
        ]
        await self.collection.bulk(marks)
        where = _marked((record["_id"] for record in records), collector)
        return await self.collection.find(where, limit=len(records))

    async def cancel_deletion(self, hashes: Group[str], collector: str) -> None:
        """Make records live again that this collector has marked."""
        update = {"$set": {"state": "live"}, "$unset": {"deleting_until": "", "collector": ""}}
        await self.collection.update_many(_marked(hashes, collector), update)

    async def finish_deletion(self, hashes: Group[str], collector: str) -> None:
        """Delete records that this collector has marked."""
        await self.collection.delete_many(_marked(hashes, collector))

    async def _touch(self, hashes: Sequence[str], now: datetime) -> set[str]:
        """Touch live records; return the hashes of those that are not live."""
        await self.collection.update_many(
            {"_id": {"$in": list(hashes)}, "state": "live"}, {"$max": {"touched_at": now}}
        )
        rows = await self.collection.find(
            {"_id": {"$in": list(hashes)}, "state": "live"}, limit=len(hashes), fields=["_id"]
        )
        return set(hashes) - {row["_id"] for row in rows}


class DeploymentDocument(TypedDict):
    """The id of this deployment; ``_id`` is always ``bucket``."""

    _id: str
    name: str


class Deployments(Repository[DeploymentDocument]):
    """The id of this deployment. Its bucket contains the same id: see :mod:`bucketline.admin.gc`."""

    name = "deployment_info"

    async def current_id(self) -> str | None:
        """Return the id; None before the first garbage collection."""
        document = await self.get_by_id("bucket")
        return document and document["name"]

    async def ensure_id(self, new_id: str) -> str:
        """Store ``new_id`` unless there is an id, and return the id that is stored."""
        update = {"$setOnInsert": {"name": new_id}}
        document = await self.collection.find_and_update({"_id": "bucket"}, update, upsert=True)
        return document["name"] if document else new_id


def _marked(hashes: Iterable[str], collector: str) -> dict[str, object]:
    return {"_id": {"$in": list(hashes)}, "state": "deleting", "collector": collector}


def blob_key(sha256: str) -> str:
    """Return the key of content with this hash (hex): ``blobs/sha256/ab/cd/<hex>``."""
    return f"blobs/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def _renewal(content: NewContent, now: datetime) -> UpdateOne:
    """Return the write of a record. The ``_id`` index refuses it while the content is being deleted."""
    first = {
        "key": blob_key(content.sha256),
        "size_bytes": content.size_bytes,
        "mime_type": content.mime_type,
        "created_at": now,
        **({"charset": content.charset} if content.charset is not None else {}),
    }
    return UpdateOne(
        {"_id": content.sha256, "$or": [{"state": "live"}, {"deleting_until": {"$lt": now}}]},
        {
            "$set": {"state": "live"},
            "$unset": {"deleting_until": "", "collector": ""},
            "$setOnInsert": first,
            "$max": {"touched_at": now},
        },
        upsert=True,
    )
