"""Changing batches: more objects for a draft, metadata at any time, and away with it."""

from bucketline.db.batches import BatchDocument
from bucketline.db.buckets import BucketDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.errors import BadRequest, NotFound, RetryableError, ServiceUnavailable
from bucketline_ingest_api.batches.create import require_objects
from bucketline_ingest_api.batches.schemas import MAX_OBJECTS, AddObjects, UpdateBatch
from bucketline_ingest_api.batches.submit import not_a_draft
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.validation import ensure_writable

ATTEMPTS = 10


async def add_objects(
    deps: Container, bucket: BucketDocument, batch: BatchDocument, body: AddObjects, *, skip_validation: bool
) -> BatchDocument:
    """Adds objects to a DRAFT; those that are in it already change nothing.

    By compare-and-set on the number of objects, which only grows: of two additions at a time neither is lost.
    """
    ensure_writable(bucket)
    wanted = list(dict.fromkeys(body.object_ids))
    if batch["status"] != Status.DRAFT:
        raise not_a_draft(batch)
    if not skip_validation:
        await require_objects(deps, bucket["_id"], wanted)
    for _ in range(ATTEMPTS):
        known = set(batch["objects"])
        fresh = [object_id for object_id in wanted if object_id not in known]
        if not fresh:
            return batch
        total = batch["total"] + len(fresh)
        if total > MAX_OBJECTS:
            raise BadRequest(
                f"a batch has at most {MAX_OBJECTS} objects",
                code="batch_too_large",
                details={"batch_id": batch["_id"], "limit": MAX_OBJECTS, "object_count": total},
            )
        changed = await deps.batches.change(
            batch["_id"],
            [str(Status.DRAFT)],
            {
                "$push": {"objects": {"$each": fresh}},
                "$set": {"total": total, "updated_at": deps.clock.now()},
            },
            total=batch["total"],
        )
        if changed is not None:
            return changed
        current = await deps.batches.get(batch["_id"])
        if current is None:
            raise NotFound.of("batch", batch["_id"])
        if current["status"] != Status.DRAFT:
            raise not_a_draft(current)
        batch = current
    raise ServiceUnavailable("the batch is being modified concurrently; try again", retry_after_seconds=1)


async def patch_batch(deps: Container, batch: BatchDocument, body: UpdateBatch) -> BatchDocument:
    """Replaces the metadata, in any state of the batch."""
    if body.metadata is None:
        return batch
    changed = await deps.batches.collection.find_and_update(
        {"_id": batch["_id"]}, {"$set": {"metadata": dict(body.metadata), "updated_at": deps.clock.now()}}
    )
    if changed is None:
        raise NotFound.of("batch", batch["_id"])
    return changed


async def delete_batch(deps: Container, batch: BatchDocument) -> None:
    """Forgets a batch that does not run, once everything about it was told. Its objects and documents stay."""
    active = [str(status) for status in BATCH_ACTIVE]
    told = {"status": {"$nin": active}, "pending_since": {"$exists": False}}
    for _ in range(ATTEMPTS):
        if await deps.batches.collection.delete_one({"_id": batch["_id"], **told}):
            return
        current = await deps.batches.get(batch["_id"], fields=["status", "pending"])
        if current is None:
            return
        if current["status"] in active:
            raise BadRequest(
                "the batch runs: cancel it first",
                code="batch_running",
                details={"batch_id": batch["_id"], "status": current["status"]},
            )
        try:
            await deps.batch_outbox.flush([outbox_entry_of(current)])
        except RetryableError:
            break
    raise ServiceUnavailable("the end of the batch was not told to everybody yet, try again")
