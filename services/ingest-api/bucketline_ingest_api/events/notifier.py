"""Publishes notifications: appends them to the feed and stores their webhook deliveries.

The changes of an object are in the feed before they are on Kafka. Whatever they cause comes later, so the feed has the
events of an object in order although other services publish its statuses.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import orjson
from cachetools import LRUCache

from bucketline.clock import Clock
from bucketline.db.batches import webhook_host
from bucketline.db.event_feed import EventFeed, FeedEvent
from bucketline.db.mongo import Database
from bucketline.db.namespaces import Namespaces
from bucketline.db.webhooks import (
    WebhookChannel,
    WebhookDeliveries,
    WebhookDeliveryDocument,
    WebhookDocument,
    Webhooks,
)
from bucketline.events.cloudevents import REPLAY, CloudEvent, ReceivedEvent, UnknownEventType, decode_event
from bucketline.ids import derived
from bucketline_ingest_api.events.notifications import Notification, notifications_of

RETRY_PERIOD = timedelta(hours=24)
"""How long a webhook delivery is attempted."""
MAX_EVENTS_PER_DOCUMENT = 500


class Notifier:
    """Notifies the subscribers outside of Kafka. Events stay in the feed for ``retention_days``."""

    def __init__(self, database: Database, *, clock: Clock, retention_days: int) -> None:
        self._feed = EventFeed(database)
        self._webhooks = Webhooks(database)
        self._deliveries = WebhookDeliveries(database)
        self._namespaces = Namespaces(database)
        self._clock = clock
        self._retention = timedelta(days=retention_days)
        self._organizations: LRUCache[str, str] = LRUCache(10_000)

    async def notify_of_changes(self, events: Sequence[CloudEvent]) -> None:
        """Notify of events of this service that are about to be published."""
        records = []
        for event in events:
            # An outbox entry of a newer release may have a type that this one does not know.
            with suppress(UnknownEventType):
                records.append(decode_event(event.data, event.headers()))
        await self.notify(records)

    async def notify(self, records: Sequence[ReceivedEvent[Any]]) -> None:
        """Notify of events. The same events may be passed again: their notifications have the same ids.

        Replayed events are ignored: they have other ids than the originals.
        """
        notifications = [
            notification for record in records if record.source != REPLAY for notification in notifications_of(record)
        ]
        if not notifications:
            return
        organizations = await self._find_organizations({one.namespace_id for one in notifications})
        await asyncio.gather(self._append(notifications, organizations), self._deliver(notifications, organizations))

    async def _append(self, notifications: Sequence[Notification], organizations: Mapping[str, str]) -> None:
        by_organization: dict[str, list[Notification]] = defaultdict(list)
        for notification in notifications:
            if organization := organizations.get(notification.namespace_id):
                by_organization[organization].append(notification)
        expires_at = self._clock.now() + self._retention
        for organization, rows in by_organization.items():
            # One after the other: the events of an object stay in order.
            for start in range(0, len(rows), MAX_EVENTS_PER_DOCUMENT):
                part = rows[start : start + MAX_EVENTS_PER_DOCUMENT]
                subjects = {subject for row in part for subject in row.subjects}
                await self._feed.append(organization, [*map(_to_feed_event, part)], subjects, expires_at=expires_at)

    async def _deliver(self, notifications: Sequence[Notification], organizations: Mapping[str, str]) -> None:
        delivered = [notification for notification in notifications if not notification.is_interim]
        if not delivered:
            return
        webhooks = await self._webhooks.find_active({notification.event_type for notification in delivered})
        now = self._clock.now()
        deliveries = [
            _new_delivery(webhook, index, channel, notification, now)
            for notification in delivered
            for webhook in webhooks
            if matches(webhook, organizations.get(notification.namespace_id), notification)
            for index, channel in enumerate(webhook["channels"])
        ]
        if deliveries:
            await self._deliveries.add(deliveries)

    async def _find_organizations(self, namespace_ids: Set[str]) -> dict[str, str]:
        """Return the organization of each namespace that exists. It never changes."""
        known = {one: self._organizations[one] for one in namespace_ids if one in self._organizations}
        if unknown := namespace_ids - known.keys():
            found = await self._namespaces.get_many(unknown, fields=["organization_id"])
            organizations = {one: namespace["organization_id"] for one, namespace in found.items()}
            self._organizations.update(organizations)
            known |= organizations
        return known


def matches(webhook: WebhookDocument, organization_id: str | None, notification: Notification) -> bool:
    """Return whether the webhook receives the notification of an event in this organization."""
    return (
        webhook["organization_id"] == organization_id
        and (not webhook["namespaces"] or notification.namespace_id in webhook["namespaces"])
        and notification.event_type in webhook["event_types"]
        and (not webhook["resource_types"] or notification.resource_type in webhook["resource_types"])
    )


def _to_feed_event(notification: Notification) -> FeedEvent:
    return {
        "event_type": notification.event_type,
        "namespace_id": notification.namespace_id,
        "payload": notification.payload(),
        "trace_id": notification.trace_id,
    }


def _new_delivery(
    webhook: WebhookDocument, index: int, channel: WebhookChannel, notification: Notification, now: datetime
) -> WebhookDeliveryDocument:
    return {
        "_id": derived("whd", webhook["_id"], index, notification.event_id),
        "webhook_id": webhook["_id"],
        "channel": index,
        "host": webhook_host(channel["url"]),
        "event_id": notification.event_id,
        "event_type": notification.event_type,
        "namespace_id": notification.namespace_id,
        "body": orjson.dumps(notification.payload()).decode(),
        "status": "pending",
        "attempts": 0,
        "created_at": now,
        "expires_at": now + RETRY_PERIOD,
        "due_at": now,
    }
