"""Buckets and collections: lists and forms to create them."""

import json

from fastapi import APIRouter
from starlette.responses import Response

from bucketline_console.api import Json
from bucketline_console.page import FormDep, PageDep, list_buckets, redirect

router = APIRouter(prefix="/namespaces/{namespace}")

MAX_COLLECTIONS = 200
FILE_SCHEMA: Json = {
    "properties": {
        "document": {"type": "pdf"},
        "image": {"type": "image"},
        "table": {"type": "excel"},
        "text": {"type": "text"},
        "audio": {"type": "audio"},
        "video": {"type": "video"},
        "name": {"type": "string"},
    }
}
"""A schema with a property for each kind of file, as the command ``bucketline upload`` creates it."""
EXTRACTORS = (
    "passthrough_extractor",
    "text_extractor",
    "document_extractor",
    "image_extractor",
    "table_extractor",
)


@router.get("/buckets")
async def show_buckets(page: PageDep) -> Response:
    """Show the buckets and collections."""
    buckets = await list_buckets(page.api)
    collections = (await page.api.post("/v1/collections/list", limit=str(MAX_COLLECTIONS)))["results"]
    return page.render(
        "buckets.html",
        buckets=buckets,
        bucket_names={bucket["bucket_id"]: bucket["bucket_name"] for bucket in buckets},
        collections=collections,
        extractors=EXTRACTORS,
        schema=json.dumps(FILE_SCHEMA, indent=2),
    )


@router.post("/buckets")
async def create_bucket(page: PageDep, form: FormDep) -> Response:
    """Create a bucket."""
    back, name = f"{page.base}/buckets", form.get("name", "")
    try:
        schema = json.loads(form.get("schema") or json.dumps(FILE_SCHEMA))
    except ValueError as error:
        return redirect(back, f"The schema is not JSON: {error}", kind="error")
    call = page.api.post("/v1/buckets", {"bucket_name": name, "bucket_schema": schema})
    return await page.act(call, f"Bucket {name} created.", back)


@router.post("/collections")
async def create_collection(page: PageDep, form: FormDep) -> Response:
    """Create a collection that reads a bucket."""
    name, fields = form.get("name", ""), form.get("fields", "").replace(",", " ").split()
    extractor: Json = {"feature_extractor_name": form.get("extractor", ""), "version": "v1"}
    if fields:
        extractor["field_passthrough"] = [{"source_path": field} for field in fields]
    body = {
        "collection_name": name,
        "source": {"type": "bucket", "bucket_ids": [form.get("bucket", "")]},
        "feature_extractor": extractor,
    }
    return await page.act(page.api.post("/v1/collections", body), f"Collection {name} created.", f"{page.base}/buckets")
