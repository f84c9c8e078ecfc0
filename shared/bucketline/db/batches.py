"""Batches: written by the ingest API while they are DRAFT, and by the batcher from their submission on."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NotRequired, TypedDict
from urllib.parse import urlsplit

from pymongo import InsertOne, UpdateOne

from bucketline.db.lease_queue import LeaseFields, LeaseQueue
from bucketline.db.mongo import Database, Index
from bucketline.db.objects import ObjectDocument
from bucketline.db.outbox_store import OutboxDocument, OutboxStore
from bucketline.db.repository import Repository
from bucketline.db.work_units import Result
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.ids import derived

RetryMode = Literal["transient_only", "all"]


class FailedObject(TypedDict):
    """An entry of ``failed_objects`` of a batch."""

    object_id: str
    error: str
    error_type: Literal["transient", "permanent", "resource"]
    timestamp: datetime


def failed_row(object_id: str, result: Result | None, unknown: datetime) -> FailedObject:
    """Return the row that describes the failure of an object; ``unknown`` replaces a missing time."""
    kind = result["error_type"] if result else None
    return {
        "object_id": object_id,
        "error": (result["error"] if result else None) or "failed",
        "error_type": "transient" if kind == "transient" else "resource" if kind == "resource" else "permanent",
        "timestamp": result.get("at", unknown) if result else unknown,
    }


class CarriedTotals(TypedDict):
    """Totals of earlier runs, which a retry keeps. ``failed_objects`` is what is shown; ``failed`` is exact.

    ``documents`` includes those that a retried object keeps. ``given_back`` objects returned to DRAFT after a
    cancellation; the previous release does not count them.
    """

    finished: int
    failed: int
    documents: int
    failed_objects: list[FailedObject]
    given_back: NotRequired[int]


class WebhookCall(TypedDict):
    """The one call to a batch's ``webhook_url``; an entry of a lease queue.

    ``due_at`` is present until the call is claimed, which happens before it is made: it is made at most once. ``host``
    is the host that is called; see :func:`webhook_host`.
    """

    due_at: NotRequired[datetime]
    host: NotRequired[str]
    owner: NotRequired[str]
    called_at: NotRequired[datetime]
    status_code: NotRequired[int | None]
    error: NotRequired[str | None]


def task_of(batch_id: str) -> str:
    """Return the id of the task that shows the batch."""
    return derived("task", batch_id)


def webhook_host(url: str) -> str:
    """Return the host of the URL, empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class BatchDocument(TypedDict):
    """A batch. ``objects`` is complete and ordered; ``total`` counts it.

    ``run`` is the time of the submission in milliseconds, or one more than the previous run. A run with ``retry``
    processes the failed objects of earlier runs, and its sums are added to ``base``. ``missing`` objects were deleted
    before they were planned.
    """

    _id: str
    namespace_id: str
    bucket_id: str
    batch_name: str | None
    status: str
    objects: list[str]
    total: int
    collection_ids: list[str] | None
    dedup_strategy: Literal["skip", "replace", "force"]
    metadata: dict[str, object]
    task_id: str
    auto: bool
    created_at: datetime
    updated_at: datetime
    run: NotRequired[int]
    retry: NotRequired[RetryMode]
    base: NotRequired[CarriedTotals]
    planned: NotRequired[bool]
    processed: NotRequired[int]
    failed: NotRequired[int]
    documents_written: NotRequired[int]
    failed_objects: NotRequired[list[FailedObject]]
    missing: NotRequired[int]
    cancel_requested_at: NotRequired[datetime]
    cancel_reason: NotRequired[str | None]
    first_error: NotRequired[str | None]
    failure_reason: NotRequired[str | None]
    failure_category: NotRequired[str | None]
    webhook_url: NotRequired[str | None]
    webhook: NotRequired[WebhookCall]
    retry_count: NotRequired[int]
    last_retry_at: NotRequired[datetime]
    submitted_at: NotRequired[datetime]
    started_at: NotRequired[datetime]
    completed_at: NotRequired[datetime]
    moved_at: NotRequired[datetime]
    task_hidden: NotRequired[bool]
    pending: NotRequired[list[OutboxDocument]]
    pending_since: NotRequired[datetime]
    trace: NotRequired[dict[str, str]]


def objects_to_process(batch: BatchDocument) -> int:
    """Return the number of objects of the batch without those that were missing or returned to DRAFT."""
    base = batch.get("base")
    return batch["total"] - batch.get("missing", 0) - (base.get("given_back", 0) if base else 0)


