"""Create, find, list, update and delete batches."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from bucketline.db.batches import SUMMARY_FIELDS, BatchDocument, task_of
from bucketline.db.buckets import BucketDocument
from bucketline.db.collections import CollectionDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.domain.collection_graph import bucket_ids_of, select_tiers
from bucketline.domain.pagination import BATCHES
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.errors import (
    BadRequest,
    NotFound,
    RetryableError,
    ServiceUnavailable,
    ValidationFailed,
    ValidationIssue,
)
from bucketline_ingest_api.auth import Principal, can_access
from bucketline_ingest_api.batches.schemas import (
    MAX_OBJECTS,
    AddObjects,
    Batch,
    CreateBatch,
    DedupStrategy,
    ListBatches,
    UpdateBatch,
)
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.service import list_spec
from bucketline_ingest_api.objects.validation import ensure_writable
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows, search_timeout, select_rows
from bucketline_ingest_api.schemas import ListQuery

MAX_UPDATE_ATTEMPTS = 10
MAX_IDS_IN_ERROR = 100
PAGE_SIZE = 5000
OLDEST_FIRST = (("created_at", 1), ("_id", 1))
LISTED_OBJECTS = 100
"""A list shows this many objects of each batch; the endpoint of a single batch shows all."""

Tiers = Sequence[Sequence[CollectionDocument]]

LIST_SPEC = ListSpec(
    bounds=BATCHES,
    field_path=field_mapper(
        {"batch_id": "_id", "object_ids": "objects", "failed_object_count": "failed"}, unchanged=Batch.model_fields
    ),
    searched=("_id", "batch_name"),
    exact=frozenset({"batch_id", "bucket_id", "namespace_id", "status", "task_id", "object_ids", "collection_ids"}),
    fields=SUMMARY_FIELDS,
)


async def find_batch(container: Container, namespace_id: str, bucket_id: str, batch_id: str) -> BatchDocument:
    """Return the batch of this bucket. Raises :class:`NotFound`."""
    batch = await container.batches.get(batch_id)
    if batch is None or (batch["namespace_id"], batch["bucket_id"]) != (namespace_id, bucket_id):
        raise NotFound.of("batch", batch_id)
    return batch


async def find_batch_by_id(
    container: Container, caller: Principal, batch_id: str, namespace: str | None
) -> BatchDocument:
    """Return the batch if the caller may access it. Raises :class:`NotFound`, also if it is in another namespace."""
    scope = await container.auth.namespace(caller, namespace) if namespace else None
    batch = await container.batches.get(batch_id)
    if batch is not None and (scope is None or batch["namespace_id"] == scope["_id"]):
        owner = scope or await container.namespaces.get_by_id(batch["namespace_id"])
        if owner is not None and can_access(caller, owner):
            return batch
    raise NotFound.of("batch", batch_id)


async def find_batches(
    container: Container, scope: Mapping[str, object], list_query: ListQuery, body: ListBatches | None
) -> Page[BatchDocument]:
    """Return a page of the batches within ``scope``, newest first, each with the first of its objects."""
    where: dict[str, object] = dict(scope)
    if body is not None and body.status is not None:
        where["status"] = str(body.status)
    if body is not None and body.collection_id is not None:
        where |= await _reaching(container, body.collection_id)
    page = await list_rows(container.batches, where, LIST_SPEC, list_query, body)
    ids = [batch["_id"] for batch in page.rows]
    objects = await container.batches.first_objects(ids, LISTED_OBJECTS)
    for batch in page.rows:
        batch["objects"] = objects.get(batch["_id"], [])
    return page


async def scope_of_all_buckets(
    container: Container, caller: Principal, body: ListBatches | None, namespace: str | None
) -> Mapping[str, object]:
    """Return the condition for a list across buckets: one namespace or bucket, or all that the caller may access."""
    scope = await container.auth.namespace(caller, namespace) if namespace else None
    if body is not None and body.namespace_id is not None:
        requested = await container.auth.namespace(caller, body.namespace_id)
        if scope is not None and requested["_id"] != scope["_id"]:
            raise BadRequest("X-Namespace and namespace_id name different namespaces", code="namespace_conflict")
        scope = requested
    if body is not None and body.bucket_id is not None:
        bucket = await container.buckets.get_by_id(body.bucket_id)
        owner = await container.namespaces.get_by_id(bucket["namespace_id"]) if bucket is not None else None
        visible = owner is not None and can_access(caller, owner) and (scope is None or owner["_id"] == scope["_id"])
        return {"bucket_id": body.bucket_id} if visible else {"bucket_id": {"$in": []}}
    if scope is not None:
        return {"namespace_id": scope["_id"]}
    ids = sorted(caller.namespaces) or await container.namespaces.ids(caller.organization_id)
    return {"namespace_id": {"$in": ids}}


async def create_batch(
    container: Container, bucket: BucketDocument, body: CreateBatch, *, skip_validation: bool
) -> BatchDocument:
    """Create a draft of the bucket's objects. Raises :class:`NotFound` for unknown objects or collections."""
    ensure_writable(bucket)
    collection_ids = await resolve_collections(container, bucket, body.collection_ids)
    if body.object_ids is None:
        object_ids = await _search_objects(container, bucket, body)
    else:
        object_ids = list(dict.fromkeys(body.object_ids))
        if not skip_validation:
            await _require_objects(container, bucket["_id"], object_ids)
    batch = new_draft(
        bucket["namespace_id"],
        bucket["_id"],
        object_ids,
        batch_id=container.ids.new("btch"),
        now=container.clock.now(),
        name=body.batch_name,
        collection_ids=collection_ids,
        strategy=body.dedup_strategy,
        metadata=dict(body.metadata or {}),
    )
    await container.batches.create(batch)
    return batch


