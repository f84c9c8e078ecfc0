"""Request and response bodies of the webhook endpoints."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from bucketline.db.webhooks import DeliveryStatus, WebhookChannel, WebhookDeliveryDocument, WebhookDocument
from bucketline_ingest_api.events.notifications import EventType
from bucketline_ingest_api.schemas import (
    ListBody,
    Pagination,
    RequestBody,
    ResponseBody,
    Timestamp,
    Unsupported,
    example,
)

ResourceType = Literal["object", "collection"]

REDACTED = "redacted"
"""Stands for a secret that is stored. Sent in an update, it keeps the secret."""
MAX_TIMEOUT_SECONDS = 30.0

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OWN_HEADERS = ("host", "content-length", "content-type", "transfer-encoding", "connection", "x-mixpeek-signature")


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    """Reject headers that are not valid, and those that a delivery sets itself."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-"):
            raise ValueError(f"{name!r} is set by the delivery itself")
        if len(value) > 2000 or not value.isprintable() or not value.isascii():
            raise ValueError(f"the value of {name!r} must be printable ASCII of at most 2000 characters")
    return headers


Headers = Annotated[dict[str, str], Field(max_length=20), AfterValidator(_check_headers)]
ReadOnly = Annotated[Any, Field(description="Read only: accepted without effect.")]


class ChannelConfigs(RequestBody):
    """The receiver. It must answer with a 2xx within the timeout."""

    url: str = Field(min_length=1, max_length=2000, description="Public addresses on ports 80 and 443 by default.")
    headers: Headers | None = Field(default=None, description="Headers to send with each delivery.")
    payload_template: Unsupported = None
    timeout: float = Field(default=10.0, gt=0, le=MAX_TIMEOUT_SECONDS, description="Seconds.")
    signing_secret: str | None = Field(
        default=None,
        max_length=500,
        description="Generated and shown once if it is left out when the channel is created; empty: do not sign. "
        "In an update, left out or `redacted` keeps the secret.",
    )


class Channel(RequestBody):
    """A channel. Only the kind `webhook` is supported."""

    channel: Literal["webhook"]
    configs: ChannelConfigs


_CONFIGS = {"url": "https://hooks.example.com/in", "headers": {"X-Env": "dev"}, "timeout": 10.0}
_REQUEST = {
    "webhook_name": "ingest",
    "event_types": ["object.created", "object.updated"],
    "channels": [{"channel": "webhook", "configs": {**_CONFIGS, "signing_secret": "change-me"}}],
    "is_active": True,
}
_WEBHOOK = {
    **_REQUEST,
    "webhook_id": "wh_0011223344556677",
    "resource_types": None,
    "channels": [{"channel": "webhook", "configs": {**_CONFIGS, "signing_secret": REDACTED}}],
    "delivery_health": None,
    "created_at": "2026-03-01T09:00:00.000Z",
    "updated_at": "2026-03-01T09:00:00.000Z",
}


class WebhookInput(RequestBody):
    """Creates or replaces a webhook. An update that leaves out `is_active` keeps it."""

    model_config = example(_REQUEST)

    webhook_name: str = Field(min_length=1, max_length=200)
    event_types: list[EventType] = Field(
        min_length=1,
        max_length=20,
        description="`object.updated` is a change by the producer or the end of a run; see `metadata.status`.",
    )
    resource_types: list[ResourceType] | None = Field(
        default=None,
        max_length=10,
        description="Deliver only event types that begin with one of these; empty: deliver all.",
    )
    channels: list[Channel] = Field(min_length=1, max_length=10, description="Every channel receives every event.")
    is_active: bool = True
    webhook_id: ReadOnly = None
    internal_id: ReadOnly = None
    delivery_health: ReadOnly = None
    created_at: ReadOnly = None
    updated_at: ReadOnly = None


class ListWebhooks(ListBody):
    """Filters, sorts and pages a list of webhooks."""

    model_config = example({"event_type": "object.created", "is_active": True, "limit": 20})

    event_type: str | None = Field(default=None, max_length=100)
    is_active: bool | None = None


