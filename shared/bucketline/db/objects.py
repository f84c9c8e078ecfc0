"""Objects: the data of producers, their processing status, and their unpublished events.

Writers, by field: the ingest API writes what the producer sent, ``status``/``error``/``run`` (only forward, by
compare-and-set) and ``pending``; dedup writes ``blobs[].details/storage/state``, ``mirror``, by compare-and-set on
``blobs_revision``.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NotRequired, TypedDict

import bson
import orjson
from pymongo import DeleteOne, InsertOne, UpdateOne

from bucketline.db.mongo import Collection, Database, Index
from bucketline.db.outbox_store import OutboxDocument, OutboxStore
from bucketline.db.repository import Repository
from bucketline.domain.status import OBJECT_IN_FLIGHT, RANK_FINAL, RANK_NEW, Status
from bucketline.events.cloudevents import CloudEvent
from bucketline.events.models import ObjectStatusChanged

SOFT_DELETED = "soft_deleted_objects"

BlobState = Literal["pending", "stored", "linked", "none", "failed"]


class Details(TypedDict):
    """Details of the bytes of a blob. ``hash`` is ``sha256:<hex>``; ``charset`` was declared with the content."""

    filename: str | None
    size_bytes: int
    mime_type: str
    hash: str
    charset: NotRequired[str]


class Storage(TypedDict):
    """Where the bytes of a blob are: ``s3://bucket/key``, and whether they were stored already."""

    url: str
    key: str
    duplicate: bool


class BlobDocument(TypedDict):
    """One blob of an object. ``source`` (how to get the bytes) is dropped once the blob is stored.

    For inline content and uploads, ``source`` also has ``sha256``, ``size``, ``mime_type`` and ``filename``, which
    responses show while ``details`` is None.

    States: *pending* (to be mirrored), *stored* (in our S3), *linked* (not copied), *none* (data
    without bytes, kept as ``properties``), *failed*.
    """

    blob_id: str
    property: str
    type: str
    key_prefix: str | None
    properties: dict[str, object]
    source: dict[str, object] | None
    canonicalize: bool
    force: bool
    checksum: str | None
    details: Details | None
    storage: Storage | None
    state: BlobState
    error: str | None


class Run(TypedDict):
    """The position of the object in its latest run; see :mod:`bucketline.domain.status`."""

    id: int
    rank: int


class Mirror(TypedDict):
    """The mirroring state. ``due_at`` exists while the object has to be mirrored: from then on it may be claimed.

    ``claim`` is the token of the current attempt, until ``due_at``. ``lane`` is *large* once content turned out to need
    a long transfer. ``postponed`` counts attempts that ended because storage was unavailable. A source that stayed
    unavailable makes the state *failed* and ``dead_letter_event_id`` the id of the event whose replay
    starts over. ``duplicate_of`` is the older object of the bucket whose content is the same, under
    ``skip_duplicates``.
    """

    state: Literal["pending", "done", "failed"]
    attempts: int
    due_at: NotRequired[datetime]
    error: NotRequired[str | None]
    at: NotRequired[datetime]
    claim: NotRequired[str]
    lane: NotRequired[Literal["large"]]
    postponed: NotRequired[int]
    dead_letter_event_id: NotRequired[str]
    duplicate_of: NotRequired[str]


class ObjectDocument(TypedDict):
    """An object as stored. ``custom`` holds the producer's root fields; ``warnings`` are those of its latest run.

    ``idempotency_keys`` are those of the latest :data:`MAX_IDEMPOTENCY_KEYS` requests that created or changed it.
    """

    _id: str
    namespace_id: str
    bucket_id: str
    key_prefix: str | None
    blobs: list[BlobDocument]
    custom: dict[str, object]
    edges: NotRequired[list[dict[str, object]]]
    status: str
    error: str | None
    created_at: datetime
    updated_at: datetime
    revision: int
    blobs_revision: int
    run: Run
    mirror: Mirror
    skip_duplicates: bool
    auto_process: bool
    batch_id: NotRequired[str | None]
    moved_at: NotRequired[datetime]
    document_count: NotRequired[int]
    warnings: NotRequired[list[str]]
    unique_key: NotRequired[str]
    idempotency_keys: NotRequired[list[str]]
    content_key: NotRequired[str]
    pending: NotRequired[list[OutboxDocument]]
    pending_since: NotRequired[datetime]
    trace: NotRequired[dict[str, str]]


