"""Deleting an object with all that hangs on it: its documents, staged content, and the events that it still owed.

The intent comes first and is durable, the event comes last; a crash anywhere in between is finished by a sweeper.
What submitted batches wait for is left to the batcher, which counts it. Content that nobody refers to any more is
collected by dedup.
"""

from datetime import timedelta
from typing import cast

from bucketline.errors import NotFound, ServiceUnavailable
from bucketline.events.catalog import ObjectDeleted
from bucketline.storage.buckets import BucketDocument
from bucketline.storage.objects import ObjectDocument
from bucketline.storage.pending import PendingDocument, owing
from bucketline.storage.removals import RemovalDocument
from bucketline.telemetry.metrics import OBJECTS, SWEPT
from ingest_api.deps import Deps
from ingest_api.objects.content import discard, staged_keys
from ingest_api.objects.draft import writable

ATTEMPTS = 10


async def remove_object(deps: Deps, bucket: BucketDocument, object_id: str) -> None:
    """Afterwards the object is gone and its unique key free. :class:`NotFound` if there is no such object here."""
    writable(bucket)
    found = await deps.objects.get(bucket["_id"], object_id)
    if found is None:
        raise NotFound.of("object", object_id)
    await deps.removals.begin(intent(deps, found))
    await _finish(deps, found, object_id)
    OBJECTS.labels("deleted").inc()


def intent(deps: Deps, obj: ObjectDocument) -> RemovalDocument:
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
        "created_at": now,
        "carried": obj.get("pending", []),
        "staged": staged_keys(obj),
        "event": cast("PendingDocument", event.to_document()),
    }


async def sweep_removals(deps: Deps) -> int:
    """Finishes what was begun and then left; returns how many."""
    before = deps.clock.now() - timedelta(seconds=deps.sweep.stalled_after)
    unfinished = await deps.removals.unfinished(before, limit=deps.sweep.limit)
    for removal in unfinished:
        found = await deps.objects.get(removal["bucket_id"], removal["_id"])
        await _finish(deps, found, removal["_id"])
    SWEPT.labels("removal").inc(len(unfinished))
    return len(unfinished)


async def _finish(deps: Deps, found: ObjectDocument | None, object_id: str) -> None:
    """``found`` is the object as it was read, None if it is gone."""
    for _ in range(ATTEMPTS):
        if found is None:
            break
        # what the object owes, and what it alone refers to, is known for this very revision
        if await deps.objects.collection.delete_one({"_id": object_id, "revision": found["revision"]}):
            break
        found = await deps.objects.collection.get(object_id)
        if found is not None:
            await deps.removals.carry(object_id, found.get("pending", []), staged_keys(found))
    else:
        raise ServiceUnavailable("others change this object all the time", retry_after_seconds=1)
    await deps.documents.collection.delete_many({"object_id": object_id})
    removal = await deps.removals.gone(object_id, deps.clock.now())
    if removal is not None:
        await discard(deps, removal["staged"])
        deps.removal_outbox.flush_soon([owing(removal)])
