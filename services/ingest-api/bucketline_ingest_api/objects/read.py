"""Reading objects: one by its id, a page of them, the documents made of one."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.filenames import safe_filename
from bucketline.errors import DependencyUnavailable, NotFound
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.serializers import PRESIGNED_SECONDS

log = get_logger(__name__)

MAX_DOCUMENTS = 1000

COUNT_SECONDS = 2.0
"""A count that takes longer is not told."""


async def get_object(deps: Container, bucket_id: str, object_id: str) -> ObjectDocument:
    """:class:`NotFound` also for an object of another bucket."""
    found = await deps.objects.get(bucket_id, object_id)
    if found is None:
        raise NotFound.of("object", object_id)
    return found


async def document_count(deps: Container, object_id: str) -> int | None:
    """How many documents collections made of the object; None when it cannot be told in time."""
    try:
        async with asyncio.timeout(COUNT_SECONDS):
            return await deps.documents.count_of_object(object_id)
    except (TimeoutError, DependencyUnavailable) as error:
        log.warning("documents were not counted", object_id=object_id, error=repr(error))
        return None


async def presigned(deps: Container, objects: Sequence[ObjectDocument]) -> dict[str, str]:
    """A URL for each blob whose bytes are in our store, mirrored or not, by the blob's id, good for an hour."""
    urls = {}
    for obj in objects:
        for blob in obj["blobs"]:
            if (place := _place(blob)) is not None:
                key, name = place
                urls[blob["blob_id"]] = await deps.blobstore.presign_get(key, expires=PRESIGNED_SECONDS, filename=name)
        # signing asks nobody, and a page may have a hundred thousand blobs: others are let in between
        await asyncio.sleep(0)
    return urls


def _place(blob: BlobDocument) -> tuple[str, str | None] | None:
    """The key of the blob's bytes, and what a file of them is called. A confirmed upload keeps its own key for good."""
    if (storage := blob["storage"]) is not None:
        return storage["key"], blob["details"]["filename"] if blob["details"] is not None else None
    source = blob["source"] or {}
    if source.get("kind") != "upload":
        return None
    filename = source.get("filename")
    return str(source["key"]), safe_filename(filename) if isinstance(filename, str) else None


async def documents_of(
    deps: Container, namespace_id: str, object_id: str, collection_ids: Sequence[str]
) -> tuple[int, list[DocumentDocument]]:
    """How many documents were made of the object, and the first :data:`MAX_DOCUMENTS` of them.

    :class:`NotFound` unless the object is in the namespace. ``collection_ids`` empty: of every collection.
    """
    obj = await deps.objects.collection.find_one({"_id": object_id, "namespace_id": namespace_id}, fields=["_id"])
    if obj is None:
        raise NotFound.of("object", object_id)
    where: dict[str, object] = {"object_id": object_id}
    if collection_ids:
        where["collection_id"] = {"$in": list(collection_ids)}
    found = await deps.documents.collection.find(
        where, limit=MAX_DOCUMENTS, sort=[("collection_id", 1), ("run", 1), ("ordinal", 1)]
    )
    total = len(found) if len(found) < MAX_DOCUMENTS else await deps.documents.collection.count(where)
    return total, found


def stats_of(objects: Sequence[ObjectDocument]) -> dict[str, Any]:
    """Of one page."""
    blobs = sum(len(obj["blobs"]) for obj in objects)
    return {
        "total_objects": len(objects),
        "total_blobs": blobs,
        "avg_blobs_per_object": blobs / len(objects) if objects else 0.0,
        "objects_by_status": dict(Counter(obj["status"] for obj in objects)),
    }
