"""``/v1/collections/{collection}/documents``."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from pydantic import JsonValue, ValidationError
from pydantic_core import from_json

from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.collections import service as collections
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import ContainerDep, NamespaceDelete, NamespaceRead, NamespaceWrite
from bucketline_ingest_api.documents import service
from bucketline_ingest_api.documents.schemas import (
    Document,
    DocumentCount,
    DocumentList,
    ListDocuments,
)
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
    str | None, Query(max_length=100_000, description="Filters as JSON. Filters in the body take precedence.")
]
SortedBy = Annotated[
    str | None,
    Query(max_length=1000, description="`field:direction`, or JSON. The sort order of the body takes precedence."),
]
Search = Annotated[str | None, Query(max_length=1000, description="Text in the id or in common fields.")]
Vectors = Annotated[UnsupportedFlag, Query(description="Vectors are not supported: true is refused.")]
VectorNames = Annotated[UnsupportedText, Query(description="Vectors are not supported: names are refused.")]
Expand = Annotated[
    str | None,
    Query(
        max_length=4000,
        description="`parent`, `root_object`, `ancestors`, `children`, or fields that hold document ids, separated by "
        "commas. The documents they refer to are attached under `_expanded`.",
    ),
]

EXPANDED = "_expanded"
ALWAYS_SHOWN = ("document_id", "collection_id", EXPANDED)
WHOLE = ("document_blobs", "_internal")


@router.get("", summary="List documents", response_model=DocumentList, responses=errors(), name="list_documents")
@router.post("/list", summary="List documents, with filters", response_model=DocumentList, responses=errors())
async def search_documents(
    deps: ContainerDep,
    scope: NamespaceRead,
    collection_identifier: str,
    query: Paging,
    body: ListDocuments | None = None,
    filters: Filters = None,
    sort: SortedBy = None,
    search: Search = None,  # noqa: ARG001 - read from the query
    return_presigned_urls: Presign = False,
    return_vectors: Vectors = None,  # noqa: ARG001 - refused
) -> Response:
    """Return documents, oldest first. `select` keeps some fields, `expand` attaches referenced documents.

    With `partition` several clients can read disjoint parts of the list at the same time.
    """
    request = _merge_query(body or ListDocuments(), filters, sort)
    presign = return_presigned_urls or bool(request.return_presigned_urls)
    return await _list(deps, scope.namespace_id, collection_identifier, query, request, presign)


@router.get("/count", summary="Count documents", responses=errors())
async def count_documents(deps: ContainerDep, scope: NamespaceRead, collection_identifier: str) -> DocumentCount:
    """Return the number of documents of the collection."""
    collection = await collections.find_collection(deps, scope.namespace_id, collection_identifier)
    return DocumentCount(
        collection_id=collection["_id"], count=await collections.count_documents(deps, collection["_id"])
    )


@router.get("/{document_id}", summary="Get a document", responses=errors())
async def get_document(
    deps: ContainerDep,
    scope: NamespaceRead,
    collection_identifier: str,
    document_id: str,
    return_presigned_urls: Presign = False,
    expand: Expand = None,
    return_vectors: Vectors = None,  # noqa: ARG001 - refused
    return_vector_names: VectorNames = None,  # noqa: ARG001 - refused
) -> Document:
    """Return one document, with the documents it refers to if `expand` names them."""
    collection = await collections.find_collection(deps, scope.namespace_id, collection_identifier)
    document = await service.get_document(deps, collection["_id"], document_id)
    response = Document.of(document, await service.presign_blobs(deps, [document]) if return_presigned_urls else None)
    names = [name for name in (expand or "").split(",") if name]
    return (
        response.model_copy(update={EXPANDED: await service.expand_document(deps, document, names)})
        if names
        else response
    )


@router.put("/{document_id}", summary="Update a document", responses=errors(413), name="replace_document")
@router.patch("/{document_id}", summary="Change fields of a document", responses=errors(413))
async def update_document(
    deps: ContainerDep, scope: NamespaceWrite, collection_identifier: str, document_id: str, body: DocumentFields
) -> Document:
    """Set the fields that are sent, and no others; `_internal` and the document's blobs stay.

    In `metadata` each key is set on its own, and null removes one. The change is lost when the object is processed
    again: always with `dedup_strategy` replace or force, and with skip once the object has changed.
    """
    collection = await collections.find_collection(deps, scope.namespace_id, collection_identifier)
    return Document.of(await service.update_document(deps, collection["_id"], document_id, body))


@router.delete("/{document_id}", summary="Delete a document", responses=errors())
async def delete_document(
    deps: ContainerDep, scope: NamespaceDelete, collection_identifier: str, document_id: str
) -> Deleted:
    """Delete one document. It is created again if its object is processed again."""
    collection = await collections.find_collection(deps, scope.namespace_id, collection_identifier)
    await service.delete_document(deps, collection["_id"], document_id)
    return Deleted(message="document deleted")


async def _list(
    deps: Container, namespace_id: str, identifier: str, query: ListQuery, body: ListDocuments, presign: bool
) -> Response:
    collection = await collections.find_collection(deps, namespace_id, identifier)
    page = await service.list_documents(deps, collection, query, body)
    urls = await service.presign_blobs(deps, page.rows) if presign else None
    blobs = sum(len(document["blobs"]) for document in page.rows)
    total = page.pagination.total
    rows = [Document.of(document, urls).to_json() for document in page.rows]
    if body.expand:
        expanded = await service.expand_fields(deps, namespace_id, page.rows, body.expand)
        rows = [row | {EXPANDED: references} for row, references in zip(rows, expanded, strict=True)]
    if body.select is not None:
        rows = [project(row, body.select, always=ALWAYS_SHOWN, whole=WHOLE) for row in rows]
    return JsonResponse(
        {
            "results": rows,
            "pagination": page.pagination.model_dump(mode="json"),
            "total_documents": total,
            "stats": {"total_documents": total, "avg_blobs_per_document": blobs / len(rows) if rows else 0.0},
        }
    )


def _merge_query(body: ListDocuments, filters: str | None, sort: str | None) -> ListDocuments:
    """Return the body with the filters and the sort order of the query where the body has none."""
    values: dict[str, object] = {}
    if filters is not None and body.filters is None:
        values["filters"] = _parse_json("filters", filters)
    if sort is not None and body.sort is None and body.sorts is None:
        field, _, direction = sort.rpartition(":")
        plain = {"field": field, "direction": direction} if field else {"field": sort}
        values["sort"] = _parse_json("sort", sort) if sort.lstrip().startswith(("{", "[")) else plain
    if not values:
        return body
    try:
        read = ListDocuments.model_validate(values)
    except ValidationError as error:
        raise to_validation_failed(error, "query") from error
    return body.model_copy(update={name: getattr(read, name) for name in values})


def _parse_json(name: str, text: str) -> object:
    try:
        return from_json(text)
    except ValueError as error:
        raise ValidationFailed([ValidationIssue("json_invalid", ("query", name), "JSON is expected")]) from error
