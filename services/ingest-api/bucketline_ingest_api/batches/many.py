"""Submitting many batches with one request: all drafts of a bucket, or all of its objects in batches of one size."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from bucketline.db.batches import SUMMARY_FIELDS, BatchDocument
from bucketline.db.buckets import BucketDocument
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BadRequest
from bucketline_ingest_api.batches.create import draft_of, resolve_collections
from bucketline_ingest_api.batches.schemas import BulkSubmit, SubmitBatch
from bucketline_ingest_api.batches.submit import submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.service import list_spec
from bucketline_ingest_api.objects.validation import ensure_writable
from bucketline_ingest_api.pagination import Selection, selection
from bucketline_ingest_api.search_timeout import search_timeout

MAX_DRAFTS = 1000
MAX_BATCHES = 1000
MAX_BULK_OBJECTS = 1_000_000
PAGE = 5000


@dataclass(frozen=True)
class Submitted:
    """A batch after its submission, or the draft that it stayed with the reason. Without its objects: they are many."""

    batch_id: str
    task_id: str
    status: Status
    objects: int
    error: str | None = None


@dataclass(frozen=True)
class Drafts:
    """``empty`` drafts have no objects and stay; ``more``: there are drafts left for another request."""

    submitted: list[Submitted]
    empty: int
    more: bool


@dataclass(frozen=True)
class Group:
    """Batches that were made together."""

    id: str
    objects: int
    submitted: list[Submitted]


async def submit_drafts(deps: Container, bucket: BucketDocument) -> Drafts:
    """Submits the drafts of the bucket, oldest first, at most :data:`MAX_DRAFTS`; each as if it were by itself."""
    ensure_writable(bucket)
    own = {"bucket_id": bucket["_id"], "status": str(Status.DRAFT)}
    found = await deps.batches.collection.find(
        {**own, "total": {"$gt": 0}}, limit=MAX_DRAFTS + 1, sort=[("created_at", 1), ("_id", 1)], fields=SUMMARY_FIELDS
    )
    empty = await deps.batches.collection.count({**own, "total": 0}, limit=MAX_DRAFTS)
    submitted = [await _submit(deps, batch) for batch in found[:MAX_DRAFTS]]
    return Drafts(submitted, empty, len(found) > MAX_DRAFTS)


async def bulk_submit(deps: Container, bucket: BucketDocument, body: BulkSubmit) -> Group:
    """Makes batches of ``chunk_size`` objects, oldest first, of all objects that the filters find; submits each.

    Raises :class:`BadRequest`, before anything is made, for more than :data:`MAX_BULK_OBJECTS` objects or
    :data:`MAX_BATCHES` batches. Objects that are created during the request may or may not be among them. When a store
    goes away in between, what was submitted stays; sent again, objects that are processed by then are skipped, unless
    ``dedup_strategy`` says otherwise.
    """
    ensure_writable(bucket)
    collections = await resolve_collections(deps, bucket, body.collection_ids)
    wanted = selection({"bucket_id": bucket["_id"]}, list_spec(bucket), body.filters)
    most = await _count(deps, wanted, body)
    group, objects, submitted = deps.ids.new("btch"), 0, []
    async for ids in _chunks(deps, wanted, body.chunk_size, most):
        batch = draft_of(
            bucket,
            ids,
            batch_id=deps.ids.new("btch"),
            now=deps.clock.now(),
            collection_ids=collections,
            strategy=body.dedup_strategy or "skip",
            metadata={"batch_group_id": group},
        )
        await deps.batches.collection.insert(batch)
        submitted.append(await _submit(deps, batch))
        objects += len(ids)
    return Group(group, objects, submitted)


async def _submit(deps: Container, batch: BatchDocument) -> Submitted:
    error = None
    try:
        batch = await submit_batch(deps, batch, SubmitBatch())
    except ApiError as refused:
        error = refused.message
    return Submitted(batch["_id"], batch["task_id"], Status(batch["status"]), batch["total"], error)


async def _count(deps: Container, wanted: Selection, body: BulkSubmit) -> int:
    """How many objects are to be submitted; :class:`BadRequest` for more than one request submits."""
    limit = min(MAX_BULK_OBJECTS, MAX_BATCHES * body.chunk_size)
    with search_timeout():
        found = await deps.objects.collection.count(
            wanted.where, limit=min(limit + 1, body.max_objects or limit + 1), computed=wanted.computed
        )
    if found > limit:
        raise BadRequest(
            f"more than {limit} objects, in batches of {body.chunk_size}: raise chunk_size, give max_objects, "
            "or narrow the filters",
            code="bulk_submit_too_large",
            details={"limit": limit, "max_batches": MAX_BATCHES, "chunk_size": body.chunk_size},
        )
    return found


async def _chunks(deps: Container, wanted: Selection, size: int, most: int) -> AsyncIterator[list[str]]:
    """The ids of at most ``most`` objects, oldest first, ``size`` at a time."""
    chunk: list[str] = []
    where = wanted.where
    while most > 0:
        with search_timeout():
            page = await deps.objects.collection.find(
                where,
                limit=min(PAGE, most),
                sort=[("created_at", 1), ("_id", 1)],
                fields=["created_at"],
                computed=wanted.computed,
            )
        if not page:
            break
        most -= len(page)
        for obj in page:
            chunk.append(obj["_id"])
            if len(chunk) == size:
                yield chunk
                chunk = []
        last = page[-1]["created_at"], page[-1]["_id"]
        where = {
            "$and": [
                wanted.where,
                {"created_at": {"$gte": last[0]}},
                {"$or": [{"created_at": {"$gt": last[0]}}, {"_id": {"$gt": last[1]}}]},
            ]
        }
    if chunk:
        yield chunk
