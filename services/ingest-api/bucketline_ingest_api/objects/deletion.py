"""Deletes objects with their documents, staged content and unpublished events.

The intent is durable before the object is deleted, and the event is published last: the reconciler finishes deletions
that a crash interrupted. Batches that wait for a deleted object are left to the batcher, content that is no longer
referenced to the garbage collection.
"""

from collections.abc import Sequence
from typing import cast

from bucketline.db.buckets import BucketDocument
from bucketline.db.object_deletions import ObjectDeletionDocument
from bucketline.db.objects import Deletion, ObjectDocument
from bucketline.db.outbox_store import OutboxDocument, outbox_entry_of
from bucketline.errors import NotFound, ServiceUnavailable
from bucketline.events.models import ObjectDeleted
from bucketline.observability.metrics import OBJECTS
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.staging import discard_staged, staged_keys
from bucketline_ingest_api.objects.validation import ensure_writable

MAX_ATTEMPTS = 10
PAGE_SIZE = 500
UNUSED_FIELDS = (
    "custom",
    "edges",
    "blobs.properties",
    "blobs.details",
    "blobs.source.text",
    "blobs.source.value",
    "blobs.source.base64",
)
"""Fields of an object that a deletion does not read."""


async def delete_object(deps: Container, bucket: BucketDocument, object_id: str) -> None:
    """Delete one object; its unique key is free afterwards. :class:`NotFound` if it is not in this bucket."""
    ensure_writable(bucket)
    obj = await deps.objects.get(bucket["_id"], object_id)
    if obj is None:
        raise NotFound.of("object", object_id)
    await delete_objects(deps, [obj])


async def soft_delete_objects(
    deps: Container, bucket: BucketDocument, object_ids: Sequence[str], deletion: Deletion
) -> int:
    """Delete the objects of this bucket among ``object_ids``; return how many there were.

    Clients see an ordinary deletion. The objects are kept for :data:`~bucketline.db.objects.SOFT_DELETED_KEPT`, with
    the reason. After a crash the request can be repeated: it continues where it stopped.
    """
    ensure_writable(bucket)
    deleted, ids = 0, list(dict.fromkeys(object_ids))
    for start in range(0, len(ids), PAGE_SIZE):
        objects = await deps.objects.get_many(ids[start : start + PAGE_SIZE], without=UNUSED_FIELDS)
        page = [obj for obj in objects.values() if obj["bucket_id"] == bucket["_id"]]
        if page:
            await deps.objects.retain(bucket["_id"], [obj["_id"] for obj in page], deletion)
            deleted += await delete_objects(deps, page)
    return deleted


async def delete_objects(deps: Container, objects: Sequence[ObjectDocument]) -> int:
    """Delete the objects with everything that belongs to them; return how many this call deleted.

    The intent is durable before an object is deleted, in the revision in which it was read. One that has changed since
    is read again.
    """
    deleted, remaining = 0, {obj["_id"]: obj for obj in objects}
    for _ in range(MAX_ATTEMPTS):
        # The intent holds the unpublished events and the staged content of this very revision.
        await deps.removals.start([_intent(deps, obj) for obj in remaining.values()])
        count = await deps.objects.delete_unchanged(list(remaining.values()))
        OBJECTS.labels("deleted").inc(count)
        deleted += count
        changed = await deps.objects.get_many(list(remaining), without=UNUSED_FIELDS) if count < len(remaining) else {}
        if gone := [object_id for object_id in remaining if object_id not in changed]:
            await finish_deletions(deps, gone)
        if not changed:
            return deleted
        remaining = changed
    raise ServiceUnavailable("the object is being modified concurrently; try again", retry_after_seconds=1)


async def finish_deletions(deps: Container, object_ids: Sequence[str]) -> None:
    """Delete what belongs to deleted objects, and publish the deletions after the objects' earlier events."""
    await deps.documents.delete_of_objects(object_ids)
    deletions = await deps.removals.mark_deleted(object_ids, deps.clock.now())
    await discard_staged(deps, [key for deletion in deletions for key in deletion["staged"]])
    deps.removal_outbox.enqueue([outbox_entry_of(deletion) for deletion in deletions])


def _intent(deps: Container, obj: ObjectDocument) -> ObjectDeletionDocument:
    """Return what has to be known after the object is deleted, with the event to publish."""
    now = deps.clock.now()
    event = deps.new_event(
        ObjectDeleted(
            object_id=obj["_id"],
            bucket_id=obj["bucket_id"],
            namespace_id=obj["namespace_id"],
            revision=obj["revision"] + 1,
            deleted_at=now,
        )
    )
    return {
        "_id": obj["_id"],
        "bucket_id": obj["bucket_id"],
        "namespace_id": obj["namespace_id"],
        "revision": obj["revision"],
        "created_at": now,
        "carried": obj.get("pending", []),
        "staged": staged_keys(obj),
        "event": cast("OutboxDocument", event.to_document()),
    }
