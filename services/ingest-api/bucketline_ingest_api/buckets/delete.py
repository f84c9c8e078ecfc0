"""Deleting a bucket with everything in it, by a task that finishes whatever happens to the process.

From the request on the bucket takes no writes. Replicas that remember it as it was may still write for some seconds,
so the task looks a second time after that. What is written later still (a request that hung for minutes between its
look at the bucket and its write) is found by a last look, long after the bucket is gone.
"""

from datetime import datetime, timedelta

from bucketline.db.buckets import BucketDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.db.tasks import TaskDocument
from bucketline.errors import Forbidden, NotFound
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.buckets.lookup import any_bucket
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.deletion import delete_objects
from bucketline_ingest_api.tasks.runner import Reschedule, TaskExecution, TaskResult
from bucketline_ingest_api.uploads.delete import forget_uploads

log = get_logger(__name__)

KIND = "api_buckets_delete"
FINAL_SWEEP = "bucket_last_look"
WRITES_TAKE = timedelta(seconds=3)
"""As good as every request writes within this time of its look at the bucket."""

LAST_LOOK_AFTER = timedelta(minutes=15)

PAGE = 200
"""Objects are read whole, and may hold content that is not mirrored yet."""
TURN = timedelta(seconds=15)


async def delete_bucket(
    deps: Container, organization_id: str, namespace_id: str, identifier: str
) -> tuple[BucketDocument, TaskDocument]:
    """Begins the deletion; asked again, it is the same task, and one that failed begins anew."""
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
        task_id=bucket.get("delete_task"),
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


async def bucket_deletion_turn(deps: Container, task: TaskDocument) -> TaskExecution:
    """One turn of the task: as much as can be removed in a while."""
    bucket_id = task["inputs"][0]
    bucket = await deps.buckets.collection.get(bucket_id)
    if bucket is None:
        return TaskResult(outputs=[bucket_id])
    # the request may have died between the task and the mark
    await deps.buckets.mark_deleting(bucket_id, task["_id"], deps.clock.now())
    until = deps.clock.now() + TURN
    removed = await empty_bucket(deps, bucket_id, until)
    counted = task["data"].get("objects_deleted")
    data = {"objects_deleted": removed + (counted if isinstance(counted, int) else 0)}
    settled = bucket.get("deleting_since", deps.clock.now()) + cache_grace_period(deps)
    if deps.clock.now() >= until:
        return Reschedule(deps.clock.now(), data)
    if deps.clock.now() < settled:
        return Reschedule(settled, data)
    await delete_bucket_record(deps, bucket, task["organization_id"])
    return TaskResult(outputs=[bucket_id], data=data)


def cache_grace_period(deps: Container) -> timedelta:
    """Longer than any replica remembers a bucket or a namespace as it was, and than what began then takes to write."""
    return timedelta(seconds=deps.settings.namespace_cache_seconds) + WRITES_TAKE


async def delete_bucket_record(deps: Container, bucket: BucketDocument, organization_id: str) -> None:
    """Deletes the empty bucket itself, and sees to a last look at what may be written into it after that."""
    await deps.runner.create(
        FINAL_SWEEP,
        organization_id=organization_id,
        namespace_id=bucket["namespace_id"],
        inputs=[bucket["_id"]],
        delay=LAST_LOOK_AFTER.total_seconds(),
        hidden=True,
    )
    await deps.buckets.collection.delete_one({"_id": bucket["_id"]})
    deps.forget_buckets()


async def final_sweep(deps: Container, task: TaskDocument) -> TaskExecution:
    """Removes what was written into a bucket that is gone."""
    bucket_id = task["inputs"][0]
    until = deps.clock.now() + TURN
    removed = await empty_bucket(deps, bucket_id, until)
    if removed:
        log.warning("a bucket that is gone had objects", bucket_id=bucket_id, objects=removed)
    return Reschedule(deps.clock.now()) if deps.clock.now() >= until else TaskResult()


async def empty_bucket(deps: Container, bucket_id: str, until: datetime) -> int:
    """Removes what is in the bucket, one kind after the other, until nothing is left or the time is over.

    Returns how many objects went, each as if it had been deleted by itself: event, documents, key, claims on blobs.
    """
    own = {"bucket_id": bucket_id}
    removed = 0
    while deps.clock.now() < until:
        page = await deps.objects.collection.find(own, limit=PAGE)
        if not page:
            break
        removed += await delete_objects(deps, page)
    while deps.clock.now() < until:
        batches = await deps.batches.collection.find(own, limit=PAGE, fields=["pending"])
        if not batches:
            break
        await deps.batch_outbox.flush([outbox_entry_of(batch) for batch in batches if batch.get("pending")])
        ids = {"$in": [batch["_id"] for batch in batches]}
        await deps.units.collection.delete_many({"batch_id": ids})
        await deps.database.collection("waiting").delete_many({"batch_id": ids})
        await deps.batches.collection.delete_many({"_id": ids})
    while deps.clock.now() < until:
        uploads = await deps.uploads.collection.find(own, limit=PAGE, fields=["key", "expires_at"])
        if not uploads:
            break
        await forget_uploads(deps, uploads)
    await deps.objects.soft_deleted.delete_many(own)
    await deps.database.collection("windows").delete_many(own)
    return removed


async def _task_of(deps: Container, bucket: BucketDocument) -> TaskDocument | None:
    task_id = bucket.get("delete_task")
    return None if task_id is None else await deps.runner.resume(task_id)
