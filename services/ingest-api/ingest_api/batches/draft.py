"""Drafting batches."""

from bucketline.domain.status import Status
from bucketline.errors import NotFound
from bucketline.ids import derived
from bucketline.storage.batches import BatchDocument
from ingest_api.deps import Deps
from ingest_api.requests import BucketScope
from ingest_api.schemas.batches import CreateBatch

MOST_IDS_NAMED = 100
PAGE = 5000


async def create_batch(deps: Deps, scope: BucketScope, body: CreateBatch, *, skip_validation: bool) -> BatchDocument:
    """A DRAFT of objects of this bucket; :class:`NotFound` names those that are not there."""
    ids = list(dict.fromkeys(body.object_ids or ()))
    if not skip_validation:
        await require_objects(deps, scope.bucket_id, ids)
    now = deps.clock.now()
    batch_id = deps.ids.new("btch")
    batch: BatchDocument = {
        "_id": batch_id,
        "namespace_id": scope.namespace_id,
        "bucket_id": scope.bucket_id,
        "batch_name": body.batch_name,
        "status": str(Status.DRAFT),
        "objects": ids,
        "total": len(ids),
        "collection_ids": body.collection_ids,
        "dedup_strategy": body.dedup_strategy,
        "metadata": dict(body.metadata or {}),
        "task_id": derived("task", batch_id),
        "auto": False,
        "created_at": now,
        "updated_at": now,
    }
    await deps.batches.collection.insert(batch)
    return batch


async def require_objects(deps: Deps, bucket_id: str, object_ids: list[str]) -> None:
    """:class:`NotFound` unless every object is in the bucket."""
    for start in range(0, len(object_ids), PAGE):
        page = object_ids[start : start + PAGE]
        where = {"_id": {"$in": page}, "bucket_id": bucket_id}
        found = {row["_id"] for row in await deps.objects.collection.find(where, limit=len(page), fields=["_id"])}
        missing = [object_id for object_id in page if object_id not in found]
        if missing:
            raise NotFound(
                f"{len(missing)} objects are not in this bucket",
                details={"resource": "object", "ids": missing[:MOST_IDS_NAMED], "missing_count": len(missing)},
            )


async def get_batch(deps: Deps, namespace_id: str, batch_id: str, bucket_id: str | None = None) -> BatchDocument:
    """The batch, only within the namespace and, if given, the bucket."""
    batch = await deps.batches.get(batch_id)
    if batch is None or batch["namespace_id"] != namespace_id or bucket_id not in (None, batch["bucket_id"]):
        raise NotFound.of("batch", batch_id)
    return batch
