"""``/v1/buckets/{bucket_identifier}/objects`` and ``/v1/objects``."""

import asyncio
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ValidationError

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import Deletion, ObjectDocument
from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import (
    BucketDelete,
    BucketRead,
    BucketScope,
    BucketWrite,
    ContainerDep,
    NamespaceRead,
    get_container,
    request_bucket,
)
from bucketline_ingest_api.documents.schemas import Document
from bucketline_ingest_api.exception_handlers import body_faults
from bucketline_ingest_api.objects.aggregate import aggregate_objects
from bucketline_ingest_api.objects.aggregate_schemas import AggregateObjects, Aggregates
from bucketline_ingest_api.objects.create import LARGE_BODY, create_object
from bucketline_ingest_api.objects.create_batch import create_objects, show_outcomes
from bucketline_ingest_api.objects.delete import remove_object
from bucketline_ingest_api.objects.delete_many import soft_delete
from bucketline_ingest_api.objects.listing import list_objects
from bucketline_ingest_api.objects.read import document_count, documents_of, get_object, presigned, stats_of
from bucketline_ingest_api.objects.schemas import (
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
from bucketline_ingest_api.objects.serializers import project, serialize, to_json, written_headers
from bucketline_ingest_api.objects.update import patch_object
from bucketline_ingest_api.raw_operation import raw_operation
from bucketline_ingest_api.schemas import ListQuery, Paging, errors

Search = Annotated[str | None, Query(max_length=1000, description="Text in the key or in the fields.")]
CollectionIds = Annotated[list[str] | None, Query(max_length=100, description="Only of these collections.")]

M = TypeVar("M", bound=BaseModel)

router = APIRouter(tags=["objects"])

BUCKET = "/v1/buckets/{bucket_identifier}/objects"
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off", ""})

_POLICY = {
    "name": "policy",
    "in": "query",
    "required": False,
    "schema": {"anyOf": [{"type": "string", "enum": ["insert", "update", "upsert"]}, {"type": "null"}]},
    "description": "What to do about an object with the same unique key; the bucket's default if left out.",
}
_AUTO_PROCESS = {
    "name": "auto_process",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False},
    "description": "Process at once, each object in a batch of its own.",
}


@router.post(
    BUCKET,
    summary="Create an object",
    responses={200: {"model": StoredObject}, **errors(400, 409, 413)},
    openapi_extra=raw_operation(CreateObject, _POLICY, _AUTO_PROCESS, path=("bucket_identifier",)),
)
async def create(request: Request) -> Response:
    """Stores an object durably; by `policy` into the one with the same unique key."""
    scope, auto_process = await _writing(request)
    body, size = await _read(request, CreateObject)
    policy = request.query_params.get("policy")
    deps = get_container(request)
    written = await create_object(deps, scope.bucket, body, policy=policy, auto_process=auto_process, size=size)
    return _answer(await _show_written(deps, written.document), headers=written_headers(written.document))


@router.post(
    BUCKET + "/batch",
    summary="Create up to 100 objects",
    responses={
        200: {"model": CreatedObjects},
        **errors(400, 413),
        422: {"model": RefusedObjects, "description": "The request, or every object in it, is not valid"},
    },
    openapi_extra=raw_operation(CreateObjects, _AUTO_PROCESS, path=("bucket_identifier",)),
)
async def create_batch(request: Request) -> Response:
    """Stores objects with one write; each has its own result. 422 with the same body when all of them failed."""
    scope, auto_process = await _writing(request)
    body, size = await _read(request, CreateObjects)
    deps = get_container(request)
    outcomes = await create_objects(deps, scope.bucket, body.objects, auto_process=auto_process, size=size)
    shown = show_outcomes(outcomes, deps.blobstore.url_of, await deps.poll_field(scope.bucket_id))
    return _answer(shown, status=200 if shown["succeeded"] else 422)


@router.post(BUCKET + "/bulk-soft-delete", summary="Delete up to 5,000 objects", responses=errors(400))
async def bulk_soft_delete(deps: ContainerDep, scope: BucketDelete, body: SoftDelete) -> SoftDeleted:
    """Deletes objects by id, as one by one: documents, unique keys and events. Unknown ids are left out.

    What was deleted is kept for 30 days, with the reason and the key that asked, out of reach of every route.
    """
    deletion: Deletion = {
        "at": deps.clock.now(),
        "key_id": scope.caller.key_id,
        "reason": body.reason,
        "lifecycle_state": body.lifecycle_state or "disabled",
        "source": body.source or "bulk_purge",
    }
    removed = await soft_delete(deps, scope.bucket, body.object_ids, deletion)
    readers = await deps.collections.reading_bucket(scope.bucket_id)
    return SoftDeleted(soft_deleted=removed, requested=len(body.object_ids), collections=len(readers))


@router.post(BUCKET + "/aggregate", summary="Aggregate objects", responses=errors(400))
async def aggregate(deps: ContainerDep, scope: BucketRead, body: AggregateObjects) -> Aggregates:
    """Counts, sums and extremes of the objects of each group, in one query of at most 10 seconds."""
    return await aggregate_objects(deps, scope.bucket, body)


