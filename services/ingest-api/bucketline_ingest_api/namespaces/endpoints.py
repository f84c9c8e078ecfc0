"""Endpoints of ``/v1/namespaces``."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from bucketline.db.namespaces import NamespaceDocument, listing_filter
from bucketline_ingest_api import deletion
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import ContainerDep, DeletePrincipal, ReadPrincipal, WritePrincipal
from bucketline_ingest_api.namespaces import service
from bucketline_ingest_api.namespaces.schemas import (
    CreateNamespace,
    Namespace,
    NamespaceDeletion,
    NamespaceList,
    NamespaceStats,
    UpdateNamespace,
)
from bucketline_ingest_api.pagination import list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery, Paging, errors

router = APIRouter(prefix="/v1/namespaces", tags=["namespaces"])

IncludeSystem = Annotated[bool, Query(description="Accepted without effect: there are no system namespaces.")]
View = Annotated[Literal["full", "summary"], Query(description="Accepted without effect: both views are the same.")]
Force = Annotated[bool, Query(description="Delete even while batches run.")]


@router.post("", summary="Create a namespace", responses=errors(400, 409))
async def create_namespace(container: ContainerDep, caller: WritePrincipal, body: CreateNamespace) -> Namespace:
    """Choose a name that is unique in the organization."""
    return Namespace.of(await service.create_namespace(container, caller, body))


@router.get("", summary="List namespaces", responses=errors(400))
async def list_namespaces(container: ContainerDep, caller: ReadPrincipal, list_query: Paging) -> NamespaceList:
    """List the namespaces that the key may access, newest first."""
    return await _list(container, caller, list_query)


@router.post("/list", summary="List namespaces, with filters", responses=errors(400))
async def search_namespaces(
    container: ContainerDep,
    caller: ReadPrincipal,
    list_query: Paging,
    body: ListBody | None = None,
    include_system: IncludeSystem = False,  # noqa: ARG001 - has no effect
    view: View = "full",  # noqa: ARG001 - has no effect
) -> NamespaceList:
    """List the newest first, unless the body sorts them."""
    return await _list(container, caller, list_query, body)


@router.get("/{namespace_identifier}", summary="Get a namespace", responses=errors())
async def get_namespace(container: ContainerDep, caller: ReadPrincipal, namespace_identifier: str) -> Namespace:
    """Find the namespace by id or name."""
    namespace = await service.find_namespace(container, caller, namespace_identifier, deleting=True)
    return await _respond(container, namespace)


@router.get("/{namespace_identifier}/stats", summary="Count the contents of a namespace", responses=errors())
async def get_namespace_stats(
    container: ContainerDep, caller: ReadPrincipal, namespace_identifier: str
) -> NamespaceStats:
    """Count exactly up to 20,000 of a kind; larger counts are at most ten seconds old."""
    namespace = await service.find_namespace(container, caller, namespace_identifier)
    [counts] = await service.count_contents(container, [namespace])
    return NamespaceStats(namespace_id=namespace["_id"], **counts)


@router.patch("/{namespace_identifier}", summary="Change a namespace", responses=errors(400, 409))
@router.put(
    "/{namespace_identifier}", summary="Update a namespace", responses=errors(400, 409), name="replace_namespace"
)
async def update_namespace(
    container: ContainerDep, caller: WritePrincipal, namespace_identifier: str, body: UpdateNamespace
) -> Namespace:
    """Change only the fields that are sent."""
    return await _respond(container, await service.update_namespace(container, caller, namespace_identifier, body))


@router.delete("/{namespace_identifier}", summary="Delete a namespace with everything in it", responses=errors(409))
async def delete_namespace(
    container: ContainerDep, caller: DeletePrincipal, namespace_identifier: str, force: Force = False
) -> NamespaceDeletion:
    """Start a task that deletes the namespace. From the request on it takes no writes."""
    namespace = await service.find_namespace(container, caller, namespace_identifier, deleting=True)
    task = await deletion.delete_namespace(container, namespace, force=force)
    return NamespaceDeletion(
        task_id=task["_id"],
        status=task["status"],
        namespace_id=namespace["_id"],
        namespace_name=namespace["name"],
    )


async def _respond(container: Container, namespace: NamespaceDocument) -> Namespace:
    [counts] = await service.count_contents(container, [namespace])
    return Namespace.of(namespace, counts)


async def _list(
    container: Container, caller: Principal, list_query: ListQuery, body: ListBody | None = None
) -> NamespaceList:
    where = listing_filter(caller.organization_id, caller.namespaces)
    page = await list_rows(container.namespaces, where, service.LIST_SPEC, list_query, body)
    counts = await service.count_contents(container, page.rows)
    rows = [Namespace.of(namespace, counted) for namespace, counted in zip(page.rows, counts, strict=True)]
    return NamespaceList.of(rows, page.total, page.pagination)
