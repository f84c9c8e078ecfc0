"""Submit many batches with one request: all drafts of a bucket, or all of its objects in batches of one size."""

from collections.abc import AsyncIterator

from bucketline.db.batches import BatchDocument
from bucketline.db.buckets import BucketDocument
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BadRequest
from bucketline_ingest_api.batches.schemas import BulkSubmit, BulkSubmitted, SubmittedBatch, SubmittedDrafts
from bucketline_ingest_api.batches.service import PAGE_SIZE, new_draft, resolve_collections
from bucketline_ingest_api.batches.submission import submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.service import list_spec
from bucketline_ingest_api.objects.validation import ensure_writable
from bucketline_ingest_api.pagination import Selection, search_timeout, select_rows

MAX_DRAFTS = 1000
MAX_BATCHES = 1000
MAX_BULK_OBJECTS = 1_000_000


async def submit_drafts(container: Container, bucket: BucketDocument) -> SubmittedDrafts:
    """Submit the non-empty drafts of the bucket, oldest first, at most :data:`MAX_DRAFTS`."""
    ensure_writable(bucket)
    drafts = await container.batches.drafts_of_bucket(bucket["_id"], limit=MAX_DRAFTS + 1)
    empty = await container.batches.count_empty_drafts(bucket["_id"], limit=MAX_DRAFTS)
    batches = [await _submit(container, draft) for draft in drafts[:MAX_DRAFTS]]
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
    limit = await _count(container, selected, body)
    group_id, batches = container.ids.new("btch"), []
    async for object_ids in _chunks(container, selected, body.chunk_size, limit):
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
        batches.append(await _submit(container, draft))
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


async def _submit(container: Container, batch: BatchDocument) -> SubmittedBatch:
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


async def _count(container: Container, selected: Selection, body: BulkSubmit) -> int:
    """Return how many objects to submit. Raises :class:`BadRequest` for more than one request may submit."""
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
    return count


async def _chunks(container: Container, selected: Selection, size: int, limit: int) -> AsyncIterator[list[str]]:
    """Yield the ids of at most ``limit`` objects, oldest first, ``size`` at a time."""
    chunk: list[str] = []
    where, remaining = selected.where, limit
    while remaining > 0:
        with search_timeout():
            objects = await container.objects.search(
                where,
                limit=min(PAGE_SIZE, remaining),
                sort=[("created_at", 1), ("_id", 1)],
                fields=["created_at"],
                computed=selected.computed,
            )
        if not objects:
            break
        remaining -= len(objects)
        for obj in objects:
            chunk.append(obj["_id"])
            if len(chunk) == size:
                yield chunk
                chunk = []
        last = objects[-1]
        where = {
            "$and": [
                selected.where,
                {"created_at": {"$gte": last["created_at"]}},
                {"$or": [{"created_at": {"$gt": last["created_at"]}}, {"_id": {"$gt": last["_id"]}}]},
            ]
        }
    if chunk:
        yield chunk
