"""``/v1/buckets/{bucket_identifier}/objects`` and ``/v1/objects``."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import Deletion, ObjectDocument
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import (
    BucketDelete,
    BucketRead,
    BucketWrite,
    ContainerDep,
    NamespaceRead,
)
from bucketline_ingest_api.documents.schemas import Document
from bucketline_ingest_api.fast_path import FastCreateRoute
from bucketline_ingest_api.objects import create, deletion, service, update
from bucketline_ingest_api.objects.schemas import (
    AggregateObjects,
    Aggregates,
    CreatedObjects,
    CreateObject,
    CreateObjects,
    ListObjects,
    ObjectDocuments,
    ObjectList,
    PatchObject,
    PutObject,
    RefusedObjects,
    SoftDelete,
    SoftDeleted,
    StoredObject,
)
from bucketline_ingest_api.objects.serializers import JsonResponse, project, serialize, written_headers
from bucketline_ingest_api.schemas import ListQuery, Paging, errors

PolicyName = Annotated[
    str | None,
    Query(
        json_schema_extra={"enum": ["insert", "update", "upsert", None]},
        description="What to do if the unique key exists; defaults to the bucket's policy.",
    ),
]
AutoProcess = Annotated[bool, Query(description="Process the object at once, in its own batch.")]
Search = Annotated[str | None, Query(max_length=1000, description="Text in the id, key prefix or custom fields.")]
CollectionIds = Annotated[list[str] | None, Query(max_length=100, description="Only documents of these collections.")]

create_router = APIRouter(tags=["objects"], route_class=FastCreateRoute)
router = APIRouter(tags=["objects"])

BUCKET = "/v1/buckets/{bucket_identifier}/objects"


@create_router.post(BUCKET, summary="Create an object", response_model=StoredObject, responses=errors(409, 413))
async def create_object(
    request: Request,
    deps: ContainerDep,
    scope: BucketWrite,
    body: CreateObject,
    policy: PolicyName = None,
    auto_process: AutoProcess = False,
) -> Response:
    """Store an object durably. `policy` decides whether an object with the same unique key is updated."""
    size = len(await request.body())
    written = await create.create_object(deps, scope.bucket, body, policy=policy, auto_process=auto_process, size=size)
    return JsonResponse(await _serialize_written(deps, written.document), headers=written_headers(written.document))


@create_router.post(
    BUCKET + "/batch",
    summary="Create up to 100 objects",
    response_model=CreatedObjects,
    responses={
        **errors(413),
        422: {"model": RefusedObjects, "description": "The request, or every object in it, is not valid"},
    },
)
async def create_objects(
    request: Request, deps: ContainerDep, scope: BucketWrite, body: CreateObjects, auto_process: AutoProcess = False
) -> Response:
    """Store objects with one write; each has its own result. If all of them fail, the same body is sent with 422."""
    size = len(await request.body())
    outcomes = await create.create_objects(deps, scope.bucket, body.objects, auto_process=auto_process, size=size)
    succeeded, failed = [], []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, create.WriteResult):
            replayed = {"replayed": outcome.replayed_by is not None, "replayed_by": outcome.replayed_by}
            row = await _serialize_written(deps, outcome.document)
            succeeded.append({**row, "object_index": index, **replayed})
        else:
            error = create.error_line(outcome)
            failed.append({"object_index": index, "error": error, "error_type": outcome.type})
    counts = {"succeeded_count": len(succeeded), "failed_count": len(failed), "total_requested": len(outcomes)}
    content = {"succeeded": succeeded, "failed": failed, **counts}
    return JsonResponse(content, status_code=200 if succeeded else 422)


@router.post(BUCKET + "/bulk-soft-delete", summary="Delete up to 5,000 objects", responses=errors())
async def soft_delete_objects(deps: ContainerDep, scope: BucketDelete, body: SoftDelete) -> SoftDeleted:
    """Delete objects by id, with their documents, unique keys and events. Unknown ids are ignored.

    Their records are kept for 30 days, with the reason and the API key, but no route returns them.
    """
    details: Deletion = {
        "at": deps.clock.now(),
        "key_id": scope.caller.key_id,
        "reason": body.reason,
        "lifecycle_state": body.lifecycle_state or "disabled",
        "source": body.source or "bulk_purge",
    }
    removed = await deletion.soft_delete_objects(deps, scope.bucket, body.object_ids, details)
    readers = await deps.collections.reading_bucket(scope.bucket_id)
    return SoftDeleted(soft_deleted=removed, requested=len(body.object_ids), collections=len(readers))


@router.post(BUCKET + "/aggregate", summary="Aggregate objects", responses=errors())
async def aggregate_objects(deps: ContainerDep, scope: BucketRead, body: AggregateObjects) -> Aggregates:
    """Return counts, sums and extremes of the objects of each group, from one query of at most 10 seconds."""
    return await service.aggregate_objects(deps, scope.bucket, body)


@router.get(BUCKET + "/{object_id}", summary="Get an object", response_model=StoredObject, responses=errors())
async def get_object(
    deps: ContainerDep,
    scope: BucketRead,
    object_id: str,
    return_presigned_urls: Annotated[bool, Query(description="Include a URL to download each stored blob.")] = False,
    return_url: Annotated[bool, Query(description="Older alias for `return_presigned_urls`.")] = False,
    include_document_count: Annotated[bool, Query(description="Include the number of documents.")] = True,
) -> Response:
    """Return the current state of the object."""
    obj = await service.get_object(deps, scope.bucket_id, object_id)
    count = await service.count_documents(deps, object_id) if include_document_count else None
    urls = await service.presign_blobs(deps, [obj]) if return_presigned_urls or return_url else None
    return JsonResponse(serialize(obj, deps.blobstore.url_of, document_count=count, presigned=urls))


@router.patch(
    BUCKET + "/{object_id}",
    summary="Change fields of an object",
    response_model=StoredObject,
    responses=errors(409, 413),
)
async def update_object(deps: ContainerDep, scope: BucketWrite, object_id: str, body: PatchObject) -> Response:
    """Change the fields that are sent. The object is not processed again."""
    changed = await update.patch_object(deps, scope.bucket, object_id, body)
    return JsonResponse(await _serialize_written(deps, changed))


@router.put(
    BUCKET + "/{object_id}",
    summary="Update an object",
    response_model=StoredObject,
    responses=errors(409, 413),
)
async def replace_object(deps: ContainerDep, scope: BucketWrite, object_id: str, body: PutObject) -> Response:
    """Change the fields that are sent, as PATCH does, and those in `metadata`. Blobs stay as they are."""
    changed = await update.patch_object(deps, scope.bucket, object_id, body)
    return JsonResponse(await _serialize_written(deps, changed))


@router.delete(
    BUCKET + "/{object_id}", summary="Delete an object", status_code=204, response_class=Response, responses=errors()
)
async def delete_object(deps: ContainerDep, scope: BucketDelete, object_id: str) -> None:
    """Delete the object and its documents. Its unique key can be used again at once."""
    await deletion.delete_object(deps, scope.bucket, object_id)


@router.get(BUCKET, summary="List objects", response_model=ObjectList, responses=errors())
async def list_objects(deps: ContainerDep, scope: BucketRead, query: Paging, search: Search = None) -> Response:  # noqa: ARG001 - read from the query
    """Return the objects of the bucket, oldest first."""
    return await _list(deps, scope.bucket, query, None)


@router.post(BUCKET + "/list", summary="List objects, with filters", response_model=ObjectList, responses=errors())
async def search_objects(
    deps: ContainerDep, scope: BucketRead, query: Paging, body: ListObjects | None = None
) -> Response:
    """Return the objects that match the filters and the search text of the body, in its sort order."""
    return await _list(deps, scope.bucket, query, body)


@router.get(
    "/v1/objects/{object_id}/documents",
    summary="List the documents of an object",
    response_model=ObjectDocuments,
    responses=errors(),
)
async def list_object_documents(
    deps: ContainerDep, scope: NamespaceRead, object_id: str, collection_ids: CollectionIds = None
) -> Response:
    """Return the documents that collections created from the object; none until it has been processed."""
    total, documents = await service.list_documents(deps, scope.namespace_id, object_id, collection_ids or ())
    rows = [Document.of(document).to_json() for document in documents]
    return JsonResponse({"object_id": object_id, "total_documents": total, "documents": rows})


async def _serialize_written(deps: Container, obj: ObjectDocument) -> dict[str, Any]:
    return serialize(obj, deps.blobstore.url_of, poll=await deps.poll_field(obj["bucket_id"]))


async def _list(deps: Container, bucket: BucketDocument, query: ListQuery, body: ListObjects | None) -> Response:
    page = await service.list_objects(deps, bucket, query, body)
    urls = await service.presign_blobs(deps, page.rows) if body is not None and body.return_presigned_urls else None
    rows = [serialize(obj, deps.blobstore.url_of, presigned=urls) for obj in page.rows]
    if body is not None and body.select is not None:
        rows = [project(row, body.select) for row in rows]
    return JsonResponse(
        {
            "results": rows,
            "pagination": page.pagination.model_dump(mode="json"),
            "stats": service.page_stats(page.rows),
        }
    )
