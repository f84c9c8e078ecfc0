"""Repairs what a crash or a lost event left behind: object statuses, unfinished deletions, overdue uploads.

Every step is idempotent and looks at a bounded number of records, so that replicas may run it at the same time.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from bucketline.db.batches import BatchDocument
from bucketline.db.objects import ObjectDocument
from bucketline.db.uploads import DELETED, UploadDocument
from bucketline.db.work_units import WorkUnitDocument, items_filter
from bucketline.domain.status import BATCH_ACTIVE, RANK_FINAL, Status
from bucketline.errors import BucketlineError
from bucketline.events.models import ObjectStatusChanged
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import SWEPT
from bucketline.periodic import PeriodicTasks
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.create import submit_auto_batches
from bucketline_ingest_api.objects.deletion import UNUSED_FIELDS, delete_objects, finish_deletions

log = get_logger(__name__)

MAX_UNITS = 2000
OBJECT_FIELDS = ("bucket_id", "namespace_id", "revision", "run", "batch_id", "auto_process", "updated_at", "trace")

UPLOAD_RETENTION = timedelta(days=30)
"""How long the record of a failed upload is kept."""
UPLOAD_EXPIRED = "not confirmed before it expired"
PROCESSING_RECHECK = timedelta(minutes=5)


def start(container: Container, background: PeriodicTasks) -> None:
    """Run the reconcilers of this service periodically."""
    interval = container.reconcile.interval_seconds
    background.every(interval, "reconcile deletions", lambda: reconcile_deletions(container))
    background.every(interval, "reconcile objects", ObjectReconciler(container).reconcile_page)
    background.every(interval, "reconcile uploads", lambda: reconcile_uploads(container))


class ObjectReconciler:
    """Repairs objects whose batch has finished but whose status event was lost with the bus.

    The status is derived from the work units and applied by the same compare-and-set as the event, which may still
    arrive. Objects of active batches are skipped: they wait for their unit. A batch that does not exist has finished,
    since only a finished one can be deleted; its units outlive it.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._cursor: tuple[datetime, str] | None = None

    async def reconcile_page(self) -> int:
        """Look at the next page of objects that have not moved for a while; return how many were changed.

        The cursor is in memory only, so that looking at an object writes nothing.
        """
        container = self._container
        before = container.clock.now() - timedelta(seconds=container.reconcile.stale_after_seconds)
        page = await container.objects.find_stalled(
            before, limit=container.reconcile.batch_size, fields=OBJECT_FIELDS, after=self._cursor
        )
        self._cursor = (page[-1]["moved_at"], page[-1]["_id"]) if len(page) == container.reconcile.batch_size else None
        in_batch = [obj for obj in page if obj.get("batch_id")]
        if not in_batch:
            return 0
        batches = await container.batches.get_many(list({_batch_id(obj) for obj in in_batch}), fields=["status"])
        await self._write_missing_batches(in_batch, batches)
        stalled = [obj for obj in in_batch if _has_finished(obj, batches.get(_batch_id(obj)))]
        if not stalled:
            return 0
        units = await container.units.search(
            items_filter([_batch_id(obj) for obj in stalled], [obj["_id"] for obj in stalled]),
            limit=MAX_UNITS,
            fields=["items", "results", "state", "moved_at"],
        )
        events = list(_derive_events(stalled, batches, units, container.clock.now()))
        changed = await container.objects.apply_statuses(events) if events else 0
        SWEPT.labels("object status").inc(changed)
        return changed

    async def _write_missing_batches(
        self, objects: Sequence[ObjectDocument], batches: Mapping[str, BatchDocument]
    ) -> None:
        """Write automatic batches that a crash kept from being written after their object."""
        missing = [obj for obj in objects if obj["auto_process"] and _batch_id(obj) not in batches]
        if missing:
            await submit_auto_batches(self._container, missing)
            SWEPT.labels("batch of an object").inc(len(missing))