INDEXES = (
    Index("listing", [("bucket_id", 1), ("created_at", 1), ("_id", 1)]),
    Index("by_status", [("bucket_id", 1), ("status", 1), ("created_at", 1), ("_id", 1)]),
    Index("by_change", [("bucket_id", 1), ("updated_at", 1), ("_id", 1)]),
    Index(
        "unique_key",
        [("bucket_id", 1), ("unique_key", 1)],
        unique=True,
        where={"unique_key": {"$exists": True}},
    ),
    Index(
        "idempotency_key",
        [("bucket_id", 1), ("idempotency_keys", 1)],
        unique=True,
        where={"idempotency_keys": {"$exists": True}},
    ),
    Index("by_content", [("blobs.details.hash", 1)], where={"blobs.details.hash": {"$exists": True}}),
    Index(
        "content_key",
        [("bucket_id", 1), ("content_key", 1), ("_id", 1)],
        where={"content_key": {"$exists": True}},
    ),
    Index("outbox", [("pending_since", 1)], where={"pending_since": {"$exists": True}}),
    Index("mirror_queue", [("mirror.lane", 1), ("mirror.due_at", 1)], where={"mirror.due_at": {"$exists": True}}),
    Index("in_flight", [("moved_at", 1), ("_id", 1)], where={"status": {"$in": [str(s) for s in OBJECT_IN_FLIGHT]}}),
    # New drafts only: a cancellation may return a million objects to DRAFT, which must not be scanned with them.
    Index(
        "new_drafts",
        [("bucket_id", 1), ("created_at", 1), ("_id", 1)],
        where={"status": str(Status.DRAFT), "run.rank": RANK_NEW},
    ),
    Index("by_namespace", [("namespace_id", 1), ("_id", 1)]),
)


SOFT_DELETED_KEPT = timedelta(days=30)
"""How long the record of a soft-deleted object stays."""

SOFT_DELETED_INDEXES = (
    Index("by_bucket", [("bucket_id", 1)]),
    Index("expiry", [("deletion.at", 1)], expire_after_seconds=int(SOFT_DELETED_KEPT.total_seconds())),
)


class Deletion(TypedDict):
    """Who soft-deleted an object, when and why."""

    at: datetime
    key_id: str
    reason: str
    lifecycle_state: str
    source: str


MAX_IDEMPOTENCY_KEYS = 20
MAX_OBJECT_BYTES = 12 * 1024 * 1024
"""Maximum size of an object from a producer; the rest of the 16 MiB of a MongoDB document is for later additions."""


def stored_size(document: ObjectDocument) -> int:
    """Return the bytes of the document as MongoDB counts them."""
    return len(bson.encode(document))


MAX_EVENT_FIELDS_BYTES = 64 * 1024
"""Custom fields above this size are left out of events."""


def event_state(document: ObjectDocument) -> dict[str, Any]:
    """Return the fields of an ``ObjectStateEvent``."""
    is_large = len(orjson.dumps(document["custom"])) > MAX_EVENT_FIELDS_BYTES
    return {
        "key_prefix": document["key_prefix"],
        "status": Status(document["status"]),
        "run_id": document["run"]["id"],
        "sequence": document["run"]["rank"],
        "error": document["error"],
        "fields": {} if is_large else document["custom"],
        "fields_omitted": is_large,
    }


