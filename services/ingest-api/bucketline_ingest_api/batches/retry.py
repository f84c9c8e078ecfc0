"""Run a finished batch again: the objects that failed (retry), or all of them (resubmit)."""

from collections.abc import Mapping

from bucketline.db.batches import BatchDocument, CarriedTotals, FailedObject, failed_row
from bucketline.db.buckets import BucketDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.db.work_units import KEPT, Latest, written
from bucketline.domain.status import FAILURES, FINAL, Status
from bucketline.errors import BadRequest
from bucketline_ingest_api.batches.results import UNKNOWN_TIME, have_expired, select_run
from bucketline_ingest_api.batches.schemas import RetryBatch
from bucketline_ingest_api.batches.submission import new_run_fields, submission_event, submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.validation import ensure_writable

_FINISHED = [str(status) for status in FINAL]
_RUN_FIELDS = (
    "planned",
    "retry",
    "base",
    "processed",
    "failed",
    "documents_written",
    "failed_objects",
    "missing",
    "first_error",
    "failure_reason",
    "failure_category",
    "cancel_requested_at",
    "cancel_reason",
    "started_at",
    "completed_at",
    "webhook",
)
"""Fields that belong to a run of the batch and are removed when the next run starts."""

MAX_LISTED_FAILURES = 1000


async def retry_batch(
    container: Container, bucket: BucketDocument, batch: BatchDocument, body: RetryBatch
) -> tuple[BatchDocument, int]:
    """Start another run for the failed objects; return the batch and how many there are. If none, change nothing.

    Raises :class:`BadRequest` for a batch that has not finished, and when it is no longer known which objects failed.
    """
    ensure_writable(bucket)
    _require_finished(batch)
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
        **new_run_fields(batch, now),
        "auto": False,
        "retry": body.retry_mode,
        "base": totals,
        "retry_count": retry_count + 1,
        "last_retry_at": now,
        "processed": totals["finished"],
        "failed": totals["failed"],
        "documents_written": totals["documents"],
    }
    unset = dict.fromkeys(set(_RUN_FIELDS) - changes.keys(), "")
    update = {"$set": changes, "$unset": unset, **submission_event(container, batch, now)}
    updated = await container.batches.change(batch["_id"], _FINISHED, update, run=batch.get("run"))
    if updated is None:
        raise _not_finished(await container.batches.get(batch["_id"]) or batch)
    container.batch_outbox.enqueue([outbox_entry_of(updated)])
    return updated, len(retried)


async def resubmit_batch(
    container: Container, bucket: BucketDocument, batch: BatchDocument, *, submit: bool
) -> BatchDocument:
    """Turn a finished batch into a draft with all its objects, submit it if ``submit``, and return it."""
    ensure_writable(bucket)
    _require_finished(batch)
    changes = {"status": str(Status.DRAFT), "auto": False, "retry_count": 0, "updated_at": container.clock.now()}
    unset = dict.fromkeys((*_RUN_FIELDS, "submitted_at", "last_retry_at"), "")
    draft = await container.batches.change(
        batch["_id"], _FINISHED, {"$set": changes, "$unset": unset}, run=batch.get("run")
    )
    if draft is None:
        raise _not_finished(await container.batches.get(batch["_id"]) or batch)
    return await submit_batch(container, draft) if submit else draft


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


def _require_finished(batch: BatchDocument) -> None:
    if batch["status"] not in _FINISHED:
        raise _not_finished(batch)


def _not_finished(batch: BatchDocument) -> BadRequest:
    return BadRequest(
        f"the batch is {batch['status']}: only a batch that has finished can be run again",
        code="batch_not_over",
        details={"batch_id": batch["_id"], "status": batch["status"]},
    )
