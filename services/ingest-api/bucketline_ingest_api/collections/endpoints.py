"""Endpoints of ``/v1/collections``."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline.db.collections import CollectionDocument
from bucketline_ingest_api import deletion
from bucketline_ingest_api.collections import service
from bucketline_ingest_api.collections import trigger as triggers
from bucketline_ingest_api.collections.schemas import (
    Collection,
    CollectionDeleted,
    CollectionList,
    CreateCollection,
    ListCollections,
    TriggerCollection,
    Triggered,
    UpdateCollection,
)
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import (
    ContainerDep,
    NamespaceDelete,
    NamespaceRead,
    NamespaceScope,
    NamespaceWrite,
)
from bucketline_ingest_api.pagination import list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery, Paging, UnsupportedText, errors

router = APIRouter(prefix="/v1/collections", tags=["collections"])

Search = Annotated[str | None, Query(max_length=1000, description="Text in the id, the name or the description.")]
IncludeSystem = Annotated[bool, Query(description="Accepted without effect: there are no system collections.")]
OtherNamespace = Annotated[UnsupportedText, Query(description="Rejected: set the `X-Namespace` header.")]


@router.post("", summary="Create a collection", responses=errors(400, 409))
async def create_collection(container: ContainerDep, scope: NamespaceWrite, body: CreateCollection) -> Collection:
    """Choose a name that is unique in the namespace, and sources that exist."""
    collection, warnings = await service.create_collection(container, scope.namespace_id, body)
    return Collection.of(collection, 0, warnings)


@router.get("", summary="List collections", responses=errors(400))
async def list_collections(
    container: ContainerDep,
    scope: NamespaceRead,
    list_query: Paging,
    search: Search = None,  # noqa: ARG001 - read from the query string
    include_system: IncludeSystem = False,  # noqa: ARG001 - has no effect
    namespace_id: OtherNamespace = None,  # noqa: ARG001 - rejected by its type
) -> CollectionList:
    """List the newest first."""
    return await _list(container, scope, list_query)


@router.post("/list", summary="List collections, with filters", responses=errors(400))
async def search_collections(
    container: ContainerDep, scope: NamespaceRead, list_query: Paging, body: ListCollections | None = None
) -> CollectionList:
    """List the newest first, unless the body sorts them."""
    return await _list(container, scope, list_query, body)


@router.get("/{collection_identifier}", summary="Get a collection", responses=errors(400))
async def get_collection(container: ContainerDep, scope: NamespaceRead, collection_identifier: str) -> Collection:
    """Find the collection by id or name."""
    return await _respond(
        container, await service.find_collection(container, scope.namespace_id, collection_identifier)
    )


@router.patch("/{collection_identifier}", summary="Change a collection", responses=errors(400, 409))
async def update_collection(
    container: ContainerDep, scope: NamespaceWrite, collection_identifier: str, body: UpdateCollection
) -> Collection:
    """Change only the fields that are sent."""
    collection = await service.update_collection(container, scope.namespace_id, collection_identifier, body)
    return await _respond(container, collection)


@router.delete("/{collection_identifier}", summary="Delete a collection with its documents", responses=errors(400))
async def delete_collection(
    container: ContainerDep, scope: NamespaceDelete, collection_identifier: str
) -> CollectionDeleted:
    """Start a task that deletes the collection. Rejected while other collections read this one."""
    collection = await service.find_collection(container, scope.namespace_id, collection_identifier)
    task = await deletion.delete_collection(container, scope.caller.organization_id, collection)
    return CollectionDeleted(collection_id=collection["_id"], task_id=task["_id"])


@router.post(
    "/{collection_identifier}/trigger",
    status_code=202,
    summary="Run a collection on the existing objects of its sources",
    responses=errors(400),
)
async def trigger_collection(
    container: ContainerDep, scope: NamespaceWrite, collection_identifier: str, body: TriggerCollection | None = None
) -> Triggered:
    """Submit up to 50,000 objects of one bucket as one batch at once; a task submits more, in several batches."""
    organization_id = scope.caller.organization_id
    return await triggers.trigger_collection(
        container, organization_id, scope.namespace_id, collection_identifier, body or TriggerCollection()
    )


async def _respond(container: Container, collection: CollectionDocument) -> Collection:
    return Collection.of(collection, await service.count_documents(container, collection["_id"]))


async def _list(
    container: Container, scope: NamespaceScope, list_query: ListQuery, body: ListBody | None = None
) -> CollectionList:
    where = {"namespace_id": scope.namespace_id, "deleting": {"$ne": True}}
    page = await list_rows(container.collections, where, service.LIST_SPEC, list_query, body)
    rows = [await _respond(container, collection) for collection in page.rows]
    return CollectionList.of(rows, page.total, page.pagination)
