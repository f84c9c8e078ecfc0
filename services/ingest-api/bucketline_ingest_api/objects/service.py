"""Reads objects: one by its id, pages of a bucket, the documents made of one, download URLs of blobs."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from bucketline.db.buckets import BucketDocument
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.media_types import safe_filename
from bucketline.domain.moments import MOMENTS, Moments
from bucketline.domain.pagination import OBJECTS
from bucketline.domain.schema import properties
from bucketline.errors import DependencyUnavailable, NotFound
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.schemas import ListObjects
from bucketline_ingest_api.pagination import OLDEST_FIRST, ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListQuery, SortSpec

log = get_logger(__name__)

MAX_DOCUMENTS = 1000
COUNT_TIMEOUT_SECONDS = 2.0
PRESIGNED_SECONDS = 3600

MAX_SEARCHED_FIELDS = 100
MAX_SEARCH_DEPTH = 3

LIST_SPEC = ListSpec(
    bounds=OBJECTS,
    field_path=field_mapper(
        {
            "object_id": "_id",
            "bucket_id": "bucket_id",
            "namespace_id": "namespace_id",
            "key_prefix": "key_prefix",
            "blobs": "blobs",
            "edges": "edges",
            "status": "status",
            "error": "error",
            "created_at": "created_at",
            "updated_at": "updated_at",
            "document_count": "document_count",
            "idempotency_key": "idempotency_keys",
            MOMENTS: MOMENTS,
        },
        under="custom",
    ),
    under="custom",
    searched=(),
    order=OLDEST_FIRST,
    counted=False,
    exact=frozenset({"object_id", "bucket_id", "namespace_id", "status"}),
    simple=("_id", "created_at", "updated_at", "status"),
    without=("blobs.source.text", "blobs.source.value", "blobs.source.base64", "pending"),
)


async def get_object(deps: Container, bucket_id: str, object_id: str) -> ObjectDocument:
    """Return the object; :class:`NotFound` also for an object of another bucket."""
    obj = await deps.objects.get(bucket_id, object_id)
    if obj is None:
        raise NotFound.of("object", object_id)
    return obj


async def count_documents(deps: Container, object_id: str) -> int | None:
    """Return how many documents were made of the object, or None if they cannot be counted in time."""
    try:
        async with asyncio.timeout(COUNT_TIMEOUT_SECONDS):
            return await deps.documents.count_of_object(object_id)
    except (TimeoutError, DependencyUnavailable) as error:
        log.warning("documents not counted", object_id=object_id, error=repr(error))
        return None


async def list_documents(
    deps: Container, namespace_id: str, object_id: str, collection_ids: Sequence[str]
) -> tuple[int, list[DocumentDocument]]:
    """Return the number of documents made of the object, and the first :data:`MAX_DOCUMENTS` of them.

    No ``collection_ids``: of every collection. :class:`NotFound` unless the object is in the namespace.
    """
    obj = await deps.objects.collection.find_one({"_id": object_id, "namespace_id": namespace_id}, fields=["_id"])
    if obj is None:
        raise NotFound.of("object", object_id)
    where: dict[str, object] = {"object_id": object_id}
    if collection_ids:
        where["collection_id"] = {"$in": list(collection_ids)}
    documents = await deps.documents.collection.find(
        where, limit=MAX_DOCUMENTS, sort=[("collection_id", 1), ("run", 1), ("ordinal", 1)]
    )
    total = len(documents) if len(documents) < MAX_DOCUMENTS else await deps.documents.collection.count(where)
    return total, documents


async def presign_blobs(deps: Container, objects: Sequence[ObjectDocument]) -> dict[str, str]:
    """Return download URLs, valid for an hour, by blob id: of every blob whose bytes are in our store."""
    urls = {}
    for obj in objects:
        for blob in obj["blobs"]:
            if (location := _stored_location(blob)) is not None:
                key, name = location
                urls[blob["blob_id"]] = await deps.blobstore.presign_get(key, expires=PRESIGNED_SECONDS, filename=name)
        # Signing does no I/O and a page may have 100,000 blobs: yield to other requests.
        await asyncio.sleep(0)
    return urls


def _stored_location(blob: BlobDocument) -> tuple[str, str | None] | None:
    """Return the key of the blob's bytes and a filename for them. A confirmed upload keeps its key when mirrored."""
    if (storage := blob["storage"]) is not None:
        return storage["key"], blob["details"]["filename"] if blob["details"] is not None else None
    source = blob["source"] or {}
    if source.get("kind") != "upload":
        return None
    filename = source.get("filename")
    return str(source["key"]), safe_filename(filename) if isinstance(filename, str) else None


async def list_objects(
    deps: Container, bucket: BucketDocument, query: ListQuery, body: ListObjects | None
) -> Page[ObjectDocument]:
    """Return a page of the bucket's objects, oldest first unless the body sorts them."""
    if body is not None:
        body = body.model_copy(update={"sort": _indexed_sort(body.sort)})
    spec = replace(list_spec(bucket), searched=partial(_search_condition, bucket))
    return await list_rows(deps.objects.collection, {"bucket_id": bucket["_id"]}, spec, query, body)


def list_spec(bucket: BucketDocument) -> ListSpec:
    """Return how objects of this bucket are listed: its schema says which of their fields are dates."""
    return replace(LIST_SPEC, moments=Moments(bucket["schema"]))


def page_stats(objects: Sequence[ObjectDocument]) -> dict[str, Any]:
    """Return the counts of one page."""
    blobs = sum(len(obj["blobs"]) for obj in objects)
    return {
        "total_objects": len(objects),
        "total_blobs": blobs,
        "avg_blobs_per_object": blobs / len(objects) if objects else 0.0,
        "objects_by_status": dict(Counter(obj["status"] for obj in objects)),
    }


def _indexed_sort(sort: SortSpec | list[SortSpec] | None) -> SortSpec | list[SortSpec] | None:
    """Order objects of equal status by creation, as the index does."""
    only = sort[0] if isinstance(sort, list) and len(sort) == 1 else sort
    if isinstance(only, SortSpec) and only.field == "status":
        return [only, SortSpec(field="created_at", direction=only.direction)]
    return sort


def _search_condition(bucket: BucketDocument, pattern: str) -> Mapping[str, object]:
    """Match objects with the pattern in their key, in text at their root, or in a field that the schema declares."""
    declared = islice(_text_paths(properties(bucket["schema"]), "custom", MAX_SEARCH_DEPTH), MAX_SEARCHED_FIELDS)
    matches = {"$regex": pattern}
    text = {"$cond": [{"$eq": [{"$type": "$$field.v"}, "string"]}, "$$field.v", ""]}
    at_root = {
        "$anyElementTrue": {
            "$map": {
                "input": {"$objectToArray": "$custom"},
                "as": "field",
                "in": {"$regexMatch": {"input": text, "regex": pattern}},
            }
        }
    }
    paths = ("_id", "key_prefix", *declared)
    return {"$or": [*({path: matches} for path in paths), {"$expr": at_root}]}


def _text_paths(declared: Mapping[str, Mapping[str, object]], above: str, depth: int) -> Iterator[str]:
    """Yield the stored paths of declared fields that hold text, also inside objects and arrays."""
    for name, field in declared.items():
        path = f"{above}.{name}"
        items = field.get("items")
        inner = items if field["type"] == "array" and isinstance(items, dict) else field
        if inner["type"] in ("string", "text", "date", "datetime", "array"):
            yield path
        elif inner["type"] == "object" and depth > 1:
            yield from _text_paths(properties(inner), path, depth - 1)