@router.get(
    BUCKET + "/{object_id}",
    summary="Get an object",
    response_model=StoredObject,
    responses=errors(400),
)
async def get(
    deps: ContainerDep,
    scope: BucketRead,
    object_id: str,
    return_presigned_urls: Annotated[bool, Query(description="A URL to download each stored blob.")] = False,
    return_url: Annotated[bool, Query(description="Older alias for `return_presigned_urls`.")] = False,
    include_document_count: Annotated[bool, Query(description="Include the number of its documents.")] = True,
) -> Response:
    """The object as it stands now."""
    found = await get_object(deps, scope.bucket_id, object_id)
    count = await document_count(deps, object_id) if include_document_count else None
    urls = await presigned(deps, [found]) if return_presigned_urls or return_url else None
    return _answer(serialize(found, deps.blobstore.url_of, document_count=count, presigned=urls))


@router.patch(
    BUCKET + "/{object_id}",
    summary="Change fields of an object",
    response_model=StoredObject,
    responses=errors(400, 409, 413),
)
async def patch(deps: ContainerDep, scope: BucketWrite, object_id: str, body: PatchObject) -> Response:
    """Only what is sent changes. Nothing is processed."""
    return _answer(await _show_written(deps, await patch_object(deps, scope.bucket, object_id, body)))


@router.put(
    BUCKET + "/{object_id}",
    summary="Update an object",
    response_model=StoredObject,
    responses=errors(400, 409, 413),
)
async def put(deps: ContainerDep, scope: BucketWrite, object_id: str, body: PutObject) -> Response:
    """As PATCH, with the fields in `metadata`. Blobs stay as they are."""
    return _answer(await _show_written(deps, await patch_object(deps, scope.bucket, object_id, body)))


@router.delete(
    BUCKET + "/{object_id}", summary="Delete an object", status_code=204, response_class=Response, responses=errors(400)
)
async def delete(deps: ContainerDep, scope: BucketDelete, object_id: str) -> None:
    """Its documents go too; its unique key is free at once."""
    await remove_object(deps, scope.bucket, object_id)


@router.get(BUCKET, summary="List objects", response_model=ObjectList, responses=errors(400))
async def listing(deps: ContainerDep, scope: BucketRead, asked: Paging, search: Search = None) -> Response:  # noqa: ARG001 - read from the query
    """Oldest first."""
    return await _page(deps, scope.bucket, asked, None)


@router.post(BUCKET + "/list", summary="List objects, with filters", response_model=ObjectList, responses=errors(400))
async def filtered(deps: ContainerDep, scope: BucketRead, asked: Paging, body: ListObjects | None = None) -> Response:
    """Filters, search and sort order are in the body."""
    return await _page(deps, scope.bucket, asked, body)


@router.get(
    "/v1/objects/{object_id}/documents",
    summary="Documents made of an object",
    response_model=ObjectDocuments,
    responses=errors(400),
)
async def documents(
    deps: ContainerDep, scope: NamespaceRead, object_id: str, collection_ids: CollectionIds = None
) -> Response:
    """Empty until the object has been processed."""
    total, found = await documents_of(deps, scope.namespace_id, object_id, collection_ids or ())
    rows = [Document.of(document).model_dump(mode="json", by_alias=True) for document in found]
    return _answer({"object_id": object_id, "total_documents": total, "documents": rows})


async def _show_written(deps: Container, obj: ObjectDocument) -> dict[str, Any]:
    return serialize(obj, deps.blobstore.url_of, poll=await deps.poll_field(obj["bucket_id"]))


async def _page(deps: Container, bucket: BucketDocument, asked: ListQuery, body: ListObjects | None) -> Response:
    listed = await list_objects(deps, bucket, asked, body)
    urls = await presigned(deps, listed.rows) if body is not None and body.return_presigned_urls else None
    rows = [serialize(obj, deps.blobstore.url_of, presigned=urls) for obj in listed.rows]
    if body is not None and body.select is not None:
        rows = [project(row, body.select) for row in rows]
    return _answer(
        {
            "results": rows,
            "pagination": listed.pagination.model_dump(mode="json"),
            "stats": stats_of(listed.rows),
        }
    )


async def _writing(request: Request) -> tuple[BucketScope, bool]:
    """Where a fast route writes, and whether what it writes is processed at once."""
    query = request.query_params
    namespace = request.headers.get("x-namespace") or query.get("namespace")
    scope = await request_bucket(request, "WRITE", namespace, request.path_params["bucket_identifier"])
    return scope, _flag("auto_process", query.get("auto_process"))


async def _read(request: Request, model: type[M]) -> tuple[M, int]:
    """The body, validated straight from its bytes, and how many those are. A large one is read in a thread."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ValidationFailed(
            [ValidationIssue("content_type", ("header", "content-type"), "application/json is expected")]
        )
    raw = await request.body()
    try:
        if len(raw) > LARGE_BODY:
            return await asyncio.to_thread(model.model_validate_json, raw), len(raw)
        return model.model_validate_json(raw), len(raw)
    except ValidationError as error:
        raise body_faults(error) from error


def _flag(name: str, given: str | None) -> bool:
    """A boolean of the query string."""
    if given is None or given.lower() in _FALSE:
        return False
    if given.lower() in _TRUE:
        return True
    raise ValidationFailed([ValidationIssue("bool_parsing", ("query", name), "true or false is expected")])


def _answer(shown: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(shown), status, headers, "application/json")


HOT = (create, create_batch)
"""What takes objects in: past the framework, see :mod:`bucketline_ingest_api.fast_path`."""
