"""Deleting many objects of a bucket: what one deletion does, in as few round trips for all."""

from collections.abc import Sequence

from pymongo import DeleteOne

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import Deletion, ObjectDocument
from bucketline.observability.metrics import OBJECTS
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.delete import finish_removal, intent, publish_deleted
from bucketline_ingest_api.objects.validation import ensure_writable

PAGE = 500
NOT_NEEDED = (
    "custom",
    "edges",
    "blobs.properties",
    "blobs.details",
    "blobs.source.text",
    "blobs.source.value",
    "blobs.source.base64",
)
"""Parts of an object that a deletion does not look at."""


async def soft_delete(deps: Container, bucket: BucketDocument, object_ids: Sequence[str], deletion: Deletion) -> int:
    """Deletes the objects of this bucket among ``object_ids``; returns how many those were.

    For every client that is a deletion like any other: gone, with its documents, its key free, its event published.
    What the object was is kept for :data:`~bucketline.db.objects.SOFT_DELETED_KEPT`, with the reason. After a
    crash the request may be sent again: it goes on where it stopped.
    """
    ensure_writable(bucket)
    removed, ids = 0, list(dict.fromkeys(object_ids))
    for start in range(0, len(ids), PAGE):
        found = await deps.objects.many(ids[start : start + PAGE], without=NOT_NEEDED)
        page = [obj for obj in found.values() if obj["bucket_id"] == bucket["_id"]]
        if page:
            await deps.objects.retain(bucket["_id"], [obj["_id"] for obj in page], deletion)
            removed += await remove_objects(deps, page)
    return removed


async def remove_objects(deps: Container, objects: Sequence[ObjectDocument]) -> int:
    """Deletes the objects as they were read, with their documents; each deletion is told. Returns how many went.

    The intents are durable before the first object goes, so that a crash is made good as after a single deletion.
    One that was changed after it was read is deleted by itself.
    """
    await deps.removals.begin([intent(deps, obj) for obj in objects])
    deletions = [DeleteOne({"_id": obj["_id"], "revision": obj["revision"]}) for obj in objects]
    removed = (await deps.objects.collection.bulk(deletions)).deleted
    ids = [obj["_id"] for obj in objects]
    changed = await deps.objects.many(ids) if removed < len(ids) else {}
    gone = [object_id for object_id in ids if object_id not in changed]
    await deps.documents.collection.delete_many({"object_id": {"$in": gone}})
    await publish_deleted(deps, gone)
    OBJECTS.labels("deleted").inc(removed)
    for object_id, obj in changed.items():
        await finish_removal(deps, obj, object_id)
        OBJECTS.labels("deleted").inc()
    return removed + len(changed)
