"""Upload: files are streamed through the console to the store, so the browser needs no access to it."""

import mimetypes
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from bucketline_console.api import ApiError, Json
from bucketline_console.page import PageDep, list_buckets

router = APIRouter(prefix="/namespaces/{namespace}")

_KINDS = (
    ("image", ("image/",)),
    ("audio", ("audio/",)),
    ("video", ("video/",)),
    ("pdf", ("application/pdf",)),
    ("excel", ("text/csv", "application/vnd.ms-excel", "application/vnd.openxmlformats-officedocument.spreadsheetml.")),
    ("text", ("text/",)),
)
"""The schema type for the beginning of a media type; the first match counts."""
_FALLBACKS = {".md": "text/markdown", ".jsonl": "application/jsonl", ".parquet": "application/vnd.apache.parquet"}


@router.get("/upload")
async def show_upload(page: PageDep, bucket: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Show the page that takes files."""
    return page.render("upload.html", buckets=await list_buckets(page.api), chosen=bucket)


@router.put("/upload/{bucket}")
async def upload_file(
    request: Request, page: PageDep, bucket: str, filename: Annotated[str, Query(max_length=255)]
) -> Response:
    """Take one file as the body of the request, store it by a presigned upload and process its object."""
    try:
        return JSONResponse(await _upload(request, page, bucket, filename))
    except ApiError as error:
        return JSONResponse({"error": error.message}, error.status)
    except ClientDisconnect:
        return Response(status_code=400)  # no client receives it


async def _upload(request: Request, page: PageDep, bucket: str, filename: str) -> Json:
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdigit() else 0
    if size == 0:
        raise ApiError(422, "The file is empty.")
    path = f"/v1/buckets/{quote(bucket, safe='')}"
    suffix = f".{filename.rpartition('.')[2].lower()}"
    media_type = _FALLBACKS.get(suffix) or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    stored = await page.api.get(path)
    properties: dict[str, Json] = (stored.get("bucket_schema") or {}).get("properties") or {}
    body: Json = {"filename": filename, "content_type": media_type, "file_size_bytes": size}
    if (name := _choose_property(properties, media_type)) is not None:
        body["blob_property"] = name
    if (properties.get("name") or {}).get("type") in ("string", "text"):
        body["object_metadata"] = {"name": filename}
    upload = await page.api.post(f"{path}/uploads", body)
    if upload.get("presigned_url") is None:
        object_id = upload.get("existing_object_id") or upload.get("object_id")
        return {"object_id": object_id, "url": _object_url(page, bucket, object_id), "message": upload.get("message")}
    etag = await page.api.put_file(upload["presigned_url"], request.stream(), media_type, size)
    confirmation = {"etag": etag, "file_size_bytes": size, "auto_submit_batch": True}
    confirmed = await page.api.post(f"/v1/uploads/{quote(upload['upload_id'], safe='')}/confirm", confirmation)
    object_id = confirmed.get("object_id")
    return {"object_id": object_id, "url": _object_url(page, bucket, object_id), "message": confirmed.get("message")}


def _choose_property(properties: dict[str, Json], media_type: str) -> str | None:
    """Return the property of the schema that takes files of this type; None leaves the choice to the API."""
    for kind, beginnings in _KINDS:
        if media_type.startswith(beginnings):
            for name, definition in properties.items():
                if str(definition.get("type")).lower() == kind:
                    return name
    return None


def _object_url(page: PageDep, bucket: str, object_id: str | None) -> str | None:
    if object_id is None:
        return None
    return f"{page.base}/buckets/{quote(bucket, safe='')}/objects/{quote(object_id, safe='')}"
