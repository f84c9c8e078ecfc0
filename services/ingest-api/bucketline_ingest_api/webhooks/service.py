"""Create, change and find webhooks.

Webhooks belong to an organization. One that was created with a key that is restricted to some namespaces receives the
events of these namespaces only, and a restricted key sees only webhooks whose namespaces it may access.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta

from bucketline.db.batches import webhook_host
from bucketline.db.webhooks import WebhookChannel, WebhookDeliveryDocument, WebhookDocument
from bucketline.domain.pagination import Bounds
from bucketline.errors import AlreadyExists, BadRequest, NotFound, ValidationFailed, ValidationIssue
from bucketline.http.ssrf import AddressRefused, check_url
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.events.notifier import RETRY_PERIOD
from bucketline_ingest_api.pagination import ListSpec, field_mapper
from bucketline_ingest_api.webhooks.schemas import REDACTED, ListWebhooks, WebhookInput

SECRET_OVERLAP = timedelta(days=1)
"""How long the secret before a rotation still signs."""
MAX_WEBHOOKS = 1000
MAX_UPDATE_ATTEMPTS = 5

LIST_SPEC = ListSpec(
    bounds=Bounds(10, 1000, max_offset=10_000),
    field_path=field_mapper(
        {"webhook_id": "_id", "webhook_name": "name"},
        unchanged=("event_types", "resource_types", "is_active", "created_at", "updated_at"),
    ),
    searched=("_id", "name"),
    exact=frozenset({"webhook_id"}),
)
DELIVERY_LIST_SPEC = ListSpec(
    bounds=Bounds(10, 1000, max_offset=10_000),
    field_path=field_mapper({"delivery_id": "_id"}, unchanged=("created_at",)),
    searched=("event_id",),
    without=("body",),
)


def scope_condition(caller: Principal) -> dict[str, object]:
    """Return the condition of webhooks that the caller may access."""
    condition: dict[str, object] = {"organization_id": caller.organization_id}
    if caller.namespaces:
        outside = {"$elemMatch": {"$nin": sorted(caller.namespaces)}}
        condition |= {"namespaces.0": {"$exists": True}, "namespaces": {"$not": outside}}
    return condition


def list_condition(caller: Principal, body: ListWebhooks | None) -> dict[str, object]:
    """Return the condition of the webhooks of a list."""
    condition = scope_condition(caller)
    if body is not None and body.event_type is not None:
        condition["event_types"] = body.event_type
    if body is not None and body.is_active is not None:
        condition["is_active"] = body.is_active
    return condition


async def find_webhook(container: Container, caller: Principal, identifier: str) -> WebhookDocument:
    """Return the webhook with this id or name. Raises :class:`NotFound`, also for one that the key may not access."""
    webhook = await container.webhooks.find(scope_condition(caller), identifier)
    if webhook is None:
        raise NotFound.of("webhook", identifier)
    return webhook


async def create_webhook(
    container: Container, caller: Principal, body: WebhookInput
) -> tuple[WebhookDocument, frozenset[int]]:
    """Create a webhook; return it and the indexes of the channels whose secret was generated."""
    own = {"organization_id": caller.organization_id}
    if await container.webhooks.count_matching(own, limit=MAX_WEBHOOKS) >= MAX_WEBHOOKS:
        raise BadRequest(
            f"an organization may have at most {MAX_WEBHOOKS} webhooks: delete one first",
            code="too_many_webhooks",
            details={"limit": MAX_WEBHOOKS},
        )
    channels, generated = _build_channels(container, body, [])
    now = container.clock.now()
    webhook: WebhookDocument = {
        "_id": f"wh_{secrets.token_hex(8)}",
        "name": body.webhook_name,
        "organization_id": caller.organization_id,
        "namespaces": sorted(caller.namespaces),
        "event_types": list(dict.fromkeys(body.event_types)),
        "resource_types": list(dict.fromkeys(body.resource_types or ())),
        "channels": channels,
        "is_active": body.is_active,
        "created_at": now,
        "updated_at": now,
    }
    await container.webhooks.create(webhook)
    return webhook, generated


async def update_webhook(
    container: Container, caller: Principal, identifier: str, body: WebhookInput
) -> tuple[WebhookDocument, frozenset[int]]:
    """Replace a webhook; return it and the indexes of the channels whose secret was generated."""
    for _ in range(MAX_UPDATE_ATTEMPTS):
        webhook = await find_webhook(container, caller, identifier)
        channels, generated = _build_channels(container, body, webhook["channels"])
        is_active = body.is_active if "is_active" in body.model_fields_set else webhook["is_active"]
        changes: dict[str, object] = {
            "name": body.webhook_name,
            "event_types": list(dict.fromkeys(body.event_types)),
            "resource_types": list(dict.fromkeys(body.resource_types or ())),
            "channels": channels,
            "is_active": is_active,
        }
        updated = await _change(container, webhook, changes, clear_health=is_active and not webhook["is_active"])
        if updated is None:
            continue
        for index, (before, after) in enumerate(zip(webhook["channels"], channels, strict=False)):
            if webhook_host(before["url"]) != webhook_host(after["url"]):
                await container.webhook_deliveries.set_host(webhook["_id"], index, webhook_host(after["url"]))
        return updated, generated
    raise _changed_concurrently(identifier)


async def rotate_secrets(container: Container, caller: Principal, identifier: str) -> WebhookDocument:
    """Give every channel a new secret and return the webhook. The old secrets sign for :data:`SECRET_OVERLAP`."""
    for _ in range(MAX_UPDATE_ATTEMPTS):
        webhook = await find_webhook(container, caller, identifier)
        until = container.clock.now() + SECRET_OVERLAP
        channels: list[WebhookChannel] = [
            {
                **channel,
                "secret": generate_secret(),
                "previous_secret": channel["secret"],
                "previous_until": until,
            }
            for channel in webhook["channels"]
        ]
        updated = await _change(container, webhook, {"channels": channels}, clear_health=False)
        if updated is not None:
            return updated
    raise _changed_concurrently(identifier)


async def delete_webhook(container: Container, caller: Principal, identifier: str) -> None:
    """Delete a webhook and its deliveries."""
    webhook = await find_webhook(container, caller, identifier)
    await container.webhooks.delete_by_id(webhook["_id"])
    await container.webhook_deliveries.delete_of_webhook(webhook["_id"])


async def replay_delivery(
    container: Container, caller: Principal, identifier: str, delivery_id: str
) -> WebhookDeliveryDocument:
    """Make a delivery due now and return it. Raises :class:`NotFound` if it is not one of this webhook."""
    webhook = await find_webhook(container, caller, identifier)
    now = container.clock.now()
    delivery = await container.webhook_deliveries.replay(
        webhook["_id"], delivery_id, now=now, expires_at=now + RETRY_PERIOD
    )
    if delivery is None:
        raise NotFound.of("delivery", delivery_id)
    return delivery


def generate_secret() -> str:
    """Return a new secret in the form of Standard Webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


