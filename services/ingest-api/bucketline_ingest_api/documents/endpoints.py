"""``/v1/collections/{collection}/documents``."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import JsonValue, ValidationError

from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.collections.service import count_documents, find_collection
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import ContainerDep, NamespaceDelete, NamespaceRead, NamespaceWrite
from bucketline_ingest_api.documents.change import change_document
from bucketline_ingest_api.documents.expand import EXPANDED, expanded, references
from bucketline_ingest_api.documents.schemas import (
    Document,
    DocumentCount,
    DocumentList,
    DocumentListStats,
    ListDocuments,
)
from bucketline_ingest_api.documents.service import delete_document, get_document, list_documents, presigned
from bucketline_ingest_api.exception_handlers import to_validation_failed
from bucketline_ingest_api.objects.serializers import JsonResponse, project
from bucketline_ingest_api.schemas import Deleted, ListQuery, Paging, UnsupportedFlag, UnsupportedText, errors

router = APIRouter(prefix="/v1/collections/{collection_identifier}/documents", tags=["documents"])

DocumentFields = Annotated[
    dict[str, JsonValue],
    Body(
        description="Fields at the document's root.",
        examples=[{"category": "contract", "metadata": {"reviewed": True, "draft": None}}],
    ),
]
Presign = Annotated[bool, Query(description="Include download URLs of the blobs, valid for an hour.")]
Filters = Annotated[
    str | None, Query(max_length=100_000, description="Filters as JSON; those of a body take precedence.")
]
SortedBy = Annotated[
    str | None,
    Query(max_length=1000, description="`field:direction`, or JSON; that of a body takes precedence."),
]
Search = Annotated[str | None, Query(max_length=1000, description="Text in the id or in common fields.")]
Vectors = Annotated[UnsupportedFlag, Query(description="There are no vectors here: true is refused.")]
VectorNames = Annotated[UnsupportedText, Query(description="There are no vectors here: names are refused.")]
Expand = Annotated[
    str | None,
    Query(
        max_length=4000,
        description="`parent`, `root_object`, `ancestors`, `children`, or fields that hold document ids, separated by "
        "commas; what they refer to is attached under `_expanded`.",
    ),
]

ALWAYS_SHOWN = ("document_id", "collection_id", EXPANDED)
WHOLE = ("document_blobs", "_internal")


@router.get("", summary="List documents", response_model=DocumentList, responses=errors(400))
@router.post("/list", summary="List documents, with filters", response_model=DocumentList, responses=errors(400))
async def listing(
    deps: ContainerDep,
    scope: NamespaceRead,
    collection_identifier: str,
    asked: Paging,
    body: ListDocuments | None = None,
    filters: Filters = None,
    sort: SortedBy = None,
    search: Search = None,  # noqa: ARG001 - read from the query
    return_presigned_urls: Presign = False,
    return_vectors: Vectors = None,  # noqa: ARG001 - refused
) -> Response:
    """`project` keeps some fields, `expand` attaches documents that these refer to, `partition` reads in parts."""
    wanted = _asked_by_query(body or ListDocuments(), filters, sort)
    presign = return_presigned_urls or bool(wanted.return_presigned_urls)
    return await _list(deps, scope.namespace_id, collection_identifier, asked, wanted, presign)


@router.get("/count", summary="Count documents", responses=errors(400))
async def count(deps: ContainerDep, scope: NamespaceRead, collection_identifier: str) -> DocumentCount:
    collection = await find_collection(deps, scope.namespace_id, collection_identifier)
    return DocumentCount(collection_id=collection["_id"], count=await count_documents(deps, collection["_id"]))


@router.get("/{document_id}", summary="Get a document", responses=errors(400))
async def get(
    deps: ContainerDep,
    scope: NamespaceRead,
    collection_identifier: str,
    document_id: str,
    return_presigned_urls: Presign = False,
    expand: Expand = None,
    return_vectors: Vectors = None,  # noqa: ARG001 - refused
    return_vector_names: VectorNames = None,  # noqa: ARG001 - refused
) -> Document:
    collection = await find_collection(deps, scope.namespace_id, collection_identifier)
    document = await get_document(deps, collection["_id"], document_id)
    shown = Document.of(document, await presigned(deps, [document]) if return_presigned_urls else None)
    names = [name for name in (expand or "").split(",") if name]
    return shown.model_copy(update={EXPANDED: await expanded(deps, document, names)}) if names else shown


@router.patch("/{document_id}", summary="Change fields of a document", responses=errors(400, 413))
@router.put("/{document_id}", summary="Update a document", operation_id="update_document", responses=errors(400, 413))
async def change(
    deps: ContainerDep, scope: NamespaceWrite, collection_identifier: str, document_id: str, body: DocumentFields
) -> Document:
    """Sets the fields that are sent, and no others; `_internal` and the document's blobs stay.

    In `metadata` each key is set for itself, and null removes one. What is changed here is lost when the object is
    processed again: always with `dedup_strategy` replace or force, and with skip once the object has changed.
    """
    collection = await find_collection(deps, scope.namespace_id, collection_identifier)
    return Document.of(await change_document(deps, collection["_id"], document_id, body))


@router.delete("/{document_id}", summary="Delete a document", responses=errors(400))
async def delete(deps: ContainerDep, scope: NamespaceDelete, collection_identifier: str, document_id: str) -> Deleted:
    collection = await find_collection(deps, scope.namespace_id, collection_identifier)
    await delete_document(deps, collection["_id"], document_id)
    return Deleted(message="document deleted")


async def _list(
    deps: Container, namespace_id: str, identifier: str, asked: ListQuery, body: ListDocuments, presign: bool
) -> Response:
    collection = await find_collection(deps, namespace_id, identifier)
    listed = await list_documents(deps, collection, asked, body)
    urls = await presigned(deps, listed.rows) if presign else None
    blobs = sum(len(document["blobs"]) for document in listed.rows)
    total = listed.pagination.total
    shown = DocumentList(
        results=[Document.of(document, urls) for document in listed.rows],
        pagination=listed.pagination,
        total_documents=total,
        stats=DocumentListStats(
            total_documents=total, avg_blobs_per_document=blobs / len(listed.rows) if listed.rows else 0.0
        ),
    ).model_dump(mode="json", by_alias=True)
    rows: list[dict[str, Any]] = shown["results"]
    if body.expand:
        for row, found in zip(rows, await references(deps, namespace_id, listed.rows, body.expand), strict=True):
            row[EXPANDED] = found
    if body.select is not None:
        shown["results"] = [project(row, body.select, always=ALWAYS_SHOWN, whole=WHOLE) for row in rows]
    return JsonResponse(shown)


def _asked_by_query(body: ListDocuments, filters: str | None, sort: str | None) -> ListDocuments:
    """The body with what only the query says."""
    given: dict[str, object] = {}
    if filters is not None and body.filters is None:
        given["filters"] = _json("filters", filters)
    if sort is not None and body.sort is None and body.sorts is None:
        field, _, direction = sort.rpartition(":")
        plain = {"field": field, "direction": direction} if field else {"field": sort}
        given["sort"] = _json("sort", sort) if sort.lstrip().startswith(("{", "[")) else plain
    if not given:
        return body
    try:
        read = ListDocuments.model_validate(given)
    except ValidationError as error:
        raise to_validation_failed(error, "query") from error
    return body.model_copy(update={name: getattr(read, name) for name in given})


def _json(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValidationFailed([ValidationIssue("json_invalid", ("query", name), "JSON is expected")]) from error
