"""``/v1/collections``."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline.storage.collections import CollectionDocument
from ingest_api.collections.change import change_collection
from ingest_api.collections.create import create_collection
from ingest_api.collections.delete import delete_collection
from ingest_api.collections.listing import list_collections
from ingest_api.collections.resolve import document_count, live_collection
from ingest_api.collections.trigger import trigger_collection
from ingest_api.deps import Deps
from ingest_api.listing import Listed
from ingest_api.requests import Deleting, Reading, Wiring, Writing
from ingest_api.schemas.collections import (
    ChangeCollection,
    Collection,
    CollectionDeleted,
    CollectionList,
    CreateCollection,
    ListCollections,
    TriggerCollection,
    Triggered,
)
from ingest_api.schemas.common import errors
from ingest_api.schemas.paging import Paging
from ingest_api.schemas.unsupported import UnsupportedText

router = APIRouter(prefix="/v1/collections", tags=["collections"])

Search = Annotated[str | None, Query(max_length=1000, description="Text in the id, the name or the description.")]

IncludeSystem = Annotated[bool, Query(description="There are no system collections here.")]
OtherNamespace = Annotated[UnsupportedText, Query(description="Refused: set the `X-Namespace` header.")]


@router.post("", summary="Create a collection", responses=errors(400, 409))
async def create(deps: Wiring, scope: Writing, body: CreateCollection) -> Collection:
    collection, warnings = await create_collection(deps, scope.namespace_id, body)
    return Collection.of(collection, 0, warnings)


@router.get("", summary="List collections", responses=errors(400))
async def listing(
    deps: Wiring,
    scope: Reading,
    asked: Paging,
    search: Search = None,  # noqa: ARG001 - read from the query
    include_system: IncludeSystem = False,  # noqa: ARG001 - there are none
    namespace_id: OtherNamespace = None,  # noqa: ARG001 - refused
) -> CollectionList:
    return await _answer_list(deps, await list_collections(deps, scope.namespace_id, asked, None))


@router.post("/list", summary="List collections, with filters", responses=errors(400))
async def filtered(deps: Wiring, scope: Reading, asked: Paging, body: ListCollections | None = None) -> CollectionList:
    return await _answer_list(deps, await list_collections(deps, scope.namespace_id, asked, body))


@router.get("/{collection_identifier}", summary="Get a collection", responses=errors(400))
async def get(deps: Wiring, scope: Reading, collection_identifier: str) -> Collection:
    return await _answer(deps, await live_collection(deps, scope.namespace_id, collection_identifier))


@router.patch("/{collection_identifier}", summary="Change a collection", responses=errors(400, 409))
async def change(deps: Wiring, scope: Writing, collection_identifier: str, body: ChangeCollection) -> Collection:
    return await _answer(deps, await change_collection(deps, scope.namespace_id, collection_identifier, body))


@router.delete("/{collection_identifier}", summary="Delete a collection with its documents", responses=errors(400))
async def delete(deps: Wiring, scope: Deleting, collection_identifier: str) -> CollectionDeleted:
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
    deps: Wiring, scope: Writing, collection_identifier: str, body: TriggerCollection | None = None
) -> Triggered:
    organization_id = scope.caller.organization_id
    return await trigger_collection(
        deps, organization_id, scope.namespace_id, collection_identifier, body or TriggerCollection()
    )


async def _answer(deps: Deps, collection: CollectionDocument) -> Collection:
    return Collection.of(collection, await document_count(deps, collection["_id"]))


async def _answer_list(deps: Deps, listed: Listed[CollectionDocument]) -> CollectionList:
    rows = [await _answer(deps, collection) for collection in listed.rows]
    return CollectionList.of(rows, listed.total, listed.pagination)
