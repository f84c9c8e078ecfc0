"""Deleting an object with all that hangs on it: its documents, staged content, and the events that it still owed.

The intent comes first and is durable, the event comes last; a crash anywhere in between is finished by a sweeper.
What submitted batches wait for is left to the batcher, which counts it. Content that nobody refers to any more is
collected by dedup.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

from bucketline.db.buckets import BucketDocument
from bucketline.db.object_deletions import ObjectDeletionDocument
from bucketline.db.objects import ObjectDocument
from bucketline.db.outbox_store import OutboxDocument, outbox_entry_of
from bucketline.errors import NotFound, ServiceUnavailable
from bucketline.events.models import ObjectDeleted
from bucketline.observability.metrics import OBJECTS, SWEPT
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.staging import discard, staged_keys
from bucketline_ingest_api.objects.validation import ensure_writable

ATTEMPTS = 10


async def remove_object(deps: Container, bucket: BucketDocument, object_id: str) -> None:
    """Afterwards the object is gone and its unique key free. :class:`NotFound` if there is no such object here."""
    ensure_writable(bucket)
    found = await deps.objects.get(bucket["_id"], object_id)
    if found is None:
        raise NotFound.of("object", object_id)
    await finish_removal(deps, found, object_id)
    OBJECTS.labels("deleted").inc()


def intent(deps: Container, obj: ObjectDocument) -> ObjectDeletionDocument:
    """What must be known of the object after it is gone, with the event that will say so."""
    now = deps.clock.now()
    event = deps.seal(
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


async def sweep_removals(deps: Container) -> int:
    """Finishes what was begun and then left; returns how many."""
    before = deps.clock.now() - timedelta(seconds=deps.sweep.stale_after_seconds)
    unfinished = await deps.removals.unfinished(before, limit=deps.sweep.batch_size)
    for removal in unfinished:
        found = await deps.objects.get(removal["bucket_id"], removal["_id"])
        await finish_removal(deps, found, removal["_id"])
    SWEPT.labels("removal").inc(len(unfinished))
    return len(unfinished)


async def finish_removal(deps: Container, found: ObjectDocument | None, object_id: str) -> None:
    """Deletes an object with all that hangs on it. ``found`` is the object as it was read, None if it is gone."""
    for _ in range(ATTEMPTS):
        if found is None:
            break
        # what the object owes, and what it alone refers to, is known for this very revision
        await deps.removals.begin([intent(deps, found)])
        if await deps.objects.collection.delete_one({"_id": object_id, "revision": found["revision"]}):
            break
        found = await deps.objects.collection.get(object_id)
    else:
        raise ServiceUnavailable("the object is being modified concurrently; try again", retry_after_seconds=1)
    await deps.documents.collection.delete_many({"object_id": object_id})
    await publish_deleted(deps, [object_id])


async def publish_deleted(deps: Container, object_ids: Sequence[str]) -> None:
    """Publishes that the objects are gone, and whatever they still owed; drops what was staged for them alone."""
    removals = await deps.removals.gone(object_ids, deps.clock.now())
    await discard(deps, [key for removal in removals for key in removal["staged"]])
    deps.removal_outbox.flush_soon([outbox_entry_of(removal) for removal in removals])
