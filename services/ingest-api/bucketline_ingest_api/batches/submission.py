"""Submit batches, one or many at once, cancel them, and run finished ones again.

From the submission on, the batcher owns the batch.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from bucketline.clock import millis
from bucketline.db.batches import BatchDocument, CarriedTotals, FailedObject, failed_row
from bucketline.db.buckets import BucketDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.db.work_units import KEPT, Latest, written
from bucketline.domain.status import BATCH_ACTIVE, FAILURES, FINAL, Status
from bucketline.errors import ApiError, BadRequest, NotFound
from bucketline.events.models import BatchCanceled, BatchCompleted, BatchSubmitted
from bucketline.observability.tracing import current_trace
from bucketline_ingest_api.batches.results import UNKNOWN_TIME, have_expired, select_run
from bucketline_ingest_api.batches.schemas import (
    BulkSubmit,
    BulkSubmitted,
    RetryBatch,
    SubmittedBatch,
    SubmittedDrafts,
)
from bucketline_ingest_api.batches.service import (
    OLDEST_FIRST,
    new_draft,
    not_a_draft,
    objects_after,
    resolve_collections,
)
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.service import list_spec
from bucketline_ingest_api.objects.validation import ensure_writable
from bucketline_ingest_api.pagination import Selection, search_timeout, select_rows

MAX_REASON_LENGTH = 1000
MAX_DRAFTS = 1000
MAX_BATCHES = 1000
MAX_BULK_OBJECTS = 1_000_000
MAX_LISTED_FAILURES = 1000

_ACTIVE = [str(status) for status in BATCH_ACTIVE]
_FINISHED = [str(status) for status in FINAL]
_KEPT_FIELDS = {
    *("run", "retry_count", "last_retry_at", "submitted_at", "moved_at"),
    *("webhook_url", "task_hidden", "pending", "pending_since", "trace"),
}
_RUN_FIELDS = BatchDocument.__optional_keys__ - _KEPT_FIELDS
"""Fields that belong to a run of the batch and are removed when the next run starts."""


async def submit_batch(
    container: Container,
    batch: BatchDocument,
    *,
    collection_ids: list[str] | None = None,
    webhook_url: str | None = None,
) -> BatchDocument:
    """Submit a non-empty draft and return it. The event is stored in the same write, by compare-and-set."""
    if batch["status"] != Status.DRAFT:
        raise not_a_draft(batch)
    if not batch["total"]:
        raise BadRequest("the batch has no objects", code="batch_empty", details={"batch_id": batch["_id"]})
    now = container.clock.now()
    changes = _new_run_fields(batch, now)
    if collection_ids is not None:
        changes["collection_ids"] = collection_ids
    if webhook_url is not None:
        changes["webhook_url"] = webhook_url
    update = {"$set": changes, **_submission_event(container, batch, now)}
    submitted = await container.batches.change(batch["_id"], [str(Status.DRAFT)], update)
    if submitted is None:
        raise not_a_draft(await container.batches.get(batch["_id"]) or batch)
    container.batch_outbox.enqueue([outbox_entry_of(submitted)])
    return submitted


def _new_run_fields(batch: BatchDocument, now: datetime) -> dict[str, object]:
    """Return the fields that start the next run of the batch.

    A run is numbered by the time of its submission, so that it is later than any earlier run of its objects. Should
    clocks disagree, it is at least later than the previous run of this batch.
    """
    return {
        "status": str(Status.PENDING),
        "run": max(millis(now), batch.get("run", 0) + 1),
        "submitted_at": now,
        "updated_at": now,
        "moved_at": now,
        "trace": current_trace(),
    }


def _submission_event(container: Container, batch: BatchDocument, now: datetime) -> dict[str, object]:
    """Return the update operators that store the event of a submission in the outbox."""
    event = BatchSubmitted(**_identity(batch), object_count=batch["total"], submitted_at=now)
    return {"$push": {"pending": container.new_event(event).to_document()}, "$min": {"pending_since": now}}


def _identity(batch: BatchDocument) -> dict[str, str]:
    return {"batch_id": batch["_id"], "bucket_id": batch["bucket_id"], "namespace_id": batch["namespace_id"]}


async def submit_drafts(container: Container, bucket: BucketDocument) -> SubmittedDrafts:
    """Submit the non-empty drafts of the bucket, oldest first, at most :data:`MAX_DRAFTS`."""
    ensure_writable(bucket)
    drafts = await container.batches.drafts_of_bucket(bucket["_id"], limit=MAX_DRAFTS + 1)
    empty = await container.batches.count_empty_drafts(bucket["_id"], limit=MAX_DRAFTS)
    batches = [await _try_submit(container, draft) for draft in drafts[:MAX_DRAFTS]]
    failed = sum(batch.error is not None for batch in batches)
    return SubmittedDrafts(
        submitted=len(batches) - failed,
        failed=failed,
        empty=empty,
        total=len(batches),
        has_more=len(drafts) > MAX_DRAFTS,
        batches=batches,
        message=f"{len(batches) - failed} batches were submitted",
    )


async def bulk_submit(container: Container, bucket: BucketDocument, body: BulkSubmit) -> BulkSubmitted:
    """Create and submit batches of ``chunk_size`` objects, oldest first, of all objects that match the filters.

    Raises :class:`BadRequest`, before anything is created, for more than :data:`MAX_BULK_OBJECTS` objects or
    :data:`MAX_BATCHES` batches. Objects that are created during the request may or may not be included. When a
    dependency becomes unavailable during the request, the batches submitted so far stay.
    """
    ensure_writable(bucket)
    collection_ids = await resolve_collections(container, bucket, body.collection_ids)
    selected = select_rows({"bucket_id": bucket["_id"]}, list_spec(bucket), body.filters)
    limit = min(MAX_BULK_OBJECTS, MAX_BATCHES * body.chunk_size)
    with search_timeout():
        count = await container.objects.count_matching(
            selected.where, limit=min(limit + 1, body.max_objects or limit + 1), computed=selected.computed
        )
    if count > limit:
        raise BadRequest(
            f"more than {limit} objects, in batches of {body.chunk_size}: raise chunk_size, set max_objects, "
            "or narrow the filters",
            code="bulk_submit_too_large",
            details={"limit": limit, "max_batches": MAX_BATCHES, "chunk_size": body.chunk_size},
        )
    group_id, batches = container.ids.new("btch"), []
    async for object_ids in _chunks(container, selected, body.chunk_size, count):
        draft = new_draft(
            bucket["namespace_id"],
            bucket["_id"],
            object_ids,
            batch_id=container.ids.new("btch"),
            now=container.clock.now(),
            collection_ids=collection_ids,
            strategy=body.dedup_strategy or "skip",
            metadata={"batch_group_id": group_id},
        )
        await container.batches.create(draft)
        batches.append(await _try_submit(container, draft))
    failed = sum(batch.error is not None for batch in batches)
    return BulkSubmitted(
        batch_group_id=group_id,
        total_objects=sum(batch.object_count for batch in batches),
        total_batches=len(batches),
        submitted=len(batches) - failed,
        failed=failed,
        chunk_size=body.chunk_size,
        batches=batches,
    )


async def _chunks(container: Container, selected: Selection, size: int, limit: int) -> AsyncIterator[list[str]]:
    """Yield the ids of at most ``limit`` objects, oldest first, ``size`` at a time."""
    where, remaining = selected.where, limit
    while remaining > 0:
        with search_timeout():
            objects = await container.objects.search(
                where,
                limit=min(size, remaining),
                sort=OLDEST_FIRST,
                fields=["created_at"],
                computed=selected.computed,
            )
        if not objects:
            return
        yield [obj["_id"] for obj in objects]
        remaining -= len(objects)
        where = {"$and": [selected.where, objects_after(objects[-1]["created_at"], objects[-1]["_id"])]}


async def _try_submit(container: Container, batch: BatchDocument) -> SubmittedBatch:
    """Submit a draft; if that is rejected, return the draft with the reason."""
    error = None
    try:
        batch = await submit_batch(container, batch)
    except ApiError as rejected:
        error = rejected.message
    return SubmittedBatch(
        batch_id=batch["_id"],
        status=Status(batch["status"]),
        object_count=batch["total"],
        task_id=None if error else batch["task_id"],
        error=error,
    )


async def cancel_batch(
    container: Container, batch: BatchDocument, reason: str | None
) -> tuple[BatchDocument, dict[str, int]]:
    """Cancel the batch; return it and the counts of its work units for the response.

    A draft ends at once. For a running batch the batcher takes back the units that have not started. Idempotent;
    raises :class:`BadRequest` for a batch that has finished otherwise.
    """
    unit_counts = await _count_units(container, batch)
    now = container.clock.now()
    request: dict[str, object] = {"cancel_requested_at": now, "cancel_reason": reason, "updated_at": now}
    end: dict[str, object] = {**request, "status": str(Status.CANCELED), "completed_at": now, "moved_at": now}
    if batch.get("webhook_url"):
        # The batch was submitted before, finished, and became a draft again.
        end["webhook"] = {"due_at": now}
    canceled = container.new_event(BatchCanceled(**_identity(batch), reason=reason, canceled_at=now)).to_document()
    completed = container.new_event(
        BatchCompleted(
            **_identity(batch),
            status=Status.CANCELED,
            object_count=batch["total"],
            failed_count=0,
            documents_written=0,
            completed_at=now,
        )
    ).to_document()
    updated = await container.batches.change(
        batch["_id"],
        [str(Status.DRAFT)],
        {"$set": end, "$push": {"pending": {"$each": [canceled, completed]}}, "$min": {"pending_since": now}},
    ) or await container.batches.change(
        batch["_id"],
        _ACTIVE,
        {"$set": request, "$push": {"pending": canceled}, "$min": {"pending_since": now}},
        cancel_requested_at={"$exists": False},
    )
    if updated is not None:
        container.batch_outbox.enqueue([outbox_entry_of(updated)])
        return updated, unit_counts
    current = await container.batches.get(batch["_id"])
    if current is None:
        raise NotFound.of("batch", batch["_id"])
    if current["status"] in (*BATCH_ACTIVE, Status.CANCELED):
        # An earlier or concurrent request has canceled it.
        return current, unit_counts
    raise BadRequest(
        f"the batch is {current['status']} already",
        code="batch_over",
        details={"batch_id": batch["_id"], "status": current["status"]},
    )


async def _count_units(container: Container, batch: BatchDocument) -> dict[str, int]:
    """Return the contract's ``cancellation``: how many units are canceled, stop, and can no longer be stopped."""
    run = batch.get("run", 1)
    waiting = await container.units.count(batch["_id"], run, ("held", "ready"))
    leased = await container.units.count(batch["_id"], run, ("leased",))
    return {"ray_jobs_requested": waiting + leased, "ray_jobs_accepted": waiting, "ray_jobs_refused": leased}


