"""Lists of batches, of one bucket or of all that a caller may see."""

from collections.abc import Mapping, Sequence

from bucketline.db.batches import SUMMARY_FIELDS, BatchDocument
from bucketline.domain.pagination import BATCHES
from bucketline.errors import BadRequest
from bucketline_ingest_api.auth import Principal, can_access
from bucketline_ingest_api.batches.collection_tiers import source_buckets
from bucketline_ingest_api.batches.schemas import ListBatches
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListQuery

OBJECTS_SHOWN = 100
"""Of each batch in a list. A batch alone shows all of them."""

KIND = ListSpec(
    bounds=BATCHES,
    field_path=field_mapper(
        {
            "batch_id": "_id",
            "bucket_id": "bucket_id",
            "namespace_id": "namespace_id",
            "batch_name": "batch_name",
            "status": "status",
            "object_ids": "objects",
            "collection_ids": "collection_ids",
            "dedup_strategy": "dedup_strategy",
            "metadata": "metadata",
            "task_id": "task_id",
            "documents_written": "documents_written",
            "failed_object_count": "failed",
            "failure_reason": "failure_reason",
            "retry_count": "retry_count",
            "created_at": "created_at",
            "updated_at": "updated_at",
        },
        under="unknown",
    ),
    searched=("_id", "batch_name"),
    exact=frozenset({"batch_id", "bucket_id", "namespace_id", "status", "task_id", "object_ids", "collection_ids"}),
    fields=SUMMARY_FIELDS,
)


async def list_batches(
    deps: Container, scope: Mapping[str, object], asked: ListQuery, body: ListBatches | None
) -> Page[BatchDocument]:
    """Batches within ``scope``, newest first, each with the first of its objects."""
    conditions: list[Mapping[str, object]] = [scope]
    if body is not None and body.status is not None:
        conditions.append({"status": str(body.status)})
    if body is not None and body.collection_id is not None:
        conditions.append(await _through(deps, body.collection_id))
    where = conditions[0] if len(conditions) == 1 else {"$and": conditions}
    listed = await list_rows(deps.batches.collection, where, KIND, asked, body)
    await add_objects_shown(deps, listed.rows)
    return listed


async def add_objects_shown(deps: Container, batches: Sequence[BatchDocument]) -> None:
    """Gives batches that were read without their objects the first of them."""
    ids = [batch["_id"] for batch in batches]
    rows = await deps.batches.collection.aggregate(
        [{"$match": {"_id": {"$in": ids}}}, {"$project": {"objects": {"$slice": ["$objects", OBJECTS_SHOWN]}}}],
        limit=max(1, len(ids)),
    )
    objects = {row["_id"]: row["objects"] for row in rows}
    for batch in batches:
        batch["objects"] = objects.get(batch["_id"], [])


async def everywhere(
    deps: Container, caller: Principal, body: ListBatches | None, namespace: str | None
) -> Mapping[str, object]:
    """The scope of a list without a bucket: one namespace, or all that the caller may see."""
    named = body.namespace_id if body is not None else None
    found = await deps.auth.namespace(caller, namespace) if namespace else None
    if named is not None:
        other = await deps.auth.namespace(caller, named)
        if found is not None and other["_id"] != found["_id"]:
            raise BadRequest("X-Namespace and namespace_id name different namespaces", code="namespace_conflict")
        found = other
    if body is not None and body.bucket_id is not None:
        bucket = await deps.buckets.collection.get(body.bucket_id)
        holder = await deps.namespaces.collection.get(bucket["namespace_id"]) if bucket is not None else None
        visible = bucket is not None and holder is not None and can_access(caller, holder)
        if bucket is None or not visible or (found is not None and bucket["namespace_id"] != found["_id"]):
            return {"bucket_id": {"$in": []}}
        return {"bucket_id": bucket["_id"]}
    if found is not None:
        return {"namespace_id": found["_id"]}
    ids = sorted(caller.namespaces) or await deps.namespaces.ids(caller.organization_id)
    return {"namespace_id": {"$in": ids}}


async def _through(deps: Container, collection_id: str) -> Mapping[str, object]:
    """Batches whose objects go through the collection: it is named, or it reads the bucket and none is named."""
    named: Mapping[str, object] = {"collection_ids": collection_id}
    collection = await deps.collections.collection.get(collection_id)
    if collection is None:
        return named
    buckets = await source_buckets(deps, collection)
    return {"$or": [named, {"collection_ids": None, "bucket_id": {"$in": buckets}}]}