def _derive_events(
    objects: Sequence[ObjectDocument],
    batches: Mapping[str, BatchDocument],
    units: Sequence[WorkUnitDocument],
    now: datetime,
) -> Iterator[ObjectStatusChanged]:
    """Yield the final status of each object that has one: its unit's result, or DRAFT after a cancellation."""
    items = {
        (item["batch_id"], item["object_id"]): (unit, index)
        for unit in sorted(units, key=lambda unit: unit["moved_at"])
        for index, item in enumerate(unit["items"])
    }
    for obj in objects:
        batch_id = _batch_id(obj)
        unit, index = items.get((batch_id, obj["_id"]), (None, 0))
        if unit is not None and unit["items"][index]["run"] < obj["run"]["id"]:
            unit = None  # of an earlier run of the object
        result = unit["results"].get(str(index)) if unit is not None else None
        event: dict[str, object] = {
            **{name: obj[name] for name in ("bucket_id", "namespace_id", "revision")},
            "object_id": obj["_id"],
            "batch_id": batch_id,
            "sequence": RANK_FINAL,
            "occurred_at": now,
        }
        if unit is not None and result is not None:
            event |= {"unit_id": unit["_id"], "item_index": index, "run_id": unit["items"][index]["run"]}
            event |= {"status": result["status"], "error": result["error"], "documents_total": result["documents"]}
            yield ObjectStatusChanged.model_validate(event)
        elif _is_canceled(batches.get(batch_id), unit):
            yield ObjectStatusChanged.model_validate({**event, "run_id": obj["run"]["id"], "status": Status.DRAFT})


def _batch_id(obj: ObjectDocument) -> str:
    return str(obj.get("batch_id"))


def _has_finished(obj: ObjectDocument, batch: BatchDocument | None) -> bool:
    """Return whether the object's batch has finished. A missing automatic batch was never written: it has not."""
    return not obj["auto_process"] if batch is None else batch["status"] not in BATCH_ACTIVE


def _is_canceled(batch: BatchDocument | None, unit: WorkUnitDocument | None) -> bool:
    """Return whether the batch was canceled, or deleted since, and no processor works on the object."""
    if batch is not None and batch["status"] != Status.CANCELED:
        return False
    return unit is None or unit["state"] == "canceled"


async def reconcile_deletions(container: Container) -> int:
    """Finish object deletions that were begun and interrupted; return how many."""
    before = container.clock.now() - timedelta(seconds=container.reconcile.stale_after_seconds)
    unfinished = await container.removals.find_pending(before, limit=container.reconcile.batch_size)
    objects = await container.objects.get_many([deletion["_id"] for deletion in unfinished], without=UNUSED_FIELDS)
    if objects:
        await delete_objects(container, list(objects.values()))
    if deleted := [deletion["_id"] for deletion in unfinished if deletion["_id"] not in objects]:
        await finish_deletions(container, deleted)
    SWEPT.labels("removal").inc(len(unfinished))
    return len(unfinished)


async def reconcile_uploads(container: Container) -> int:
    """Fail uploads that were not confirmed in time, delete records of old failed ones; return how many were due.

    Their bytes are deleted both times, also those that were PUT after the upload was deleted.
    """
    now, uploads = container.clock.now(), container.uploads
    due = await uploads.find_due(now, limit=container.reconcile.batch_size)
    if deleted := {upload["_id"]: upload["key"] for upload in due if upload["status"] == DELETED}:
        await container.blobstore.delete(deleted.values())
        await uploads.delete_by_ids(deleted)
    for upload in due:
        upload_id, status = upload["_id"], upload["status"]
        if status == DELETED:
            continue
        if status == Status.PROCESSING:
            # Its confirmation is a durable task, which ends by itself.
            await uploads.change(upload_id, [status], {"due_at": now + PROCESSING_RECHECK})
        elif status == Status.PENDING:
            changes = {"status": str(Status.FAILED), "message": UPLOAD_EXPIRED, "due_at": now + UPLOAD_RETENTION}
            if await uploads.change(upload_id, [status], changes) is not None:
                await _delete_upload_bytes(container, upload)
        elif (kept_until := upload["expires_at"] + UPLOAD_RETENTION) > now:
            # It failed before it expired: its record is kept as long as any other.
            await uploads.change(upload_id, [status], {"due_at": kept_until})
        elif await _delete_upload_bytes(container, upload):
            await uploads.delete_if(upload_id, status)
    SWEPT.labels("upload").inc(len(due))
    return len(due)


async def _delete_upload_bytes(container: Container, upload: UploadDocument) -> bool:
    try:
        await container.blobstore.delete([upload["key"]])
    except BucketlineError as error:
        log.warning("upload bytes not deleted", upload_id=upload["_id"], error=error.message)
        return False
    return True