async def _change(
    container: Container, webhook: WebhookDocument, changes: dict[str, object], *, clear_health: bool
) -> WebhookDocument | None:
    """Set fields of a webhook; None if it was changed since it was read."""
    # Later than before in any case: this time also detects concurrent changes.
    now = max(container.clock.now(), webhook["updated_at"] + timedelta(milliseconds=1))
    return await container.webhooks.change(
        webhook["_id"], {**changes, "updated_at": now}, clear_health=clear_health, seen=webhook["updated_at"]
    )


def _changed_concurrently(identifier: str) -> AlreadyExists:
    return AlreadyExists(
        "the webhook was changed at the same time: try again", code="webhook_changed", details={"id": identifier}
    )


def _build_channels(
    container: Container, body: WebhookInput, before: Sequence[WebhookChannel]
) -> tuple[list[WebhookChannel], frozenset[int]]:
    """Return the channels to store and the indexes of those whose secret was generated.

    A channel continues the one at the same index of ``before``, so that a corrected URL keeps its secret.
    """
    channels: list[WebhookChannel] = []
    generated: set[int] = set()
    issues: list[ValidationIssue] = []
    for index, requested in enumerate(body.channels):
        configs, location = requested.configs, ("body", "channels", index, "configs")
        try:
            check_url(configs.url, container.outbound)
        except AddressRefused as error:
            issues.append(ValidationIssue("url", (*location, "url"), error.message))
        existing = before[index] if index < len(before) else None
        channel: WebhookChannel = {
            "url": configs.url,
            "headers": configs.headers or {},
            "timeout": configs.timeout,
            "secret": configs.signing_secret or None,
        }
        if configs.signing_secret in (None, REDACTED):
            if existing is not None:
                channel = {**existing, **channel, "secret": existing["secret"]}
            elif configs.signing_secret == REDACTED:
                message = "there is no stored secret for this channel: send one, or leave it out to generate one"
                issues.append(ValidationIssue("signing_secret", (*location, "signing_secret"), message))
            else:
                channel["secret"] = generate_secret()
                generated.add(index)
        channels.append(channel)
    if issues:
        raise ValidationFailed(issues)
    return channels, frozenset(generated)
