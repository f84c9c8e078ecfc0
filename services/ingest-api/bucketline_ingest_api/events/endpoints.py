"""Endpoints of ``/v1/events``: the feed of an organization's events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from bucketline.db.event_feed import FeedEvent, Position
from bucketline.errors import NotFound
from bucketline.events.models import EVENT_TYPES_BY_NAME, json_schema
from bucketline_ingest_api.dependencies import ContainerDep, NamespaceHeader, ReadPrincipal
from bucketline_ingest_api.events import service
from bucketline_ingest_api.events.schemas import (
    ChangeEvent,
    EventFilterQuery,
    EventList,
    EventPageQuery,
    EventSchema,
)
from bucketline_ingest_api.events.selection import parse_cursor, select_events
from bucketline_ingest_api.schemas import errors

router = APIRouter(prefix="/v1/events", tags=["events"])

DEFAULT_LIMIT = 100

_STREAM = """event: object.created
data: {"cursor": "1772355600123.69a3f1d0c2b1a0f9e8d7c6b5.0", "event_type": "object.created", …}
id: 1772355600123.69a3f1d0c2b1a0f9e8d7c6b5.0

"""

LastEventId = Annotated[str | None, Header(description="The cursor of the last event that the client received.")]


@router.get("", summary="List events", responses=errors())
async def list_events(
    container: ContainerDep, caller: ReadPrincipal, namespace: NamespaceHeader, query: EventPageQuery
) -> EventList:
    """List the events of the organization in order, or those of one namespace.

    Store `next_cursor` and pass it as `cursor` to resume without missing an event. The events of one object are in
    order; an event may be in the feed twice, with the same `payload.event_id`. It appears about three seconds after it
    happened and is kept for seven days by default.
    """
    after = parse_cursor(query.cursor or query.next_cursor or query.after)
    selection = await select_events(container.auth, caller, query, namespace)
    limit = query.limit or query.page_size or DEFAULT_LIMIT
    page = await service.read_page(container.event_feed, selection, after, limit)
    results = [ChangeEvent.of(event, position) for position, event in page.events]
    next_cursor = str(page.last) if page.last is not None else None
    return EventList(results=results, next_cursor=next_cursor, has_more=page.has_more)


async def follow_events(
    container: ContainerDep,
    caller: ReadPrincipal,
    namespace: NamespaceHeader,
    query: EventFilterQuery,
    last_event_id: LastEventId = None,
) -> AsyncIterator[tuple[Position, AsyncIterator[tuple[Position, FeedEvent]]]]:
    """Check the request before the response starts, and count the stream until it ends."""
    selection = await select_events(container.auth, caller, query, namespace)
    async with container.feed_tail.stream(parse_cursor(last_event_id or query.cursor)) as after:
        yield after, container.feed_tail.follow(selection, after)


FollowedEvents = Annotated[tuple[Position, AsyncIterator[tuple[Position, FeedEvent]]], Depends(follow_events)]


@router.get(
    "/stream",
    summary="Stream events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}}}, **errors()},
)
async def stream_events(followed: FollowedEvents) -> AsyncIterator[ServerSentEvent]:
    """Send the events that `GET /v1/events` lists as server-sent events, beginning now or after a cursor.

    The name of an event is its `event_type`, its id is its cursor, and its data is a row of that list. A comment is
    sent every 15 seconds without an event. The stream ends after ten minutes; a client that reconnects with
    `Last-Event-ID`, as browsers do by themselves, misses nothing.
    """
    start, events = followed
    # An id without data: a client that loses the connection before the first event resumes from here.
    yield ServerSentEvent(id=str(start), comment="connected")
    async for position, event in events:
        yield ServerSentEvent(id=str(position), event=event["event_type"], data=ChangeEvent.of(event, position))


@router.get("/schemas/{event_type}", summary="Get the JSON Schema of an event", responses=errors())
async def get_event_schema(_: ReadPrincipal, event_type: str) -> EventSchema:
    """Return the schema of the payload on Kafka, by the type of the CloudEvent: `bucketline.object.created.v1`."""
    event = EVENT_TYPES_BY_NAME.get(event_type)
    if event is None:
        raise NotFound("there is no such event type", details={"known": sorted(EVENT_TYPES_BY_NAME)})
    return EventSchema(json_schema(event))
