"""Webhooks of an organization, and their deliveries, which form a lease queue and the delivery log."""

from collections.abc import Collection as Group
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from pymongo import InsertOne

from bucketline.db.lease_queue import LeaseFields, LeaseQueue
from bucketline.db.mongo import Database, Index
from bucketline.db.repository import Repository

DeliveryStatus = Literal["pending", "delivered", "failed", "canceled"]

MAX_ACTIVE_WEBHOOKS = 10_000
"""How many webhooks are read to match events."""
DELIVERY_RETENTION_SECONDS = 7 * 24 * 3600


class WebhookChannel(TypedDict):
    """A receiver. Deliveries are signed with ``secret``, and until ``previous_until`` also with the previous one."""

    url: str
    headers: dict[str, str]
    timeout: float
    secret: str | None
    previous_secret: NotRequired[str | None]
    previous_until: NotRequired[datetime]


class DeliveryHealth(TypedDict, total=False):
    """The current run of failed attempts, and when it deactivated the webhook."""

    consecutive_failures: int
    first_failure_at: datetime
    last_failure_at: datetime
    last_failure_cause: str
    paused_at: datetime
    paused_reason: str


class WebhookDocument(TypedDict):
    """A webhook. It receives the events of ``namespaces``; empty: of every namespace of the organization."""

    _id: str
    name: str
    organization_id: str
    namespaces: list[str]
    event_types: list[str]
    resource_types: list[str]
    channels: list[WebhookChannel]
    is_active: bool
    delivery_health: NotRequired[DeliveryHealth]
    created_at: datetime
    updated_at: datetime


class WebhookDeliveryDocument(TypedDict):
    """One event for one channel of a webhook. The id is derived from the three, so an event is stored once.

    ``body`` is the JSON that is posted, the same in every attempt. ``due_at`` exists while the delivery is pending.
    """

    _id: str
    webhook_id: str
    channel: int
    host: str
    event_id: str
    event_type: str
    namespace_id: str
    body: str
    status: DeliveryStatus
    attempts: int
    created_at: datetime
    expires_at: datetime
    due_at: NotRequired[datetime]
    owner: NotRequired[str]
    last_attempt_at: NotRequired[datetime]
    status_code: NotRequired[int | None]
    error: NotRequired[str | None]


