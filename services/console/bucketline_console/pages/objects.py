"""Objects: search, one object with its content and timeline."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from bucketline_console.api import ApiError, Json
from bucketline_console.page import PageDep, gather_or_none, list_buckets
from bucketline_console.timeline import place_steps

router = APIRouter(prefix="/namespaces/{namespace}")

PAGE_SIZE = 25
MAX_EVENTS = 100
MAX_TEXT_BYTES = 20_000
STATUSES = ("DRAFT", "QUEUED", "PROCESSING", "COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "SKIPPED", "CANCELED")
OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "contains", "starts_with")
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"})
"""Images that a browser shows without running anything. SVG is not among them."""
DECLARED = frozenset(
    {"object_id", "bucket_id", "key_prefix", "blobs", "source_details", "edges", "status", "error", "created_at"}
    | {"updated_at", "document_count", "consistency", "_internal"}
)
CHUNK_BYTES = 64 * 1024

Text = Annotated[str, Query(max_length=1000)]


@router.get("/objects")
async def list_objects(
    page: PageDep,
    bucket: Text = "",
    status: Text = "",
    search: Text = "",
    field: Text = "",
    operator: Text = "eq",
    value: Text = "",
    cursor: Annotated[str, Query(max_length=8192)] = "",
) -> Response:
    """List the objects of a bucket, newest first."""
    buckets = await list_buckets(page.api)
    chosen = bucket or (buckets[0]["bucket_name"] if buckets else "")
    found: Json = {"results": [], "pagination": {}}
    error = ""
    if chosen:
        conditions: list[Json] = [{"field": "status", "operator": "eq", "value": status}] if status else []
        if field:
            conditions.append({"field": field, "operator": operator, "value": _parse_value(value)})
        body: Json = {
            "sort": {"field": "created_at", "direction": "desc"},
            "limit": PAGE_SIZE,
            **({"filters": {"AND": conditions}} if conditions else {}),
            **({"search": search} if search else {}),
            **({"cursor": cursor} if cursor else {}),
        }
        try:
            found = await page.api.post(f"/v1/buckets/{quote(chosen, safe='')}/objects/list", body)
        except ApiError as refused:
            if refused.status not in (400, 404, 422, 503):
                raise
            error = refused.message
    query = {"bucket": chosen, "status": status, "search": search}
    query |= {"field": field, "operator": operator, "value": value}
    next_cursor = found["pagination"].get("next_cursor")
    return page.render(
        "objects.html",
        buckets=buckets,
        query=query,
        objects=found["results"],
        error=error,
        statuses=STATUSES,
        operators=OPERATORS,
        is_first=not cursor,
        first_url=f"{page.base}/objects?{urlencode(query)}",
        next_url=f"{page.base}/objects?{urlencode({**query, 'cursor': next_cursor})}" if next_cursor else None,
    )


@router.get("/buckets/{bucket}/objects/{object_id}")
async def show_object(page: PageDep, bucket: str, object_id: str) -> Response:
    """Show one object."""
    path = f"/v1/buckets/{quote(bucket, safe='')}/objects/{quote(object_id, safe='')}"
    obj = await page.api.get(path, return_presigned_urls="true")
    documents, timeline, events = await gather_or_none(
        page.api.get(f"/v1/objects/{quote(object_id, safe='')}/documents"),
        page.api.get(f"/v1/objects/{quote(object_id, safe='')}/timeline"),
        page.api.get("/v1/events", object_id=object_id, limit=str(MAX_EVENTS)),
    )
    blobs = obj["blobs"]
    previews = await asyncio.gather(*(_read_text(page, blob) for blob in blobs[:20]))
    fields = {name: value for name, value in obj.items() if name not in DECLARED}
    steps, seconds = place_steps(timeline["steps"] if timeline else [])
    return page.render(
        "object.html",
        obj=obj,
        bucket=bucket,
        fields=fields,
        warnings=(obj.get("_internal") or {}).get("warnings", []),
        blobs=[
            {**blob, "text": text, "is_image": _media_type(blob) in IMAGES}
            for blob, text in zip(blobs, [*previews, *[None] * len(blobs)], strict=False)
        ],
        documents=documents,
        events=events,
        timeline=timeline or {},
        steps=steps,
        seconds=seconds,
    )


@router.get("/buckets/{bucket}/objects/{object_id}/blobs/{blob_id}")
async def get_blob(
    request: Request, page: PageDep, bucket: str, object_id: str, blob_id: str, download: bool = False
) -> Response:
    """Stream the content of a blob. Only images are shown in the browser; everything else is a download."""
    path = f"/v1/buckets/{quote(bucket, safe='')}/objects/{quote(object_id, safe='')}"
    obj = await page.api.get(path, return_presigned_urls="true", include_document_count="false")
    blob = next((blob for blob in obj["blobs"] if blob["blob_id"] == blob_id), None)
    if blob is None or not blob.get("presigned_url"):
        raise ApiError(404, "This blob has no stored content.")
    media_type = _media_type(blob)
    is_image = media_type in IMAGES and not download
    filename = (blob.get("details") or {}).get("filename") or blob_id
    headers = {
        "Content-Disposition": f"{'inline' if is_image else 'attachment'}; filename*=UTF-8''{quote(filename, safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    ranges = {"Range": value} if (value := request.headers.get("range")) else {}
    opened = page.api.open_file(blob["presigned_url"], ranges)
    source = await opened.__aenter__()
    if source.status not in (200, 206):
        await opened.__aexit__(None, None, None)
        raise ApiError(502, f"The store returned {source.status}.")

    async def stream() -> AsyncIterator[bytes]:
        try:
            async for chunk in source.content.iter_chunked(CHUNK_BYTES):
                yield chunk
        finally:
            await opened.__aexit__(None, None, None)

    for name in ("Content-Length", "Content-Range", "Accept-Ranges"):
        if name in source.headers:
            headers[name] = source.headers[name]
    return StreamingResponse(stream(), source.status, headers, media_type if is_image else "application/octet-stream")


async def _read_text(page: PageDep, blob: Json) -> str | None:
    """Return the beginning of a blob that is text."""
    if not _media_type(blob).startswith(("text/", "application/json")) or not blob.get("presigned_url"):
        return None
    try:
        async with page.api.open_file(blob["presigned_url"], {"Range": f"bytes=0-{MAX_TEXT_BYTES - 1}"}) as source:
            if source.status not in (200, 206):
                return None
            try:
                content = await source.content.readexactly(MAX_TEXT_BYTES)
            except asyncio.IncompleteReadError as error:  # a shorter file, which is complete
                content = error.partial
            return content.decode(errors="replace")
    except ApiError:
        return None


def _media_type(blob: Json) -> str:
    declared = str((blob.get("details") or {}).get("mime_type") or "")
    return declared.partition(";")[0].strip().lower()


def _parse_value(text: str) -> str | int | float | bool:
    """Return a filter value with the type that it looks like; quotes make it text."""
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"-?\d{1,15}\.\d{1,15}", text):
        return float(text)
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
