"""Drafting batches: of objects that are named, or of those that a filter finds."""

from collections.abc import Sequence
from datetime import datetime

from bucketline.db.batches import BatchDocument, task_of
from bucketline.db.buckets import BucketDocument
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BadRequest, NotFound, ValidationFailed, ValidationIssue
from bucketline_ingest_api.batches.collection_tiers import reads_bucket
from bucketline_ingest_api.batches.schemas import MAX_OBJECTS, CreateBatch, DedupStrategy, SubmitBatch
from bucketline_ingest_api.batches.submit import submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.service import list_spec
from bucketline_ingest_api.objects.validation import ensure_writable
from bucketline_ingest_api.pagination import selection
from bucketline_ingest_api.search_timeout import search_timeout

MAX_IDS_NAMED = 100
PAGE = 5000


async def create_batch(
    deps: Container, bucket: BucketDocument, body: CreateBatch, *, skip_validation: bool, submit: bool = False
) -> BatchDocument:
    """A batch of objects of this bucket, DRAFT or submitted at once.

    :class:`NotFound` names objects or collections that are not there. When the draft was made and its submission
    refused, the error has its id in ``details`` and the draft stays.
    """
    ensure_writable(bucket)
    collection_ids = await resolve_collections(deps, bucket, body.collection_ids)
    if body.object_ids is not None:
        ids = list(dict.fromkeys(body.object_ids))
        if not skip_validation:
            await require_objects(deps, bucket["_id"], ids)
    else:
        ids = await _found(deps, bucket, body)
    batch = draft_of(
        bucket,
        ids,
        batch_id=deps.ids.new("btch"),
        now=deps.clock.now(),
        name=body.batch_name,
        collection_ids=collection_ids,
        strategy=body.dedup_strategy,
        metadata=dict(body.metadata or {}),
    )
    await deps.batches.collection.insert(batch)
    if not submit:
        return batch
    try:
        return await submit_batch(deps, batch, SubmitBatch())
    except ApiError as error:
        error.details = {**(error.details or {}), "batch_id": batch["_id"]}
        raise


def draft_of(
    bucket: BucketDocument,
    object_ids: list[str],
    *,
    batch_id: str,
    now: datetime,
    name: str | None = None,
    collection_ids: list[str] | None = None,
    strategy: DedupStrategy = "skip",
    metadata: dict[str, object] | None = None,
) -> BatchDocument:
    """The document of a DRAFT."""
    return {
        "_id": batch_id,
        "namespace_id": bucket["namespace_id"],
        "bucket_id": bucket["_id"],
        "batch_name": name,
        "status": str(Status.DRAFT),
        "objects": object_ids,
        "total": len(object_ids),
        "collection_ids": collection_ids,
        "dedup_strategy": strategy,
        "metadata": metadata or {},
        "task_id": task_of(batch_id),
        "auto": False,
        "created_at": now,
        "updated_at": now,
    }


async def resolve_collections(deps: Container, bucket: BucketDocument, given: Sequence[str] | None) -> list[str] | None:
    """The ids of collections that are named by id or name; None, and so all that read the bucket, when none is."""
    if not given:
        return None
    found: dict[str, None] = {}
    for place, identifier in enumerate(given):
        collection = await deps.collections.resolve(bucket["namespace_id"], identifier)
        if collection is None or collection.get("deleting"):
            raise NotFound.of("collection", identifier)
        if not await reads_bucket(deps, collection, bucket["_id"]):
            at = ("body", "collection_ids", place)
            raise ValidationFailed(
                [ValidationIssue("collection_source", at, "the collection does not read this bucket")]
            )
        found[collection["_id"]] = None
    return list(found)


async def require_objects(deps: Container, bucket_id: str, object_ids: list[str]) -> None:
    """:class:`NotFound` unless every object is in the bucket."""
    missing: list[str] = []
    for start in range(0, len(object_ids), PAGE):
        page = object_ids[start : start + PAGE]
        where = {"_id": {"$in": page}, "bucket_id": bucket_id}
        found = {row["_id"] for row in await deps.objects.collection.find(where, limit=len(page), fields=["_id"])}
        missing += [object_id for object_id in page if object_id not in found]
    if missing:
        raise NotFound(
            f"{len(missing)} objects are not in this bucket",
            code="objects_not_found",
            details={"resource": "object", "ids": missing[:MAX_IDS_NAMED], "missing_count": len(missing)},
        )


async def get_batch(deps: Container, namespace_id: str, batch_id: str, bucket_id: str | None = None) -> BatchDocument:
    """The batch, only within the namespace and, if given, the bucket."""
    batch = await deps.batches.get(batch_id)
    if batch is None or batch["namespace_id"] != namespace_id or bucket_id not in (None, batch["bucket_id"]):
        raise NotFound.of("batch", batch_id)
    return batch


async def _found(deps: Container, bucket: BucketDocument, body: CreateBatch) -> list[str]:
    """The oldest objects that the filters find. Without a limit, more than a batch can hold are refused."""
    wanted = selection({"bucket_id": bucket["_id"]}, list_spec(bucket), body.filters)
    limit = body.limit or MAX_OBJECTS + 1
    oldest = [("created_at", 1), ("_id", 1)]
    with search_timeout():
        rows = await deps.objects.collection.find(
            wanted.where, limit=limit, sort=oldest, fields=["_id"], computed=wanted.computed
        )
    if not rows:
        raise BadRequest("no object matches the filters", code="batch_empty")
    if len(rows) > MAX_OBJECTS:
        raise BadRequest(
            f"more than {MAX_OBJECTS} objects match the filters: give a limit, or narrow them",
            code="batch_too_large",
            details={"limit": MAX_OBJECTS},
        )
    return [row["_id"] for row in rows]
