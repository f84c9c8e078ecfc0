"""``/v1/collections/{collection}/documents``."""

from typing import Annotated

from fastapi import APIRouter, Body, Query
from pydantic import JsonValue

from ingest_api.collections.resolve import document_count, live_collection
from ingest_api.deps import Deps
from ingest_api.documents.change import change_document
from ingest_api.documents.read import delete_document, get_document, list_documents, presigned
from ingest_api.requests import Deleting, Reading, Wiring, Writing
from ingest_api.schemas.common import Deleted, errors
from ingest_api.schemas.documents import Document, DocumentCount, DocumentList, DocumentListStats, ListDocuments
from ingest_api.schemas.paging import Asked, ListBody, Paging

router = APIRouter(prefix="/v1/collections/{collection_identifier}/documents", tags=["documents"])

DocumentFields = Annotated[
    dict[str, JsonValue],
    Body(
        description="Fields at the document's root.",
        examples=[{"category": "contract", "metadata": {"reviewed": True, "draft": None}}],
    ),
]
Presign = Annotated[bool, Query(description="Include download URLs of the blobs, valid for an hour.")]


@router.get("", summary="List documents", responses=errors(400))
async def listing(
    deps: Wiring, scope: Reading, collection_identifier: str, asked: Paging, return_presigned_urls: Presign = False
) -> DocumentList:
    return await _list(deps, scope.namespace_id, collection_identifier, asked, None, return_presigned_urls)


@router.post("/list", summary="List documents, with filters", responses=errors(400))
async def filtered(
    deps: Wiring,
    scope: Reading,
    collection_identifier: str,
    asked: Paging,
    body: ListDocuments | None = None,
    return_presigned_urls: Presign = False,
) -> DocumentList:
    wanted = body.return_presigned_urls if body and body.return_presigned_urls is not None else return_presigned_urls
    return await _list(deps, scope.namespace_id, collection_identifier, asked, body, wanted)


@router.get("/count", summary="Count documents", responses=errors(400))
async def count(deps: Wiring, scope: Reading, collection_identifier: str) -> DocumentCount:
    collection = await live_collection(deps, scope.namespace_id, collection_identifier)
    return DocumentCount(collection_id=collection["_id"], count=await document_count(deps, collection["_id"]))


@router.get("/{document_id}", summary="Get a document", responses=errors(400))
async def get(
    deps: Wiring, scope: Reading, collection_identifier: str, document_id: str, return_presigned_urls: Presign = False
) -> Document:
    collection = await live_collection(deps, scope.namespace_id, collection_identifier)
    document = await get_document(deps, collection["_id"], document_id)
    return Document.of(document, await presigned(deps, [document]) if return_presigned_urls else None)


@router.patch("/{document_id}", summary="Change fields of a document", responses=errors(400, 413))
@router.put("/{document_id}", summary="Update a document", operation_id="update_document", responses=errors(400, 413))
async def change(
    deps: Wiring, scope: Writing, collection_identifier: str, document_id: str, body: DocumentFields
) -> Document:
    """Sets the fields that are sent, and no others; `_internal` and the document's blobs stay.

    In `metadata` each key is set for itself, and null removes one. What is changed here is lost when the object is
    processed again: always with `dedup_strategy` replace or force, and with skip once the object has changed.
    """
    collection = await live_collection(deps, scope.namespace_id, collection_identifier)
    return Document.of(await change_document(deps, collection["_id"], document_id, body))


@router.delete("/{document_id}", summary="Delete a document", responses=errors(400))
async def delete(deps: Wiring, scope: Deleting, collection_identifier: str, document_id: str) -> Deleted:
    collection = await live_collection(deps, scope.namespace_id, collection_identifier)
    await delete_document(deps, collection["_id"], document_id)
    return Deleted(message="document deleted")


async def _list(
    deps: Deps, namespace_id: str, identifier: str, asked: Asked, body: ListBody | None, presign: bool
) -> DocumentList:
    collection = await live_collection(deps, namespace_id, identifier)
    listed = await list_documents(deps, collection, asked, body)
    urls = await presigned(deps, listed.rows) if presign else None
    blobs = sum(len(document["blobs"]) for document in listed.rows)
    total = listed.pagination.total
    return DocumentList(
        results=[Document.of(document, urls) for document in listed.rows],
        pagination=listed.pagination,
        total_documents=total,
        stats=DocumentListStats(
            total_documents=total, avg_blobs_per_document=blobs / len(listed.rows) if listed.rows else 0.0
        ),
    )
