"""Submitting: from here on the batch is the batcher's."""

from bucketline.clock import millis
from bucketline.domain.status import Status
from bucketline.errors import BadRequest
from bucketline.events.catalog import BatchSubmitted
from bucketline.storage.batches import BatchDocument
from bucketline.storage.pending import owing
from bucketline.telemetry.tracing import current_trace
from ingest_api.deps import Deps
from ingest_api.schemas.batches import SubmitBatch


async def submit_batch(deps: Deps, batch: BatchDocument, body: SubmitBatch) -> BatchDocument:
    """Submits a non-empty DRAFT, by compare-and-set; its event is written with that.

    The batch's run starts at the time of its submission: whatever run its objects had before, this one is later.
    """
    if not batch["objects"]:
        raise BadRequest("the batch has no objects", code="batch_empty", details={"batch_id": batch["_id"]})
    now = deps.clock.now()
    event = deps.seal(
        BatchSubmitted(
            batch_id=batch["_id"],
            bucket_id=batch["bucket_id"],
            namespace_id=batch["namespace_id"],
            object_count=batch["total"],
            submitted_at=now,
        )
    )
    changes: dict[str, object] = {
        "status": str(Status.PENDING),
        "run": millis(now),
        "submitted_at": now,
        "updated_at": now,
        "moved_at": now,
        "trace": current_trace(),
    }
    if body.collection_ids is not None:
        changes["collection_ids"] = body.collection_ids
    if body.webhook_url is not None:
        changes["webhook_url"] = body.webhook_url
    submitted = await deps.batches.collection.find_and_update(
        {"_id": batch["_id"], "status": str(Status.DRAFT)},
        {"$set": changes, "$push": {"pending": event.to_document()}, "$min": {"pending_since": now}},
    )
    if submitted is None:
        current = await deps.batches.get(batch["_id"])
        raise not_a_draft(current or batch)
    deps.batch_outbox.flush_soon([owing(submitted)])
    return submitted


def not_a_draft(batch: BatchDocument) -> BadRequest:
    return BadRequest(
        f"the batch is {batch['status']}, not DRAFT",
        code="batch_not_draft",
        details={"batch_id": batch["_id"], "status": batch["status"]},
    )
