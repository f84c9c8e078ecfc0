"""Stores the notifications of consumed events, and reads the feed."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bucketline.db.event_feed import FeedDocument, FeedEvent, Position
from bucketline.errors import BadRequest
from bucketline.events.cloudevents import REPLAY, ReceivedEvent
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.events.notifications import Notification, notifications_of
from bucketline_ingest_api.events.schemas import EventFilter
from bucketline_ingest_api.webhooks.service import enqueue_deliveries

DOCUMENTS_PER_READ = 20
MAX_READS = 25
"""Reads for one page. A page whose filters match little is returned early, with a cursor to continue."""
MAX_EVENTS_PER_DOCUMENT = 500


async def publish_notifications(container: Container, records: Sequence[ReceivedEvent[Any]]) -> None:
    """Append the notifications of the events to the feed, and store their webhook deliveries.

    Replayed events are ignored: they have other ids than the originals.
    """
    notifications = [
        notification for record in records if record.source != REPLAY for notification in notifications_of(record)
    ]
    if not notifications:
        return
    organizations = await container.organizations({notification.namespace_id for notification in notifications})
    await asyncio.gather(
        _append(container, notifications, organizations), enqueue_deliveries(container, notifications, organizations)
    )


async def _append(
    container: Container, notifications: Sequence[Notification], organizations: Mapping[str, str]
) -> None:
    by_organization: dict[str, list[Notification]] = defaultdict(list)
    for notification in notifications:
        if organization := organizations.get(notification.namespace_id):
            by_organization[organization].append(notification)
    expires_at = container.clock.now() + timedelta(days=container.settings.event_retention_days)
    for organization, rows in by_organization.items():
        # One after the other: the events of an object stay in order.
        for start in range(0, len(rows), MAX_EVENTS_PER_DOCUMENT):
            part = rows[start : start + MAX_EVENTS_PER_DOCUMENT]
            subjects = {subject for row in part for subject in row.subjects}
            events = [_to_feed_event(row) for row in part]
            await container.event_feed.append(organization, events, subjects, expires_at=expires_at)


def _to_feed_event(notification: Notification) -> FeedEvent:
    return {
        "event_type": notification.event_type,
        "namespace_id": notification.namespace_id,
        "payload": notification.payload(),
        "trace_id": notification.trace_id,
    }


@dataclass(frozen=True)
class Selection:
    """The events that a caller asks for and may see. ``namespaces`` None means all of the organization."""

    organization_id: str
    namespaces: frozenset[str] | None
    filter: EventFilter
    subjects: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        ids = (self.filter.object_id, self.filter.batch_id, self.filter.bucket_id)
        object.__setattr__(self, "subjects", frozenset(one for one in ids if one is not None))

    @property
    def indexed_subject(self) -> str | None:
        """The most selective id, by which documents are found; None without any."""
        return self.filter.object_id or self.filter.batch_id or self.filter.bucket_id

    def matches(self, event: FeedEvent) -> bool:
        """Return whether an event of the organization is selected."""
        if self.namespaces is not None and event["namespace_id"] not in self.namespaces:
            return False
        if self.filter.event_type is not None and event["event_type"] != self.filter.event_type:
            return False
        if not self.subjects:
            return True
        payload, metadata = event["payload"], event["payload"]["metadata"]
        return self.subjects <= {payload["subject"]["id"], metadata.get("bucket_id"), metadata.get("batch_id")}

    def select(self, document: FeedDocument, after: Position | None) -> Iterator[tuple[Position, FeedEvent]]:
        """Yield the selected events of a document that are after a position."""
        if document["organization_id"] != self.organization_id:
            return
        for index, event in enumerate(document["events"]):
            position = Position.of(document, index)
            if (after is None or position > after) and self.matches(event):
                yield position, event


async def select_events(
    container: Container, caller: Principal, event_filter: EventFilter, namespace: str | None
) -> Selection:
    """Return what the request selects. ``namespace`` is the one of the header.

    Raises :class:`BadRequest` if the header and the parameter name different namespaces.
    """
    scopes = {
        (await container.auth.namespace(caller, identifier))["_id"]
        for identifier in (namespace, event_filter.namespace_id)
        if identifier
    }
    if len(scopes) > 1:
        raise BadRequest("X-Namespace and namespace_id name different namespaces: send one of them")
    return Selection(caller.organization_id, frozenset(scopes) or caller.namespaces or None, event_filter)


def parse_cursor(text: str | None) -> Position | None:
    """Return the position of a cursor. Raises :class:`BadRequest` for one that no response had."""
    if not text:
        return None
    try:
        return Position.parse(text)
    except ValueError as error:
        message = "the cursor is invalid: use the cursor of an event, or start again without it"
        raise BadRequest(message, code="invalid_cursor") from error


@dataclass(frozen=True)
class FeedPage:
    """Events in order. ``last`` is the position to continue after."""

    events: Sequence[tuple[Position, FeedEvent]]
    last: Position | None
    has_more: bool


async def read_page(container: Container, selection: Selection, after: Position | None, limit: int) -> FeedPage:
    """Return the next events after a position. A page is empty with ``has_more`` if few events match."""
    events: list[tuple[Position, FeedEvent]] = []
    position = after
    for _ in range(MAX_READS):
        documents = await container.event_feed.find_after(
            position,
            limit=DOCUMENTS_PER_READ,
            organization_id=selection.organization_id,
            subject=selection.indexed_subject,
        )
        for document in documents:
            events += selection.select(document, position)
            if len(events) > limit:
                return FeedPage(events[:limit], events[limit - 1][0], has_more=True)
        if len(documents) < DOCUMENTS_PER_READ:
            return FeedPage(events, events[-1][0] if events else after, has_more=False)
        position = Position.of(documents[-1], len(documents[-1]["events"]))
    return FeedPage(events, position, has_more=True)