def new_auto_batch(obj: ObjectDocument, batch_id: str) -> BatchDocument:
    """Return the batch of one ``auto_process`` object, submitted from the start, in the object's current run.

    The ingest API stores it together with the object; the batcher stores an identical one if that did not happen.
    Every field is derived from the object.
    """
    now = obj["updated_at"]
    batch: BatchDocument = {
        "_id": batch_id,
        "namespace_id": obj["namespace_id"],
        "bucket_id": obj["bucket_id"],
        "batch_name": None,
        "status": str(Status.PENDING),
        "objects": [obj["_id"]],
        "total": 1,
        "collection_ids": None,
        "dedup_strategy": "skip",
        "metadata": {},
        "task_id": task_of(batch_id),
        "auto": True,
        "run": obj["run"]["id"],
        "created_at": now,
        "submitted_at": now,
        "updated_at": now,
        "moved_at": now,
    }
    if trace := obj.get("trace"):
        batch["trace"] = trace
    return batch


_ACTIVE = [str(status) for status in BATCH_ACTIVE]

UNPLANNED = (str(Status.PENDING), str(Status.QUEUED))
"""Statuses of submitted batches that may still have to be planned."""

SUMMARY_FIELDS = tuple(
    sorted((BatchDocument.__required_keys__ | BatchDocument.__optional_keys__) - {"objects", "failed_objects"})
)
"""Every field but the two that may be long."""

