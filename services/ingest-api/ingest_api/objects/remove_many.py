"""Deleting many objects of a bucket that is going itself: what one deletion does, in as few round trips for all."""

from collections.abc import Sequence

from pymongo import DeleteOne

from bucketline.errors import NotFound
from bucketline.storage.buckets import BucketDocument
from bucketline.storage.objects import ObjectDocument
from bucketline.storage.pending import owing
from bucketline.telemetry.metrics import OBJECTS
from ingest_api.deps import Deps
from ingest_api.objects.content import discard
from ingest_api.objects.remove import intent, remove_object


async def remove_objects(deps: Deps, bucket: BucketDocument, objects: Sequence[ObjectDocument]) -> int:
    """Deletes the objects as they were read, with their documents; each deletion is told. Returns how many went.

    The intents are durable before the first object goes, so that a crash is made good as after a single deletion.
    One that was changed after it was read is deleted by itself.
    """
    await deps.removals.begin_many([intent(deps, obj) for obj in objects])
    deletions = [DeleteOne({"_id": obj["_id"], "revision": obj["revision"]}) for obj in objects]
    removed = (await deps.objects.collection.bulk(deletions)).deleted
    ids = [obj["_id"] for obj in objects]
    changed: set[str] = set()
    if removed < len(ids):
        left = await deps.objects.collection.find({"_id": {"$in": ids}}, limit=len(ids), fields=["_id"])
        changed = {obj["_id"] for obj in left}
    gone = [object_id for object_id in ids if object_id not in changed]
    await deps.documents.collection.delete_many({"object_id": {"$in": gone}})
    removals = await deps.removals.gone_many(gone, deps.clock.now())
    await discard(deps, [key for removal in removals for key in removal["staged"]])
    deps.removal_outbox.flush_soon([owing(removal) for removal in removals])
    OBJECTS.labels("deleted").inc(removed)
    for object_id in changed:
        try:
            await remove_object(deps, bucket, object_id)
        except NotFound:
            continue
        removed += 1
    return removed