async def retry_batch(
    container: Container, bucket: BucketDocument, batch: BatchDocument, body: RetryBatch
) -> tuple[BatchDocument, int]:
    """Start another run for the failed objects; return the batch and how many there are. If none, change nothing.

    Raises :class:`BadRequest` for a batch that has not finished, and when it is no longer known which objects failed.
    """
    ensure_writable(bucket)
    if batch["status"] not in _FINISHED:
        raise _not_finished(batch)
    retry_count = batch.get("retry_count", 0)
    if retry_count >= body.max_retry_count:
        raise BadRequest(
            f"the batch was retried {retry_count} times",
            code="batch_retries_used_up",
            details={"batch_id": batch["_id"], "retry_count": retry_count, "max_retry_count": body.max_retry_count},
        )
    latest = await container.units.latest_results(batch["_id"])
    failed_count, now = batch.get("failed", 0), container.clock.now()
    if failed_count and have_expired(batch, select_run(batch, latest), now):
        raise BadRequest(
            f"results are kept for {KEPT.days} days, so it is no longer known which objects of this batch failed: "
            "resubmit it with all its objects (dedup_strategy decides which are processed again), or create a batch "
            "of the objects to process",
            code="batch_results_expired",
            details={"batch_id": batch["_id"], "failed_object_count": failed_count, "kept_days": KEPT.days},
        )
    retried = {object_id for object_id, last in latest.items() if _is_retried(last, body.retry_mode)}
    if not retried:
        return batch, 0
    totals = carried_totals({object_id: last for object_id, last in latest.items() if object_id not in retried})
    if batch["dedup_strategy"] == "skip":
        # An object that failed in some collections keeps its documents of the others; they are not created again.
        totals["documents"] = batch.get("documents_written", totals["documents"])
    changes = {
        **_new_run_fields(batch, now),
        "auto": False,
        "retry": body.retry_mode,
        "base": totals,
        "retry_count": retry_count + 1,
        "last_retry_at": now,
        "processed": totals["finished"],
        "failed": totals["failed"],
        "documents_written": totals["documents"],
    }
    updated = await _rerun(container, batch, changes, event=_submission_event(container, batch, now))
    container.batch_outbox.enqueue([outbox_entry_of(updated)])
    return updated, len(retried)


