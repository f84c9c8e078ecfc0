"""Deleting many objects of a bucket that is going itself: what one deletion does, in as few round trips for all."""

from collections.abc import Sequence

from pymongo import DeleteOne

from bucketline.storage.objects import ObjectDocument
from bucketline.telemetry.metrics import OBJECTS
from ingest_api.deps import Deps
from ingest_api.objects.remove import finish_removal, intent, say_gone


async def remove_objects(deps: Deps, objects: Sequence[ObjectDocument]) -> int:
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
    await say_gone(deps, gone)
    OBJECTS.labels("deleted").inc(removed)
    for object_id, obj in changed.items():
        await finish_removal(deps, obj, object_id)
        OBJECTS.labels("deleted").inc()
    return removed + len(changed)