def new_draft(
    namespace_id: str,
    bucket_id: str,
    object_ids: list[str],
    *,
    batch_id: str,
    now: datetime,
    name: str | None = None,
    collection_ids: list[str] | None = None,
    strategy: DedupStrategy = "skip",
    metadata: dict[str, object] | None = None,
) -> BatchDocument:
    """Return the document of a new draft."""
    return {
        "_id": batch_id,
        "namespace_id": namespace_id,
        "bucket_id": bucket_id,
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


async def resolve_collections(
    container: Container, bucket: BucketDocument, identifiers: Sequence[str] | None
) -> list[str] | None:
    """Return the ids of collections given by id or name; None, for all that read the bucket, when none is given."""
    if not identifiers:
        return None
    collection_ids: dict[str, None] = {}
    for index, identifier in enumerate(identifiers):
        collection = await container.collections.resolve(bucket["namespace_id"], identifier)
        if collection is None or collection.get("deleting"):
            raise NotFound.of("collection", identifier)
        if bucket["_id"] not in bucket_ids_of(await container.collections.upstream([collection])):
            location = ("body", "collection_ids", index)
            message = "the collection does not read this bucket"
            raise ValidationFailed([ValidationIssue("collection_source", location, message)])
        collection_ids[collection["_id"]] = None
    return list(collection_ids)


async def add_objects(
    container: Container, bucket: BucketDocument, batch: BatchDocument, body: AddObjects, *, skip_validation: bool
) -> BatchDocument:
    """Add objects to a draft and return it; objects that it has already are ignored.

    The write is a compare-and-set on the number of objects, which only grows, so concurrent additions are all kept.
    """
    ensure_writable(bucket)
    object_ids = list(dict.fromkeys(body.object_ids))
    if batch["status"] != Status.DRAFT:
        raise not_a_draft(batch)
    if not skip_validation:
        await _require_objects(container, bucket["_id"], object_ids)
    for _ in range(MAX_UPDATE_ATTEMPTS):
        existing = set(batch["objects"])
        added = [object_id for object_id in object_ids if object_id not in existing]
        if not added:
            return batch
        total = batch["total"] + len(added)
        if total > MAX_OBJECTS:
            raise BadRequest(
                f"a batch has at most {MAX_OBJECTS} objects",
                code="batch_too_large",
                details={"batch_id": batch["_id"], "limit": MAX_OBJECTS, "object_count": total},
            )
        updated = await container.batches.change(
            batch["_id"],
            [str(Status.DRAFT)],
            {"$push": {"objects": {"$each": added}}, "$set": {"total": total, "updated_at": container.clock.now()}},
            total=batch["total"],
        )
        if updated is not None:
            return updated
        current = await container.batches.get(batch["_id"])
        if current is None:
            raise NotFound.of("batch", batch["_id"])
        if current["status"] != Status.DRAFT:
            raise not_a_draft(current)
        batch = current
    raise ServiceUnavailable("the batch is being modified concurrently; try again", retry_after_seconds=1)


async def update_batch(container: Container, batch: BatchDocument, body: UpdateBatch) -> BatchDocument:
    """Replace the metadata, in any state of the batch, and return the updated batch."""
    if body.metadata is None:
        return batch
    updated = await container.batches.set_metadata(batch["_id"], dict(body.metadata), container.clock.now())
    if updated is None:
        raise NotFound.of("batch", batch["_id"])
    return updated


async def delete_batch(container: Container, batch: BatchDocument) -> None:
    """Delete a batch that is not running, once its events have been published. Its objects and documents stay."""
    active = [str(status) for status in BATCH_ACTIVE]
    for _ in range(MAX_UPDATE_ATTEMPTS):
        if await container.batches.delete_finished(batch["_id"]):
            return
        current = await container.batches.get(batch["_id"], fields=["status", "pending"])
        if current is None:
            return
        if current["status"] in active:
            raise BadRequest(
                "the batch is running: cancel it first",
                code="batch_running",
                details={"batch_id": batch["_id"], "status": current["status"]},
            )
        try:
            await container.batch_outbox.publish([outbox_entry_of(current)])
        except RetryableError:
            break
    raise ServiceUnavailable(
        "the batch has finished but its completion event has not been published yet; try again", retry_after_seconds=1
    )


async def find_tiers(container: Container, batches: Sequence[BatchDocument]) -> list[Tiers]:
    """Return the collections that the objects of each batch reach, by tier."""
    bucket_ids = {batch["bucket_id"] for batch in batches}
    of_bucket = {bucket_id: await container.collections.tiers_of_bucket(bucket_id) for bucket_id in bucket_ids}
    tiers: list[Tiers] = []
    for batch in batches:
        every, selected = of_bucket[batch["bucket_id"]], batch["collection_ids"]
        tiers.append(every if selected is None else select_tiers(every, selected))
    return tiers


def objects_after(created_at: object, object_id: object) -> dict[str, object]:
    """Return the condition for objects behind this one in the order :data:`OLDEST_FIRST`."""
    return {
        "created_at": {"$gte": created_at},
        "$or": [{"created_at": {"$gt": created_at}}, {"_id": {"$gt": object_id}}],
    }


def not_a_draft(batch: BatchDocument) -> BadRequest:
    """Return the error for an operation that only drafts allow."""
    return BadRequest(
        f"the batch is {batch['status']}, not DRAFT",
        code="batch_not_draft",
        details={"batch_id": batch["_id"], "status": batch["status"]},
    )


async def _require_objects(container: Container, bucket_id: str, object_ids: Sequence[str]) -> None:
    """Raise :class:`NotFound` unless every object is in the bucket."""
    existing = await existing_objects(container, bucket_id, object_ids)
    missing = [object_id for object_id in object_ids if object_id not in existing]
    if missing:
        raise NotFound(
            f"{len(missing)} objects are not in this bucket",
            code="objects_not_found",
            details={"resource": "object", "ids": missing[:MAX_IDS_IN_ERROR], "missing_count": len(missing)},
        )


async def existing_objects(container: Container, bucket_id: str, object_ids: Sequence[str]) -> set[str]:
    """Return the ids of those objects that are in the bucket."""
    existing: set[str] = set()
    for start in range(0, len(object_ids), PAGE_SIZE):
        ids = list(object_ids[start : start + PAGE_SIZE])
        existing |= await container.objects.existing_in_bucket(bucket_id, ids)
    return existing


async def _search_objects(container: Container, bucket: BucketDocument, body: CreateBatch) -> list[str]:
    """Return the oldest objects that match the filters. Without a limit, reject more than a batch can hold."""
    selected = select_rows({"bucket_id": bucket["_id"]}, list_spec(bucket), body.filters)
    with search_timeout():
        rows = await container.objects.search(
            selected.where,
            limit=body.limit or MAX_OBJECTS + 1,
            sort=OLDEST_FIRST,
            fields=["_id"],
            computed=selected.computed,
        )
    if not rows:
        raise BadRequest("no object matches the filters", code="batch_empty")
    if len(rows) > MAX_OBJECTS:
        raise BadRequest(
            f"more than {MAX_OBJECTS} objects match the filters: set a limit, or narrow the filters",
            code="batch_too_large",
            details={"limit": MAX_OBJECTS},
        )
    return [row["_id"] for row in rows]


async def _reaching(container: Container, collection_id: str) -> Mapping[str, object]:
    """Return the condition for batches whose objects reach the collection: by its id, or because none is named."""
    named: Mapping[str, object] = {"collection_ids": collection_id}
    collection = await container.collections.get_by_id(collection_id)
    if collection is None:
        return named
    bucket_ids = bucket_ids_of(await container.collections.upstream([collection]))
    return {"$or": [named, {"collection_ids": None, "bucket_id": {"$in": bucket_ids}}]}
