"""Submitting: from here on the batch is the batcher's."""

from datetime import datetime

from bucketline.clock import millis
from bucketline.db.batches import BatchDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.domain.status import Status
from bucketline.errors import BadRequest
from bucketline.events.models import BatchSubmitted
from bucketline.observability.tracing import current_trace
from bucketline_ingest_api.batches.schemas import SubmitBatch
from bucketline_ingest_api.container import Container


async def submit_batch(
    deps: Container, batch: BatchDocument, body: SubmitBatch, *, collection_ids: list[str] | None = None
) -> BatchDocument:
    """Submits a non-empty DRAFT, by compare-and-set; its event is written with that."""
    if batch["status"] != Status.DRAFT:
        raise not_a_draft(batch)
    if not batch["total"]:
        raise BadRequest("the batch has no objects", code="batch_empty", details={"batch_id": batch["_id"]})
    now = deps.clock.now()
    changes = started(batch, now)
    if collection_ids is not None:
        changes["collection_ids"] = collection_ids
    if body.webhook_url is not None:
        changes["webhook_url"] = body.webhook_url
    submitted = await deps.batches.change(
        batch["_id"],
        [str(Status.DRAFT)],
        {"$set": changes, **owed(deps, batch, now)},
    )
    if submitted is None:
        raise not_a_draft(await deps.batches.get(batch["_id"]) or batch)
    deps.batch_outbox.flush_soon([outbox_entry_of(submitted)])
    return submitted


def started(batch: BatchDocument, now: datetime) -> dict[str, object]:
    """The fields of a batch whose next turn begins.

    The turn is the time of the submission: whatever run its objects had before, this one is later. Where clocks
    disagree it is at least later than the turn before.
    """
    return {
        "status": str(Status.PENDING),
        "run": max(millis(now), batch.get("run", 0) + 1),
        "submitted_at": now,
        "updated_at": now,
        "moved_at": now,
        "trace": current_trace(),
    }


def owed(deps: Container, batch: BatchDocument, now: datetime) -> dict[str, object]:
    """The operators that write the event of a submission."""
    event = deps.seal(
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
    return BadRequest(
        f"the batch is {batch['status']}, not DRAFT",
        code="batch_not_draft",
        details={"batch_id": batch["_id"], "status": batch["status"]},
    )
