"""Batches: progress, errors, and what can be done with them."""

from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query
from starlette.responses import Response

from bucketline_console.api import ApiError, Json
from bucketline_console.page import FormDep, PageDep, gather_or_none, list_buckets

router = APIRouter(prefix="/namespaces/{namespace}")

PAGE_SIZE = 25
STATUSES = ("DRAFT", "PENDING", "QUEUED", "PROCESSING", "COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")
ACTIVE = frozenset({"PENDING", "QUEUED", "IN_PROGRESS", "PROCESSING"})
FINAL = frozenset({"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED"})
ACTIONS = {
    "submit": "The batch is submitted.",
    "cancel": "The batch is canceled.",
    "retry": "The failed objects are retried.",
    "resubmit": "The batch runs again.",
}

Text = Annotated[str, Query(max_length=1000)]


@router.get("/batches")
async def list_batches(
    page: PageDep, bucket: Text = "", status: Text = "", cursor: Annotated[str, Query(max_length=8192)] = ""
) -> Response:
    """List batches, newest first."""
    body: Json = {
        "limit": PAGE_SIZE,
        **({"bucket_id": bucket} if bucket else {}),
        **({"status": status} if status else {}),
    }
    found = await page.api.post("/v1/batches/list", {**body, **({"cursor": cursor} if cursor else {})})
    query = {"bucket": bucket, "status": status}
    next_cursor = found["pagination"].get("next_cursor")
    buckets = await list_buckets(page.api)
    return page.render(
        "batches.html",
        batches=found["results"],
        buckets=buckets,
        bucket_names={row["bucket_id"]: row["bucket_name"] for row in buckets},
        query=query,
        statuses=STATUSES,
        is_first=not cursor,
        first_url=f"{page.base}/batches?{urlencode(query)}",
        next_url=f"{page.base}/batches?{urlencode({**query, 'cursor': next_cursor})}" if next_cursor else None,
    )


@router.get("/batches/{batch_id}")
async def show_batch(page: PageDep, batch_id: str) -> Response:
    """Show one batch."""
    batch = await page.api.get(f"/v1/batches/{quote(batch_id, safe='')}")
    path = f"/v1/buckets/{quote(batch['bucket_id'], safe='')}/batches/{quote(batch_id, safe='')}"
    [failed] = await gather_or_none(page.api.get(f"{path}/failed-documents", limit="100"))
    return page.render(
        "batch.html",
        batch=batch,
        failed=failed,
        is_active=batch["status"] in ACTIVE,
        is_final=batch["status"] in FINAL,
    )


@router.post("/batches/{batch_id}")
async def change_batch(page: PageDep, batch_id: str, form: FormDep) -> Response:
    """Submit, cancel, retry or resubmit the batch."""
    action, bucket = form.get("action", ""), form.get("bucket", "")
    if action not in ACTIONS:
        raise ApiError(400, "There is no such action.")
    path = f"/v1/buckets/{quote(bucket, safe='')}/batches/{quote(batch_id, safe='')}/{action}"
    body = {"retry_mode": "all"} if action == "retry" else None
    return await page.act(page.api.post(path, body), ACTIONS[action], f"{page.base}/batches/{quote(batch_id, safe='')}")
