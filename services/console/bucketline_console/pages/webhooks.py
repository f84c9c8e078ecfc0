"""Webhooks: their health and deliveries."""

from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query
from starlette.responses import Response

from bucketline_console.page import PageDep

router = APIRouter(prefix="/namespaces/{namespace}")

PAGE_SIZE = 25
STATUSES = ("pending", "delivered", "failed")


@router.get("/webhooks")
async def list_webhooks(page: PageDep) -> Response:
    """List the webhooks that the key may see."""
    found = await page.api.post("/v1/organizations/webhooks/list", limit="100")
    return page.render("webhooks.html", webhooks=found["results"])


@router.get("/webhooks/{webhook_id}")
async def show_webhook(
    page: PageDep,
    webhook_id: str,
    status: Annotated[str, Query(max_length=50)] = "",
    cursor: Annotated[str, Query(max_length=8192)] = "",
) -> Response:
    """Show a webhook with its latest deliveries."""
    path = f"/v1/organizations/webhooks/{quote(webhook_id, safe='')}"
    query = {"limit": str(PAGE_SIZE), **({"status": status} if status in STATUSES else {})}
    webhook = await page.api.get(path)
    found = await page.api.get(f"{path}/deliveries", **query, **({"cursor": cursor} if cursor else {}))
    next_cursor = found["pagination"].get("next_cursor")
    own = f"{page.base}/webhooks/{quote(webhook_id, safe='')}"
    return page.render(
        "webhook.html",
        webhook=webhook,
        deliveries=found["results"],
        chosen=status,
        statuses=STATUSES,
        is_first=not cursor,
        first_url=f"{own}?{urlencode({'status': status})}",
        next_url=f"{own}?{urlencode({'status': status, 'cursor': next_cursor})}" if next_cursor else None,
    )


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}")
async def redeliver(page: PageDep, webhook_id: str, delivery_id: str) -> Response:
    """Send a delivery again."""
    webhook, delivery = quote(webhook_id, safe=""), quote(delivery_id, safe="")
    call = page.api.post(f"/v1/organizations/webhooks/{webhook}/deliveries/{delivery}/replay")
    return await page.act(call, "The delivery is due now.", f"{page.base}/webhooks/{webhook}")
