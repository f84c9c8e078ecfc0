"""Endpoints of ``/v1/organizations/webhooks``. They need no namespace: see :mod:`webhooks.service` for isolation."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline.db.webhooks import DeliveryStatus
from bucketline_ingest_api.dependencies import ContainerDep, DeletePrincipal, ReadPrincipal, WritePrincipal
from bucketline_ingest_api.pagination import list_rows
from bucketline_ingest_api.schemas import Paging, errors
from bucketline_ingest_api.webhooks import service
from bucketline_ingest_api.webhooks.schemas import (
    Delivery,
    DeliveryList,
    ListWebhooks,
    Webhook,
    WebhookInput,
    WebhookList,
)

router = APIRouter(prefix="/v1/organizations/webhooks", tags=["webhooks"])

Status = Annotated[DeliveryStatus | None, Query(description="Only deliveries with this status.")]


@router.post("", summary="Create a webhook", responses=errors(400))
async def create_webhook(container: ContainerDep, caller: WritePrincipal, body: WebhookInput) -> Webhook:
    """Subscribe to events from now on. A key that is restricted to some namespaces receives their events only.

    A secret that is generated here is shown only in this response.
    """
    webhook, generated = await service.create_webhook(container, caller, body)
    return Webhook.of(webhook, reveal=generated)


@router.post("/list", summary="List webhooks", responses=errors(400))
async def list_webhooks(
    container: ContainerDep, caller: ReadPrincipal, list_query: Paging, body: ListWebhooks | None = None
) -> WebhookList:
    """List the newest first, unless the body sorts them."""
    where = service.list_condition(caller, body)
    page = await list_rows(container.webhooks, where, service.LIST_SPEC, list_query, body)
    results = [Webhook.of(webhook) for webhook in page.rows]
    return WebhookList(results=results, pagination=page.pagination, total=page.total)


@router.get("/{identifier}", summary="Get a webhook", responses=errors())
async def get_webhook(container: ContainerDep, caller: ReadPrincipal, identifier: str) -> Webhook:
    """Find the webhook by id or name."""
    return Webhook.of(await service.find_webhook(container, caller, identifier))


@router.put("/{identifier}", summary="Replace a webhook", responses=errors(400))
async def update_webhook(
    container: ContainerDep, caller: WritePrincipal, identifier: str, body: WebhookInput
) -> Webhook:
    """Replace the configuration. Activating the webhook clears `delivery_health`."""
    webhook, generated = await service.update_webhook(container, caller, identifier, body)
    return Webhook.of(webhook, reveal=generated)


@router.delete("/{identifier}", status_code=204, summary="Delete a webhook with its deliveries", responses=errors())
async def delete_webhook(container: ContainerDep, caller: DeletePrincipal, identifier: str) -> None:
    """Stop its deliveries, except attempts that are being made."""
    await service.delete_webhook(container, caller, identifier)


@router.post("/{identifier}/rotate-secret", summary="Give the channels new secrets", responses=errors())
async def rotate_webhook_secret(container: ContainerDep, caller: WritePrincipal, identifier: str) -> Webhook:
    """Show the new secrets, only in this response. `webhook-signature` also has one by the old secret for a day."""
    webhook = await service.rotate_secrets(container, caller, identifier)
    return Webhook.of(webhook, reveal=frozenset(range(len(webhook["channels"]))))


@router.get("/{identifier}/deliveries", summary="List the deliveries of a webhook", responses=errors(400))
async def list_webhook_deliveries(
    container: ContainerDep, caller: ReadPrincipal, identifier: str, list_query: Paging, status: Status = None
) -> DeliveryList:
    """List the deliveries of the last seven days, newest first."""
    webhook = await service.find_webhook(container, caller, identifier)
    where = {"webhook_id": webhook["_id"], **({"status": status} if status else {})}
    page = await list_rows(container.webhook_deliveries, where, service.DELIVERY_LIST_SPEC, list_query, None)
    results = [Delivery.of(delivery) for delivery in page.rows]
    return DeliveryList(results=results, pagination=page.pagination, total=page.total)


@router.post("/{identifier}/deliveries/{delivery_id}/replay", summary="Send a delivery again", responses=errors())
async def replay_webhook_delivery(
    container: ContainerDep, caller: WritePrincipal, identifier: str, delivery_id: str
) -> Delivery:
    """Make the delivery due now, whatever its status is. Its event keeps its `event_id`."""
    return Delivery.of(await service.replay_delivery(container, caller, identifier, delivery_id))