INDEXES = (
    Index("listing", [("organization_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("matching", [("event_types", 1)], where={"is_active": True}),
)
DELIVERY_INDEXES = (
    Index("due", [("due_at", 1)], where={"due_at": {"$exists": True}}),
    Index("due_of_host", [("host", 1), ("due_at", 1)], where={"due_at": {"$exists": True}}),
    Index("listing", [("webhook_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("expiry", [("created_at", 1)], expire_after_seconds=DELIVERY_RETENTION_SECONDS),
)


class Webhooks(Repository[WebhookDocument]):
    """The repository of webhooks."""

    name = "webhooks"

    async def find(self, scope: Mapping[str, object], identifier: str) -> WebhookDocument | None:
        """Return the webhook with this id, or else the newest with this name."""
        where = {"$and": [scope, {"$or": [{"_id": identifier}, {"name": identifier}]}]}
        found = await self.collection.find(where, limit=100, sort=[("created_at", -1), ("_id", -1)])
        return next((row for row in found if row["_id"] == identifier), found[0] if found else None)

    async def find_active(self, event_types: Group[str]) -> list[WebhookDocument]:
        """Return the active webhooks that receive one of these event types."""
        where = {"is_active": True, "event_types": {"$in": list(event_types)}}
        return await self.collection.find(where, limit=MAX_ACTIVE_WEBHOOKS)

    async def change(
        self, webhook_id: str, changes: Mapping[str, object], *, clear_health: bool, seen: datetime
    ) -> WebhookDocument | None:
        """Set fields and return the changed webhook; None if it is gone or was changed since ``seen``."""
        update: dict[str, object] = {"$set": changes}
        if clear_health:
            update["$unset"] = {"delivery_health": ""}
        return await self.collection.find_and_update({"_id": webhook_id, "updated_at": seen}, update)

    async def record_success(self, webhook_id: str) -> None:
        """End the current run of failures."""
        await self.collection.update_one({"_id": webhook_id, "is_active": True}, {"$unset": {"delivery_health": ""}})

    async def record_failure(self, webhook_id: str, cause: str, now: datetime) -> WebhookDocument | None:
        """Count a failed attempt and return the webhook afterwards."""
        return await self.collection.find_and_update(
            {"_id": webhook_id},
            {
                "$inc": {"delivery_health.consecutive_failures": 1},
                "$min": {"delivery_health.first_failure_at": now},
                "$set": {"delivery_health.last_failure_at": now, "delivery_health.last_failure_cause": cause},
            },
        )

    async def deactivate(self, webhook_id: str, reason: str, *, failures: int, now: datetime) -> bool:
        """Deactivate the webhook unless an attempt has succeeded since; return whether this call did it."""
        return await self.collection.update_one(
            {"_id": webhook_id, "is_active": True, "delivery_health.consecutive_failures": {"$gte": failures}},
            {
                "$set": {
                    "is_active": False,
                    "updated_at": now,
                    "delivery_health.paused_at": now,
                    "delivery_health.paused_reason": reason,
                }
            },
        )


class WebhookDeliveries(Repository[WebhookDeliveryDocument]):
    """The repository of deliveries."""

    name = "webhook_deliveries"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._queue = LeaseQueue(self.collection, LeaseFields(owner="owner", due_at="due_at"))

    async def add(self, deliveries: Sequence[WebhookDeliveryDocument]) -> None:
        """Store deliveries; those that exist already stay as they are."""
        await self.collection.bulk([InsertOne(delivery) for delivery in deliveries])

    async def find_due(
        self, now: datetime, *, limit: int, without_hosts: Sequence[str]
    ) -> list[WebhookDeliveryDocument]:
        """Return deliveries that may be claimed, the longest overdue first, without those of some hosts."""
        return await self._queue.find_due(now, limit=limit, where={"host": {"$nin": list(without_hosts)}})

    async def claim(self, deliveries: Sequence[WebhookDeliveryDocument], owner: str, *, until: datetime) -> set[str]:
        """Claim due deliveries as they were read; return the ids of those that were claimed."""
        return await self._queue.claim_many(deliveries, owner, until=until)

    async def finish(self, delivery_id: str, owner: str, changes: Mapping[str, object], *, attempts: int) -> bool:
        """Set the final state of a claimed delivery; return False if the lease was lost."""
        return await self._queue.release(delivery_id, owner, changes={"$set": changes, "$inc": {"attempts": attempts}})

    async def retry_later(
        self, delivery_id: str, owner: str, changes: Mapping[str, object], *, due_at: datetime
    ) -> bool:
        """Record a failed attempt of a claimed delivery; return False if the lease was lost."""
        update = {"$set": changes, "$inc": {"attempts": 1}}
        return await self._queue.reschedule(delivery_id, owner, due_at=due_at, changes=update)

    async def postpone(self, host: str, *, now: datetime, until: datetime) -> int:
        """Postpone the due deliveries to a host that has just failed, except claimed ones; return how many."""
        where = {"host": host, "due_at": {"$lte": now}, "owner": {"$exists": False}}
        return await self.collection.update_many(where, {"$set": {"due_at": until}})

    async def set_host(self, webhook_id: str, channel: int, host: str) -> None:
        """Change the host of a channel's pending deliveries, after its URL changed."""
        where = {"webhook_id": webhook_id, "channel": channel, "due_at": {"$exists": True}}
        await self.collection.update_many(where, {"$set": {"host": host}})

    async def replay(
        self, webhook_id: str, delivery_id: str, *, now: datetime, expires_at: datetime
    ) -> WebhookDeliveryDocument | None:
        """Make a delivery due now, with a new time limit; None if there is none. A claimed one keeps its lease."""
        fields: dict[str, object] = {
            "status": "pending",
            "attempts": 0,
            "expires_at": expires_at,
            "error": None,
            "due_at": {"$cond": [{"$eq": [{"$type": "$owner"}, "missing"]}, now, "$due_at"]},
        }
        return await self.collection.find_and_update({"_id": delivery_id, "webhook_id": webhook_id}, [{"$set": fields}])

    async def delete_of_webhook(self, webhook_id: str) -> int:
        """Delete every delivery of a webhook; return how many."""
        return await self.collection.delete_many({"webhook_id": webhook_id})
