"""Running a batch again: the objects that failed (retry), or all of them (resubmit)."""

from dataclasses import dataclass

from bucketline.db.batches import BatchDocument, CarriedTotals, FailedObject, failed_row
from bucketline.db.buckets import BucketDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.db.work_units import KEPT, Latest, written
from bucketline.domain.status import FAILURES, FINAL, Status
from bucketline.errors import BadRequest
from bucketline_ingest_api.batches.failed_objects import UNKNOWN_TIME, of_turn
from bucketline_ingest_api.batches.retention import forgotten
from bucketline_ingest_api.batches.schemas import RetryBatch, SubmitBatch
from bucketline_ingest_api.batches.submit import owed, started, submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.validation import ensure_writable

_TERMINAL = [str(status) for status in FINAL]
_OF_A_TURN = (
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
"""What a batch has of its last turn, and nothing of before it."""

SHOWN = 1000


@dataclass(frozen=True)
class Retried:
    """The batch, and how many of its objects are taken up again."""

    batch: BatchDocument
    count: int


async def retry_batch(deps: Container, bucket: BucketDocument, batch: BatchDocument, body: RetryBatch) -> Retried:
    """Begins another turn for failed objects of a batch that is over. Nothing to retry: nothing changes.

    :class:`BadRequest` also when it is not known any more which objects failed.
    """
    ensure_writable(bucket)
    _require_over(batch)
    retries = batch.get("retry_count", 0)
    if retries >= body.max_retry_count:
        raise BadRequest(
            f"the batch was retried {retries} times",
            code="batch_retries_used_up",
            details={"batch_id": batch["_id"], "retry_count": retries, "max_retry_count": body.max_retry_count},
        )
    latest = await deps.units.latest(batch["_id"])
    if batch.get("failed") and forgotten(batch, of_turn(batch, latest), deps.clock.now()):
        raise BadRequest(
            f"which objects failed is known for {KEPT.days} days, and this batch is older: resubmit it with all its "
            "objects (dedup_strategy decides what is made again), or make a batch of those that are to be run again",
            code="batch_results_expired",
            details={"batch_id": batch["_id"], "failed_object_count": batch.get("failed", 0), "kept_days": KEPT.days},
        )
    taken = {object_id for object_id, last in latest.items() if _taken(last, body.retry_mode)}
    if not taken:
        return Retried(batch, 0)
    now = deps.clock.now()
    base = base_of({object_id: last for object_id, last in latest.items() if object_id not in taken})
    if batch["dedup_strategy"] == "skip":
        # What failed in some collections keeps what it has in the others, and does not make it again.
        base["documents"] = batch.get("documents_written", base["documents"])
    changes = {
        **started(batch, now),
        "auto": False,
        "retry": body.retry_mode,
        "base": base,
        "retry_count": retries + 1,
        "last_retry_at": now,
        "processed": base["finished"],
        "failed": base["failed"],
        "documents_written": base["documents"],
    }
    unset = dict.fromkeys(set(_OF_A_TURN) - changes.keys(), "")
    changed = await deps.batches.change(
        batch["_id"], _TERMINAL, {"$set": changes, "$unset": unset, **owed(deps, batch, now)}, run=batch.get("run")
    )
    if changed is None:
        raise _not_over(await deps.batches.get(batch["_id"]) or batch)
    deps.batch_outbox.flush_soon([outbox_entry_of(changed)])
    return Retried(changed, len(taken))


async def resubmit_batch(
    deps: Container, bucket: BucketDocument, batch: BatchDocument, *, submit: bool
) -> BatchDocument:
    """Makes a batch that is over a DRAFT again with all its objects, and submits it unless told not to."""
    ensure_writable(bucket)
    _require_over(batch)
    unset = dict.fromkeys((*_OF_A_TURN, "submitted_at", "last_retry_at"), "")
    draft = await deps.batches.change(
        batch["_id"],
        _TERMINAL,
        {
            "$set": {
                "status": str(Status.DRAFT),
                "auto": False,
                "retry_count": 0,
                "updated_at": deps.clock.now(),
            },
            "$unset": unset,
        },
        run=batch.get("run"),
    )
    if draft is None:
        raise _not_over(await deps.batches.get(batch["_id"]) or batch)
    return await submit_batch(deps, draft, SubmitBatch()) if submit else draft


def base_of(kept: dict[str, Latest]) -> CarriedTotals:
    """The sums over objects that a retry leaves alone."""
    results = {object_id: last.result for object_id, last in kept.items() if last.result is not None}
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
        "failed_objects": failed[:SHOWN],
        "given_back": len(results) - len(finished),
    }


def _taken(last: Latest, mode: str) -> bool:
    return last.failed and last.result is not None and (mode == "all" or last.result["error_type"] == "transient")


def _require_over(batch: BatchDocument) -> None:
    if batch["status"] not in _TERMINAL:
        raise _not_over(batch)


def _not_over(batch: BatchDocument) -> BadRequest:
    return BadRequest(
        f"the batch is {batch['status']}: only one that is over can be run again",
        code="batch_not_over",
        details={"batch_id": batch["_id"], "status": batch["status"]},
    )
