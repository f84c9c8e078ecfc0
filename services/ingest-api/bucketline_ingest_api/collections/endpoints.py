"""``/v1/collections``."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline.db.collections import CollectionDocument
from bucketline_ingest_api.collections.create import create_collection
from bucketline_ingest_api.collections.delete import delete_collection
from bucketline_ingest_api.collections.listing import list_collections
from bucketline_ingest_api.collections.lookup import document_count, live_collection
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
from bucketline_ingest_api.collections.trigger import trigger_collection
from bucketline_ingest_api.collections.update import change_collection
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import ContainerDep, NamespaceDelete, NamespaceRead, NamespaceWrite
from bucketline_ingest_api.pagination import Page
from bucketline_ingest_api.schemas import Paging, UnsupportedText, errors

router = APIRouter(prefix="/v1/collections", tags=["collections"])

Search = Annotated[str | None, Query(max_length=1000, description="Text in the id, the name or the description.")]

IncludeSystem = Annotated[bool, Query(description="There are no system collections here.")]
OtherNamespace = Annotated[UnsupportedText, Query(description="Refused: set the `X-Namespace` header.")]


@router.post("", summary="Create a collection", responses=errors(400, 409))
async def create(deps: ContainerDep, scope: NamespaceWrite, body: CreateCollection) -> Collection:
    collection, warnings = await create_collection(deps, scope.namespace_id, body)
    return Collection.of(collection, 0, warnings)


@router.get("", summary="List collections", responses=errors(400))
async def listing(
    deps: ContainerDep,
    scope: NamespaceRead,
    asked: Paging,
    search: Search = None,  # noqa: ARG001 - read from the query
    include_system: IncludeSystem = False,  # noqa: ARG001 - there are none
    namespace_id: OtherNamespace = None,  # noqa: ARG001 - refused
) -> CollectionList:
    return await _answer_list(deps, await list_collections(deps, scope.namespace_id, asked, None))


@router.post("/list", summary="List collections, with filters", responses=errors(400))
async def filtered(
    deps: ContainerDep, scope: NamespaceRead, asked: Paging, body: ListCollections | None = None
) -> CollectionList:
    return await _answer_list(deps, await list_collections(deps, scope.namespace_id, asked, body))


@router.get("/{collection_identifier}", summary="Get a collection", responses=errors(400))
async def get(deps: ContainerDep, scope: NamespaceRead, collection_identifier: str) -> Collection:
    return await _answer(deps, await live_collection(deps, scope.namespace_id, collection_identifier))


@router.patch("/{collection_identifier}", summary="Change a collection", responses=errors(400, 409))
async def change(
    deps: ContainerDep, scope: NamespaceWrite, collection_identifier: str, body: UpdateCollection
) -> Collection:
    return await _answer(deps, await change_collection(deps, scope.namespace_id, collection_identifier, body))


@router.delete("/{collection_identifier}", summary="Delete a collection with its documents", responses=errors(400))
async def delete(deps: ContainerDep, scope: NamespaceDelete, collection_identifier: str) -> CollectionDeleted:
    organization_id = scope.caller.organization_id
    collection, task = await delete_collection(deps, organization_id, scope.namespace_id, collection_identifier)
    return CollectionDeleted(collection_id=collection["_id"], task_id=task["_id"])


@router.post(
    "/{collection_identifier}/trigger",
    status_code=202,
    summary="Run a collection on the existing objects of its sources",
    responses=errors(400),
)
async def trigger(
    deps: ContainerDep, scope: NamespaceWrite, collection_identifier: str, body: TriggerCollection | None = None
) -> Triggered:
    organization_id = scope.caller.organization_id
    return await trigger_collection(
        deps, organization_id, scope.namespace_id, collection_identifier, body or TriggerCollection()
    )


async def _answer(deps: Container, collection: CollectionDocument) -> Collection:
    return Collection.of(collection, await document_count(deps, collection["_id"]))


async def _answer_list(deps: Container, listed: Page[CollectionDocument]) -> CollectionList:
    rows = [await _answer(deps, collection) for collection in listed.rows]
    return CollectionList.of(rows, listed.total, listed.pagination)
