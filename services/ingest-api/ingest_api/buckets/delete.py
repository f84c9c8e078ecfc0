"""Deleting a bucket with everything in it, by a task that finishes whatever happens to the process.

From the request on the bucket takes no writes. Replicas that remember it as it was may still write for some seconds,
so the task looks a second time after that.
"""

from datetime import datetime, timedelta

from bucketline.errors import Forbidden, NotFound
from bucketline.storage.buckets import BucketDocument
from bucketline.storage.tasks import TaskDocument
from ingest_api.buckets.resolve import any_bucket
from ingest_api.deps import Deps
from ingest_api.objects.remove_many import remove_objects
from ingest_api.tasks.runner import Finished, Later, Turn

KIND = "api_buckets_delete"
SETTLED_AFTER = timedelta(seconds=5)
"""Longer than any replica remembers a bucket, and than a request that began before takes to write."""

PAGE = 200
"""Objects are read whole, and may hold content that is not mirrored yet."""
TURN = timedelta(seconds=15)


async def delete_bucket(
    deps: Deps, organization_id: str, namespace_id: str, identifier: str
) -> tuple[BucketDocument, TaskDocument]:
    """Begins the deletion; asked again, it is the same task."""
    bucket = await any_bucket(deps, namespace_id, identifier)
    if bucket.get("is_locked"):
        raise Forbidden("the bucket is locked", code="bucket_locked", details={"bucket_id": bucket["_id"]})
    if (known := await _task_of(deps, bucket)) is not None:
        return bucket, known
    task = await deps.runner.create(
        KIND,
        organization_id=organization_id,
        namespace_id=namespace_id,
        inputs=[bucket["_id"]],
        data={"bucket_id": bucket["_id"], "bucket_name": bucket["name"], "namespace_id": namespace_id},
    )
    if not await deps.buckets.mark_deleting(bucket["_id"], task["_id"], deps.clock.now()):
        # somebody else was faster: their task is the one that counts
        await deps.tasks.drop(task["_id"])
        bucket = await any_bucket(deps, namespace_id, identifier)
        if (known := await _task_of(deps, bucket)) is not None:
            return bucket, known
        raise NotFound.of("bucket", identifier)
    deps.forget_buckets()
    deps.runner.soon(task["_id"])
    return bucket, task


async def bucket_deletion_turn(deps: Deps, task: TaskDocument) -> Turn:
    """One turn of the task: as much as can be removed in a while."""
    bucket_id = task["inputs"][0]
    bucket = await deps.buckets.collection.get(bucket_id)
    if bucket is None:
        return Finished(outputs=[bucket_id])
    # the request may have died between the task and the mark
    await deps.buckets.mark_deleting(bucket_id, task["_id"], deps.clock.now())
    until = deps.clock.now() + TURN
    removed = await empty_bucket(deps, bucket, until)
    counted = task["data"].get("objects_deleted")
    data = {"objects_deleted": removed + (counted if isinstance(counted, int) else 0)}
    settled = bucket.get("deleting_since", deps.clock.now()) + SETTLED_AFTER
    if deps.clock.now() >= until:
        return Later(deps.clock.now(), data)
    if deps.clock.now() < settled:
        return Later(settled, data)
    await deps.buckets.collection.delete_one({"_id": bucket_id})
    deps.forget_buckets()
    return Finished(outputs=[bucket_id], data=data)


async def empty_bucket(deps: Deps, bucket: BucketDocument, until: datetime) -> int:
    """Removes what is in the bucket, one kind after the other, until nothing is left or the time is over.

    Returns how many objects went, each as if it had been deleted by itself: event, documents, key, claims on blobs.
    """
    own = {"bucket_id": bucket["_id"]}
    unlocked: BucketDocument = {**bucket, "is_locked": False, "deleting": False}
    removed = 0
    while deps.clock.now() < until:
        page = await deps.objects.collection.find(own, limit=PAGE)
        if not page:
            break
        removed += await remove_objects(deps, unlocked, page)
    while deps.clock.now() < until:
        batches = await deps.batches.collection.find(own, limit=PAGE, fields=["_id"])
        if not batches:
            break
        ids = {"$in": [batch["_id"] for batch in batches]}
        await deps.units.collection.delete_many({"batch_id": ids})
        await deps.database.collection("waiting").delete_many({"batch_id": ids})
        await deps.batches.collection.delete_many({"_id": ids})
    while deps.clock.now() < until:
        uploads = await deps.uploads.collection.find(own, limit=PAGE, fields=["key"])
        if not uploads:
            break
        await deps.blobstore.delete([upload["key"] for upload in uploads])
        await deps.uploads.collection.delete_many({"_id": {"$in": [upload["_id"] for upload in uploads]}})
    await deps.database.collection("windows").delete_many(own)
    return removed


async def _task_of(deps: Deps, bucket: BucketDocument) -> TaskDocument | None:
    if not bucket.get("deleting"):
        return None
    return await deps.tasks.get(bucket.get("delete_task", ""))
