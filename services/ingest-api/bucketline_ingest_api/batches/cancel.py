"""Cancelling: a draft ends at once; of a running batch the batcher takes back what has not started."""

from bucketline.db.batches import BatchDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.errors import BadRequest, NotFound
from bucketline.events.models import BatchCanceled, BatchCompleted
from bucketline_ingest_api.container import Container

MAX_REASON = 1000


async def cancel_batch(
    deps: Container, batch: BatchDocument, reason: str | None
) -> tuple[BatchDocument, dict[str, int]]:
    """The batch, and how many of its work units are reached by this and how many run to their end.

    Asked again it is the same. :class:`BadRequest` for a batch that has come to another end.
    """
    reached = await _units(deps, batch)
    now = deps.clock.now()
    identity = {
        "batch_id": batch["_id"],
        "bucket_id": batch["bucket_id"],
        "namespace_id": batch["namespace_id"],
    }
    asked: dict[str, object] = {"cancel_requested_at": now, "cancel_reason": reason, "updated_at": now}
    event = deps.seal(BatchCanceled(**identity, reason=reason, canceled_at=now)).to_document()
    completed = BatchCompleted(
        **identity,
        status=Status.CANCELED,
        object_count=batch["total"],
        failed_count=0,
        documents_written=0,
        completed_at=now,
    )
    ended: dict[str, object] = {**asked, "status": str(Status.CANCELED), "completed_at": now, "moved_at": now}
    if batch.get("webhook_url"):  # of an earlier submission, which had another end
        ended["webhook"] = {"due_at": now}
    pending = [event, deps.seal(completed).to_document()]
    changed = await deps.batches.change(
        batch["_id"],
        [str(Status.DRAFT)],
        {"$set": ended, "$push": {"pending": {"$each": pending}}, "$min": {"pending_since": now}},
    )
    if changed is None:
        changed = await deps.batches.change(
            batch["_id"],
            [str(status) for status in BATCH_ACTIVE],
            {"$set": asked, "$push": {"pending": event}, "$min": {"pending_since": now}},
            cancel_requested_at={"$exists": False},
        )
    if changed is not None:
        deps.batch_outbox.flush_soon([outbox_entry_of(changed)])
        return changed, reached
    current = await deps.batches.get(batch["_id"])
    if current is None:
        raise NotFound.of("batch", batch["_id"])
    # still running: somebody else has asked for it meanwhile
    if current["status"] in (*BATCH_ACTIVE, Status.CANCELED):
        return current, reached
    raise BadRequest(
        f"the batch is {current['status']} already",
        code="batch_over",
        details={"batch_id": batch["_id"], "status": current["status"]},
    )


async def _units(deps: Container, batch: BatchDocument) -> dict[str, int]:
    """The contract's ``cancellation``: what was asked for, what stops, what cannot be stopped any more."""
    turn = batch.get("run", 1)
    waiting = await deps.units.count(batch["_id"], turn, ("held", "ready"))
    leased = await deps.units.count(batch["_id"], turn, ("leased",))
    return {"ray_jobs_requested": waiting + leased, "ray_jobs_accepted": waiting, "ray_jobs_refused": leased}