class Objects(Repository[ObjectDocument]):
    """The repository of objects."""

    name = "objects"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.outbox = OutboxStore(database.collection("objects"))
        self.soft_deleted: Collection[ObjectDocument] = database.collection(SOFT_DELETED)

    async def insert(self, documents: Sequence[ObjectDocument]) -> Mapping[int, str]:
        """Insert objects in one round trip; return the index names of refused ones, by position in ``documents``."""
        return (await self.collection.bulk([InsertOne(document) for document in documents])).refused

    async def get(self, bucket_id: str, object_id: str) -> ObjectDocument | None:
        """Return the object of the bucket."""
        return await self.collection.find_one({"_id": object_id, "bucket_id": bucket_id})

    async def by_unique_key(self, bucket_id: str, unique_key: str) -> ObjectDocument | None:
        """Return the object of the bucket with this unique key."""
        return await self.collection.find_one({"bucket_id": bucket_id, "unique_key": unique_key})

    async def by_idempotency_key(self, bucket_id: str, key: str) -> ObjectDocument | None:
        """Return the object of the bucket that a request with this idempotency key created or changed."""
        return await self.collection.find_one({"bucket_id": bucket_id, "idempotency_keys": key})

    async def by_content_key(self, bucket_id: str, key: str) -> ObjectDocument | None:
        """Return the oldest object of the bucket with exactly this content."""
        return await self.collection.find_one({"bucket_id": bucket_id, "content_key": key}, sort=[("_id", 1)])

    async def change(
        self,
        object_id: str,
        revision: int,
        update: Mapping[str, object],
        event: CloudEvent,
        at: datetime,
        *,
        run: int | None = None,
    ) -> ObjectDocument | None:
        """Apply a change of the producer, with its event, if the object still has this ``revision``.

        ``update`` holds MongoDB operators. With ``run`` the object must also still be in that run, which statuses move
        on without a revision. Return the object with all its unpublished events, in order, or None when the
        revision is another (read again and retry). Raise ``DuplicateKey`` when the change takes a used key.
        """
        merged: dict[str, dict[str, object]] = {
            op: dict(fields) for op, fields in update.items() if isinstance(fields, Mapping)
        }
        merged.setdefault("$set", {}).update({"updated_at": at, "revision": revision + 1})
        merged.setdefault("$push", {})["pending"] = event.to_document()
        merged.setdefault("$min", {})["pending_since"] = at
        where: dict[str, object] = {"_id": object_id, "revision": revision}
        if run is not None:
            where["run.id"] = run
        return await self.collection.find_and_update(where, merged)

    async def apply_statuses(self, events: Sequence[ObjectStatusChanged]) -> int:
        """Move objects forward in one round trip and return how many moved. Duplicate and late events do nothing.

        Only the latest of several events of one object is written, with the same result.
        """
        latest: dict[str, ObjectStatusChanged] = {}
        for event in events:
            known = latest.get(event.object_id)
            if known is None or (event.run_id, event.sequence) > (known.run_id, known.sequence):
                latest[event.object_id] = event
        outcome = await self.collection.bulk([_status_write(event) for event in latest.values()])
        return outcome.modified

    async def find_stalled(
        self, before: datetime, *, limit: int, fields: Sequence[str], after: tuple[datetime, str] | None = None
    ) -> list[ObjectDocument]:
        """Return objects in flight whose status has not changed since ``before``, oldest change first.

        ``after`` is ``moved_at`` and id of the last object that was read. Only ``fields`` and ``moved_at`` are read: a
        page of whole objects may have gigabytes.
        """
        where: dict[str, object] = {
            "status": {"$in": [str(status) for status in OBJECT_IN_FLIGHT]},
            "moved_at": {"$lt": before},
        }
        if after is not None:
            moment, object_id = after
            where["moved_at"] = {"$gte": moment, "$lt": before}
            where["$or"] = [{"moved_at": {"$gt": moment}}, {"_id": {"$gt": object_id}}]
        order = [("moved_at", 1), ("_id", 1)]
        return await self.collection.find(where, limit=limit, sort=order, fields=[*fields, "moved_at"])

    async def existing_in_bucket(self, bucket_id: str, object_ids: Sequence[str]) -> set[str]:
        """Return which of these objects are in the bucket."""
        where = {"_id": {"$in": list(object_ids)}, "bucket_id": bucket_id}
        return {row["_id"] for row in await self.collection.find(where, limit=len(object_ids), fields=["_id"])}

    async def page_of_bucket(self, bucket_id: str, *, limit: int) -> list[ObjectDocument]:
        """Return any objects of the bucket."""
        return await self.collection.find({"bucket_id": bucket_id}, limit=limit)

    async def document_sizes(self, object_ids: Sequence[str]) -> dict[str, int]:
        """Return the size of each object's document in bytes."""
        rows = await self.collection.aggregate(
            [{"$match": {"_id": {"$in": list(object_ids)}}}, {"$project": {"size": {"$bsonSize": "$$ROOT"}}}],
            limit=max(1, len(object_ids)),
        )
        return {str(row["_id"]): int(row["size"]) for row in rows}

    async def delete_unchanged(self, objects: Sequence[ObjectDocument]) -> int:
        """Delete objects that still have the revision that was read, in one round trip; return how many."""
        deletions = [DeleteOne({"_id": obj["_id"], "revision": obj["revision"]}) for obj in objects]
        return (await self.collection.bulk(deletions)).deleted

    async def purge_soft_deleted(self, bucket_id: str) -> None:
        """Delete the retained copies of the bucket's soft-deleted objects."""
        await self.soft_deleted.delete_many({"bucket_id": bucket_id})

    async def retain(self, bucket_id: str, object_ids: Sequence[str], deletion: Deletion) -> None:
        """Copy objects that are about to be deleted to the soft-deleted ones, within the server.

        No service reads the copies; operators use them to inspect or restore deleted objects.
        """
        pipeline: list[Mapping[str, object]] = [
            {"$match": {"_id": {"$in": list(object_ids)}, "bucket_id": bucket_id}},
            {"$project": {"pending": 0, "pending_since": 0}},
            {"$set": {"deletion": {"$literal": deletion}}},
            {"$merge": {"into": SOFT_DELETED, "whenMatched": "replace"}},
        ]
        await self.collection.aggregate(pipeline, limit=1)

    async def refers_to(self, sha256: str) -> bool:
        """Return whether an object refers to the content with this hash (hex)."""
        return await self.collection.find_one(_refers_to(sha256), fields=["_id"]) is not None

    async def count_references(self, sha256: str) -> int:
        """Return how many objects refer to the content with this hash (hex)."""
        return await self.collection.count(_refers_to(sha256))

    async def created_since(
        self, bucket_id: str, since: datetime, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[ObjectDocument]:
        """Return the bucket's objects created at ``since`` or later, oldest first.

        ``after`` is ``created_at`` and id of the last object that was read.
        """
        where = _created_since(bucket_id, since, after)
        order = [("created_at", 1), ("_id", 1)]
        return await self.collection.find(where, limit=limit, sort=order, hint="listing")

    async def count_created_since(
        self, bucket_id: str, since: datetime, *, after: tuple[datetime, str] | None, limit: int
    ) -> int:
        """Return how many objects :meth:`created_since` returns in all, at most ``limit``."""
        return await self.collection.count(_created_since(bucket_id, since, after), limit=limit)

    async def touch(self, object_ids: Sequence[str], at: datetime) -> None:
        """Move stalled objects to the end of the reconciler's order."""
        await self.collection.update_many({"_id": {"$in": list(object_ids)}}, {"$max": {"moved_at": at}})


def _refers_to(sha256: str) -> dict[str, object]:
    return {"blobs.details.hash": f"sha256:{sha256}"}


def _created_since(bucket_id: str, since: datetime, after: tuple[datetime, str] | None) -> dict[str, object]:
    where: dict[str, object] = {"bucket_id": bucket_id, "created_at": {"$gte": since}}
    if after is not None and after[0] >= since:
        where["created_at"] = {"$gte": after[0]}
        where["$or"] = [{"created_at": {"$gt": after[0]}}, {"_id": {"$gt": after[1]}}]
    return where


def _status_write(event: ObjectStatusChanged) -> UpdateOne:
    changes: dict[str, object] = {
        "status": str(event.status),
        "error": event.error,
        "run": {"id": event.run_id, "rank": event.sequence},
        "moved_at": event.occurred_at,
        "updated_at": event.occurred_at,
    }
    if event.batch_id is not None:
        changes["batch_id"] = event.batch_id
    if event.sequence == RANK_FINAL and event.status is not Status.DRAFT:
        changes["document_count"] = event.documents_total
    if event.sequence == RANK_FINAL:
        changes["warnings"] = event.warnings
    return UpdateOne(
        {
            "_id": event.object_id,
            "$or": [
                {"run.id": {"$lt": event.run_id}},
                {"run.id": event.run_id, "run.rank": {"$lt": event.sequence}},
            ],
        },
        {"$set": changes},
    )