async def resubmit_batch(
    container: Container, bucket: BucketDocument, batch: BatchDocument, *, submit: bool
) -> BatchDocument:
    """Turn a finished batch into a draft with all its objects, submit it if ``submit``, and return it."""
    ensure_writable(bucket)
    if batch["status"] not in _FINISHED:
        raise _not_finished(batch)
    changes = {"status": str(Status.DRAFT), "auto": False, "retry_count": 0, "updated_at": container.clock.now()}
    draft = await _rerun(container, batch, changes, without=("submitted_at", "last_retry_at"))
    return await submit_batch(container, draft) if submit else draft


async def _rerun(
    container: Container,
    batch: BatchDocument,
    changes: Mapping[str, object],
    *,
    without: Sequence[str] = (),
    event: Mapping[str, object] | None = None,
) -> BatchDocument:
    """Set fields of a finished batch and remove the others of its run, by compare-and-set on the run."""
    unset = dict.fromkeys({*_RUN_FIELDS, *without} - changes.keys(), "")
    update = {"$set": changes, "$unset": unset, **(event or {})}
    updated = await container.batches.change(batch["_id"], _FINISHED, update, run=batch.get("run"))
    if updated is None:
        raise _not_finished(await container.batches.get(batch["_id"]) or batch)
    return updated


def carried_totals(latest: Mapping[str, Latest]) -> CarriedTotals:
    """Return the totals over objects that a retry does not process again."""
    results = {object_id: last.result for object_id, last in latest.items() if last.result is not None}
    finished = {object_id: result for object_id, result in results.items() if result["status"] != Status.DRAFT}
    failed: list[FailedObject] = [
        failed_row(object_id, result, UNKNOWN_TIME)
        for object_id, result in sorted(finished.items())
        if result["status"] in FAILURES
    ]
    return {
        "finished": len(finished),
        "failed": len(failed),
        "documents": sum(written(result) for result in finished.values()),
        "failed_objects": failed[:MAX_LISTED_FAILURES],
        "given_back": len(results) - len(finished),
    }


def _is_retried(last: Latest, mode: str) -> bool:
    return last.failed and last.result is not None and (mode == "all" or last.result["error_type"] == "transient")


def _not_finished(batch: BatchDocument) -> BadRequest:
    return BadRequest(
        f"the batch is {batch['status']}: only a batch that has finished can be run again",
        code="batch_not_over",
        details={"batch_id": batch["_id"], "status": batch["status"]},
    )
