"""Endpoints of ``/v1/events``: the feed of an organization's events."""

from fastapi import APIRouter

from bucketline_ingest_api.dependencies import ContainerDep, NamespaceHeader, ReadPrincipal
from bucketline_ingest_api.events import service
from bucketline_ingest_api.events.schemas import ChangeEvent, EventList, EventPageQuery
from bucketline_ingest_api.schemas import errors

router = APIRouter(prefix="/v1/events", tags=["events"])

DEFAULT_LIMIT = 100


@router.get("", summary="List events", responses=errors())
async def list_events(
    container: ContainerDep, caller: ReadPrincipal, namespace: NamespaceHeader, query: EventPageQuery
) -> EventList:
    """List the events of the organization in order, or those of one namespace.

    Store `next_cursor` and pass it as `cursor` to resume without missing an event. The events of one object are in
    order; an event may be in the feed twice, with the same `payload.event_id`. It appears about three seconds after it
    happened and is kept for seven days by default.
    """
    cursor = query.cursor or query.next_cursor or query.after
    after = service.parse_cursor(cursor)
    selection = await service.select_events(container, caller, query, namespace)
    page = await service.read_page(container, selection, after, query.limit or query.page_size or DEFAULT_LIMIT)
    results = [ChangeEvent.of(event, position) for position, event in page.events]
    return EventList(
        results=results, next_cursor=str(page.last) if page.last is not None else None, has_more=page.has_more
    )
