"""Routes that the console and operators use: overview of a namespace, timelines, the backlog and dead letters."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from bucketline.errors import Forbidden
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.dependencies import AdminPrincipal, ContainerDep, NamespaceRead
from bucketline_ingest_api.operations import service, timeline
from bucketline_ingest_api.operations.schemas import (
    Backlog,
    DeadLetterAddresses,
    DeadLetterList,
    DeadLetterRow,
    DeadLettersHandled,
    ObjectTimeline,
    Overview,
)
from bucketline_ingest_api.schemas import errors

router = APIRouter(prefix="/v1", tags=["operations"])

DEAD_LETTERS = "/admin/dead-letters"

Limit = Annotated[int, Query(ge=1, le=500, description="Maximum number of records.")]
IncludeAll = Annotated[bool, Query(description="Include replayed and discarded records.")]


async def get_operator(caller: AdminPrincipal) -> Principal:
    """Return a caller who may see the whole deployment; 403 for a key that is restricted to some namespaces."""
    if caller.namespaces:
        raise Forbidden("a key that is restricted to some namespaces does not see the whole deployment")
    return caller


Operator = Annotated[Principal, Depends(get_operator)]


@router.get("/overview", summary="Count the objects of a namespace", responses=errors())
async def get_overview(container: ContainerDep, scope: NamespaceRead) -> Overview:
    """Return counts by status, the last hour minute by minute, and how many bytes deduplication saves."""
    return await service.get_overview(container, scope.namespace_id)


@router.get("/objects/{object_id}/timeline", summary="Show when each step of an object was done", responses=errors())
async def get_object_timeline(container: ContainerDep, scope: NamespaceRead, object_id: str) -> ObjectTimeline:
    """Return the steps of the object's latest run with their attempts and errors, from stored state."""
    return await timeline.get_timeline(container, scope.namespace_id, object_id)


@router.get("/admin/backlog", summary="Count the work that waits", responses=errors())
async def get_backlog(container: ContainerDep, _: Operator) -> Backlog:
    """Count, for all namespaces, the work that is stored and not done."""
    return await service.get_backlog(container)


@router.get(DEAD_LETTERS, summary="List dead letters", responses=errors())
async def list_dead_letters(
    container: ContainerDep, _: Operator, limit: Limit = 100, include_all: IncludeAll = False
) -> DeadLetterList:
    """List the records that services could not process, unless they were replayed or discarded."""
    rows = await service.list_dead_letters(container.dead_letters, limit=limit + 1, include_all=include_all)
    return DeadLetterList(results=[DeadLetterRow.of(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.post(DEAD_LETTERS + "/replay", summary="Replay dead letters", responses=errors())
async def replay_dead_letters(container: ContainerDep, _: Operator, body: DeadLetterAddresses) -> DeadLettersHandled:
    """Publish the records to their topics again and take them off the list. One that fails again comes back."""
    return await service.replay_dead_letters(container.dead_letters, body.addresses)


@router.post(DEAD_LETTERS + "/discard", summary="Discard dead letters", responses=errors())
async def discard_dead_letters(container: ContainerDep, _: Operator, body: DeadLetterAddresses) -> DeadLettersHandled:
    """Take the records off the list and exclude them from replays. They stay in their topic until they expire."""
    return await service.discard_dead_letters(container.dead_letters, body.addresses)