class ShownConfigs(ResponseBody):
    """The receiver. `signing_secret` is `redacted`, except right after it was generated."""

    url: str
    headers: dict[str, str]
    timeout: float
    signing_secret: str | None = None


class ShownChannel(ResponseBody):
    """A channel of a webhook."""

    channel: Literal["webhook"] = "webhook"
    configs: ShownConfigs


class Health(ResponseBody):
    """The current run of failed attempts, and when it deactivated the webhook."""

    consecutive_failures: int = 0
    first_failure_at: Timestamp | None = None
    last_failure_at: Timestamp | None = None
    last_failure_cause: str | None = None
    paused_at: Timestamp | None = None
    paused_reason: str | None = None


class Webhook(ResponseBody):
    """A webhook. `delivery_health` is null while deliveries succeed."""

    model_config = example(_WEBHOOK)

    webhook_id: str
    webhook_name: str
    event_types: list[str]
    resource_types: list[str] | None = None
    channels: list[ShownChannel]
    is_active: bool
    delivery_health: Health | None = None
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, webhook: WebhookDocument, *, reveal: frozenset[int] = frozenset()) -> "Webhook":
        """Return the response for a stored webhook, with the new secrets of the channels in ``reveal``."""
        return cls.model_validate(
            {
                **webhook,
                "webhook_id": webhook["_id"],
                "webhook_name": webhook["name"],
                "resource_types": webhook["resource_types"] or None,
                "channels": [
                    _show_channel(channel, reveal=index in reveal) for index, channel in enumerate(webhook["channels"])
                ],
            }
        )


def _show_channel(channel: WebhookChannel, *, reveal: bool) -> ShownChannel:
    secret = channel["secret"] if reveal or not channel["secret"] else REDACTED
    return ShownChannel(
        configs=ShownConfigs(
            url=channel["url"], headers=channel["headers"], timeout=channel["timeout"], signing_secret=secret
        )
    )


class WebhookList(ResponseBody):
    """A page of webhooks."""

    model_config = example({"results": [_WEBHOOK], "pagination": {"page": 1, "page_size": 10}, "total": 1})

    results: list[Webhook]
    pagination: Pagination
    total: int


_DELIVERY = {
    "delivery_id": "whd_06h2v9k1m3q5s7t9v1x3",
    "webhook_id": "wh_0011223344556677",
    "url_host": "hooks.example.com",
    "event_id": "evt_06h2v9k1m3q5s7t9v1x3",
    "event_type": "object.created",
    "status": "delivered",
    "attempts": 1,
    "status_code": 204,
    "error": None,
    "next_attempt_at": None,
    "last_attempt_at": "2026-03-01T09:00:01.000Z",
    "created_at": "2026-03-01T09:00:00.000Z",
}


class Delivery(ResponseBody):
    """An event for one channel of a webhook: its attempts so far and the result of the last one."""

    model_config = example(_DELIVERY)

    delivery_id: str
    webhook_id: str
    channel: int = Field(default=0, description="Index of the channel in the webhook.")
    url_host: str
    event_id: str
    event_type: str
    status: DeliveryStatus
    attempts: int
    status_code: int | None = None
    error: str | None = None
    next_attempt_at: Timestamp | None = None
    last_attempt_at: Timestamp | None = None
    created_at: Timestamp

    @classmethod
    def of(cls, delivery: WebhookDeliveryDocument) -> "Delivery":
        """Return the response for a stored delivery."""
        return cls.model_validate(
            {
                **delivery,
                "delivery_id": delivery["_id"],
                "url_host": delivery["host"],
                "next_attempt_at": delivery.get("due_at"),
            }
        )


class DeliveryList(ResponseBody):
    """A page of deliveries."""

    model_config = example({"results": [_DELIVERY], "pagination": {"page": 1, "page_size": 10}, "total": 1})

    results: list[Delivery]
    pagination: Pagination
    total: int
