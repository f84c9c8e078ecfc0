"""Submit and cancel batches. From the submission on, the batcher owns the batch."""

from datetime import datetime

from bucketline.clock import millis
from bucketline.db.batches import BatchDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.errors import BadRequest, NotFound
from bucketline.events.models import BatchCanceled, BatchCompleted, BatchSubmitted
from bucketline.observability.tracing import current_trace
from bucketline_ingest_api.container import Container

MAX_REASON_LENGTH = 1000


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
    changes = new_run_fields(batch, now)
    if collection_ids is not None:
        changes["collection_ids"] = collection_ids
    if webhook_url is not None:
        changes["webhook_url"] = webhook_url
    update = {"$set": changes, **submission_event(container, batch, now)}
    submitted = await container.batches.change(batch["_id"], [str(Status.DRAFT)], update)
    if submitted is None:
        raise not_a_draft(await container.batches.get(batch["_id"]) or batch)
    container.batch_outbox.enqueue([outbox_entry_of(submitted)])
    return submitted


async def cancel_batch(
    container: Container, batch: BatchDocument, reason: str | None
) -> tuple[BatchDocument, dict[str, int]]:
    """Cancel the batch; return it and the counts of its work units for the response.

    A draft ends at once. For a running batch the batcher takes back the units that have not started. Idempotent;
    raises :class:`BadRequest` for a batch that has finished otherwise.
    """
    unit_counts = await _count_units(container, batch)
    now = container.clock.now()
    identity = {
        "batch_id": batch["_id"],
        "bucket_id": batch["bucket_id"],
        "namespace_id": batch["namespace_id"],
    }
    request: dict[str, object] = {"cancel_requested_at": now, "cancel_reason": reason, "updated_at": now}
    end: dict[str, object] = {**request, "status": str(Status.CANCELED), "completed_at": now, "moved_at": now}
    if batch.get("webhook_url"):
        # The batch was submitted before, finished, and became a draft again.
        end["webhook"] = {"due_at": now}
    canceled = container.new_event(BatchCanceled(**identity, reason=reason, canceled_at=now)).to_document()
    completed = container.new_event(
        BatchCompleted(
            **identity,
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
    )
    if updated is None:
        updated = await container.batches.change(
            batch["_id"],
            [str(status) for status in BATCH_ACTIVE],
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


def new_run_fields(batch: BatchDocument, now: datetime) -> dict[str, object]:
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


def submission_event(container: Container, batch: BatchDocument, now: datetime) -> dict[str, object]:
    """Return the update operators that store the event of a submission in the outbox."""
    event = container.new_event(
        BatchSubmitted(
            batch_id=batch["_id"],
            bucket_id=batch["bucket_id"],
            namespace_id=batch["namespace_id"],
            object_count=batch["total"],
            submitted_at=now,
        )
    )
    return {"$push": {"pending": event.to_document()}, "$min": {"pending_since": now}}


def not_a_draft(batch: BatchDocument) -> BadRequest:
    """Return the error for an operation that only drafts allow."""
    return BadRequest(
        f"the batch is {batch['status']}, not DRAFT",
        code="batch_not_draft",
        details={"batch_id": batch["_id"], "status": batch["status"]},
    )


async def _count_units(container: Container, batch: BatchDocument) -> dict[str, int]:
    """Return the contract's ``cancellation``: how many units are canceled, stop, and can no longer be stopped."""
    run = batch.get("run", 1)
    waiting = await container.units.count(batch["_id"], run, ("held", "ready"))
    leased = await container.units.count(batch["_id"], run, ("leased",))
    return {"ray_jobs_requested": waiting + leased, "ray_jobs_accepted": waiting, "ray_jobs_refused": leased}