INDEXES = (
    Index("listing", [("bucket_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_namespace", [("namespace_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_status", [("bucket_id", 1), ("status", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_task", [("task_id", 1)], unique=True),
    Index("active", [("moved_at", 1)], where={"status": {"$in": _ACTIVE}}),
    Index("outbox", [("pending_since", 1)], where={"pending_since": {"$exists": True}}),
    Index("webhook_due", [("webhook.due_at", 1)], where={"webhook.due_at": {"$exists": True}}),
)


class Batches(Repository[BatchDocument]):
    """The repository of batches."""

    name = "batches"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.outbox = OutboxStore(self.collection)
        self._webhooks = LeaseQueue(self.collection, LeaseFields(owner="webhook.owner", due_at="webhook.due_at"))

    async def insert(self, documents: Sequence[BatchDocument]) -> None:
        """Insert the batches that do not exist yet, in one round trip."""
        await self.collection.bulk([InsertOne(document) for document in documents])

    async def get(self, batch_id: str, *, fields: Sequence[str] | None = None) -> BatchDocument | None:
        """Return the batch."""
        return await self.get_by_id(batch_id, fields=fields)

    async def change(
        self, batch_id: str, statuses: Sequence[str], update: Mapping[str, object], **also: object
    ) -> BatchDocument | None:
        """Update the batch if its status is one of these and ``also`` holds; return the updated batch, else None."""
        return await self.collection.find_and_update(
            {"_id": batch_id, "status": {"$in": list(statuses)}, **also}, update
        )

    async def get_by_task(self, task_id: str) -> BatchDocument | None:
        """Return the batch that this task shows."""
        return await self.collection.find_one({"task_id": task_id})

    async def hide_task(self, batch_id: str) -> None:
        """Hide the task that shows the batch."""
        await self.collection.update_one({"_id": batch_id}, {"$set": {"task_hidden": True}})

    async def page_of_bucket(self, bucket_id: str, *, limit: int, fields: Sequence[str]) -> list[BatchDocument]:
        """Return any batches of the bucket."""
        return await self.collection.find({"bucket_id": bucket_id}, limit=limit, fields=fields)

    async def drafts_of_bucket(self, bucket_id: str, *, limit: int) -> list[BatchDocument]:
        """Return the bucket's drafts that have objects, oldest first, without their objects."""
        where = {"bucket_id": bucket_id, "status": str(Status.DRAFT), "total": {"$gt": 0}}
        order = [("created_at", 1), ("_id", 1)]
        return await self.collection.find(where, limit=limit, sort=order, fields=SUMMARY_FIELDS)

    async def count_empty_drafts(self, bucket_id: str, *, limit: int) -> int:
        """Return how many drafts of the bucket have no objects."""
        return await self.collection.count(
            {"bucket_id": bucket_id, "status": str(Status.DRAFT), "total": 0}, limit=limit
        )

    async def count_by_status(self, bucket_id: str) -> dict[str, int]:
        """Return how many batches of the bucket have each status."""
        rows = await self.collection.aggregate(
            [{"$match": {"bucket_id": bucket_id}}, {"$group": {"_id": "$status", "count": {"$sum": 1}}}], limit=100
        )
        return {str(row["_id"]): int(row["count"]) for row in rows}

    async def active_of_namespace(self, namespace_id: str, *, limit: int) -> list[BatchDocument]:
        """Return submitted batches of the namespace that have not finished: only their ids."""
        where = {"status": {"$in": _ACTIVE}, "namespace_id": namespace_id}
        return await self.collection.find(where, limit=limit, fields=["_id"], hint="active")

    async def first_objects(self, batch_ids: Sequence[str], count: int) -> dict[str, list[str]]:
        """Return the first ``count`` objects of each batch."""
        rows = await self.collection.aggregate(
            [
                {"$match": {"_id": {"$in": list(batch_ids)}}},
                {"$project": {"objects": {"$slice": ["$objects", count]}}},
            ],
            limit=max(1, len(batch_ids)),
        )
        return {str(row["_id"]): row["objects"] for row in rows}

    async def set_metadata(self, batch_id: str, metadata: Mapping[str, object], at: datetime) -> BatchDocument | None:
        """Replace the metadata and return the batch."""
        return await self.collection.find_and_update(
            {"_id": batch_id}, {"$set": {"metadata": metadata, "updated_at": at}}
        )

    async def delete_finished(self, batch_id: str) -> bool:
        """Delete the batch unless it is active or has unpublished events; return whether it was deleted."""
        where = {"_id": batch_id, "status": {"$nin": _ACTIVE}, "pending_since": {"$exists": False}}
        return await self.collection.delete_one(where)

    async def touch(self, batch_ids: Sequence[str], at: datetime) -> None:
        """Move batches to the end of the reconciler's order."""
        await self.collection.update_many({"_id": {"$in": list(batch_ids)}}, {"$set": {"moved_at": at}})

    async def update_unplanned(
        self, batch_ids: Sequence[str], fields: Mapping[str, object], *, run: int | None = None
    ) -> None:
        """Set fields of batches that are submitted and not planned; with ``run`` only in that run."""
        where: dict[str, object] = {"_id": {"$in": list(batch_ids)}, "status": {"$in": UNPLANNED}}
        if run is not None:
            where["run"] = run
        await self.collection.update_many(where, {"$set": fields})

    async def touch_unplanned(self, batch_id: str, run: int, at: datetime) -> bool:
        """Record that planning proceeds; return whether the batch is still to be planned in this run."""
        where = {
            "_id": batch_id,
            "run": run,
            "status": {"$in": UNPLANNED},
            "cancel_requested_at": {"$exists": False},
        }
        return await self.collection.update_one(where, {"$set": {"moved_at": at}})

    async def mark_planned(self, batch_id: str, run: int, at: datetime) -> None:
        """Record that nothing of this run remains to be planned."""
        await self.collection.update_one({"_id": batch_id, "run": run}, {"$set": {"planned": True, "moved_at": at}})

    async def record_progress(
        self,
        batch_id: str,
        run: int,
        totals: Mapping[str, int],
        fields: Mapping[str, object],
        at: datetime,
    ) -> None:
        """Store totals of an active batch, which never decrease, and set further fields."""
        await self.collection.update_one(
            {"_id": batch_id, "run": run, "status": {"$in": _ACTIVE}},
            {"$set": fields, "$max": {**totals, "moved_at": at, "updated_at": at}},
        )

    async def complete(
        self,
        completions: Sequence[tuple[BatchDocument, Mapping[str, object], Mapping[str, object]]],
        at: datetime,
    ) -> int:
        """Finish active batches, each with its fields and its event, in one round trip; return how many finished."""
        writes = [
            UpdateOne(
                {"_id": batch["_id"], "status": {"$in": _ACTIVE}, "run": batch.get("run", 1)},
                {"$set": fields, "$push": {"pending": event}, "$min": {"pending_since": at}},
            )
            for batch, fields, event in completions
        ]
        return (await self.collection.bulk(writes)).modified

    async def find_stalled(self, before: datetime, *, limit: int) -> list[BatchDocument]:
        """Return submitted batches without progress since ``before``, without their objects."""
        return await self.collection.find(
            {"status": {"$in": _ACTIVE}, "moved_at": {"$lt": before}},
            limit=limit,
            sort=[("moved_at", 1)],
            fields=SUMMARY_FIELDS,
        )

    async def webhooks_due(self, now: datetime, *, limit: int, without: Sequence[str] = ()) -> list[BatchDocument]:
        """Return batches whose webhook is due, the longest due first, without those of the hosts in ``without``."""
        where = {"webhook.host": {"$nin": list(without)}}
        return await self._webhooks.find_due(now, limit=limit, where=where, fields=SUMMARY_FIELDS)

    async def claim_webhooks(self, batches: Sequence[BatchDocument], owner: str, now: datetime) -> set[str]:
        """Claim the calls permanently and return the batches whose webhook the caller must call."""
        return await self._webhooks.claim_many(batches, owner, until=None, fields={"webhook.called_at": now})

    async def record_webhook_result(
        self, batch_id: str, *, status_code: int | None = None, error: str | None = None
    ) -> None:
        """Store the result of a call."""
        result = {"webhook.status_code": status_code} if error is None else {"webhook.error": error}
        await self.collection.update_one({"_id": batch_id}, {"$set": result})
