"""Stores the notifications of consumed events, and reads the feed."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bucketline.db.event_feed import FeedEvent, Position
from bucketline.events.cloudevents import REPLAY, ReceivedEvent
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.events.notifications import Notification, notifications_of
from bucketline_ingest_api.events.selection import Selection
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
