"""``/v1/namespaces``."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from bucketline.db.namespaces import NamespaceDocument
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import ContainerDep, DeletePrincipal, ReadPrincipal, WritePrincipal
from bucketline_ingest_api.namespaces.create import create_namespace
from bucketline_ingest_api.namespaces.delete import delete_namespace
from bucketline_ingest_api.namespaces.read import any_namespace, counts_of, list_namespaces, live_namespace
from bucketline_ingest_api.namespaces.schemas import (
    ChangeNamespace,
    CreateNamespace,
    Namespace,
    NamespaceDeletion,
    NamespaceList,
    NamespaceStats,
)
from bucketline_ingest_api.namespaces.update import change_namespace
from bucketline_ingest_api.pagination import Page
from bucketline_ingest_api.schemas import ListBody, Paging, errors

router = APIRouter(prefix="/v1/namespaces", tags=["namespaces"])

IncludeSystem = Annotated[bool, Query(description="There are no system namespaces here.")]
View = Annotated[
    Literal["full", "summary"], Query(description="Alike here: namespaces have no configuration to leave out.")
]
Force = Annotated[bool, Query(description="Delete even while batches run.")]


@router.post("", summary="Create a namespace", responses=errors(400, 409))
async def create(deps: ContainerDep, caller: WritePrincipal, body: CreateNamespace) -> Namespace:
    return Namespace.of(await create_namespace(deps, caller, body))


@router.get("", summary="List namespaces", responses=errors(400))
async def listing(deps: ContainerDep, caller: ReadPrincipal, asked: Paging) -> NamespaceList:
    return await _answer_list(deps, await list_namespaces(deps, caller, asked, None))


@router.post("/list", summary="List namespaces, with filters", responses=errors(400))
async def filtered(
    deps: ContainerDep,
    caller: ReadPrincipal,
    asked: Paging,
    body: ListBody | None = None,
    include_system: IncludeSystem = False,  # noqa: ARG001 - there are none
    view: View = "full",  # noqa: ARG001 - both are the same
) -> NamespaceList:
    return await _answer_list(deps, await list_namespaces(deps, caller, asked, body))


@router.get("/{namespace_identifier}", summary="Get a namespace", responses=errors())
async def get(deps: ContainerDep, caller: ReadPrincipal, namespace_identifier: str) -> Namespace:
    return await _answer(deps, await any_namespace(deps, caller, namespace_identifier))


@router.get("/{namespace_identifier}/stats", summary="What is in a namespace", responses=errors())
async def stats(deps: ContainerDep, caller: ReadPrincipal, namespace_identifier: str) -> NamespaceStats:
    namespace = await live_namespace(deps, caller, namespace_identifier)
    [counts] = await counts_of(deps, [namespace])
    return NamespaceStats(namespace_id=namespace["_id"], **counts)


@router.patch("/{namespace_identifier}", summary="Change a namespace", responses=errors(400, 409))
@router.put("/{namespace_identifier}", summary="Update a namespace", responses=errors(400, 409))
async def change(
    deps: ContainerDep, caller: WritePrincipal, namespace_identifier: str, body: ChangeNamespace
) -> Namespace:
    return await _answer(deps, await change_namespace(deps, caller, namespace_identifier, body))


@router.delete("/{namespace_identifier}", summary="Delete a namespace with everything in it", responses=errors(409))
async def delete(
    deps: ContainerDep, caller: DeletePrincipal, namespace_identifier: str, force: Force = False
) -> NamespaceDeletion:
    namespace, task = await delete_namespace(deps, caller, namespace_identifier, force=force)
    return NamespaceDeletion(
        task_id=task["_id"],
        status=task["status"],
        namespace_id=namespace["_id"],
        namespace_name=namespace["name"],
    )


async def _answer(deps: Container, namespace: NamespaceDocument) -> Namespace:
    [counts] = await counts_of(deps, [namespace])
    return Namespace.of(namespace, counts)


async def _answer_list(deps: Container, listed: Page[NamespaceDocument]) -> NamespaceList:
    counts = await counts_of(deps, listed.rows)
    rows = [Namespace.of(namespace, counted) for namespace, counted in zip(listed.rows, counts, strict=True)]
    return NamespaceList.of(rows, listed.total, listed.pagination)
