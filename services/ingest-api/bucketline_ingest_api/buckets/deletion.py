"""Delete a bucket and everything in it, by a durable task.

From the request on the bucket takes no writes. Replicas that have cached it may still write for some seconds, so the
task empties the bucket again after that. A request that was suspended between its check of the bucket and its write
may write even later: a final sweep, long after the bucket is gone, removes that.
"""

from datetime import datetime, timedelta

from bucketline.db.batch_dependencies import BatchDependencies
from bucketline.db.batching_windows import BatchingWindows
from bucketline.db.buckets import BucketDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.db.tasks import TaskDocument
from bucketline.errors import Forbidden, NotFound
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.buckets.service import find_bucket
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.deletion import delete_objects
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult
from bucketline_ingest_api.uploads.service import delete_bucket_uploads

log = get_logger(__name__)

TASK_TYPE = "api_buckets_delete"
FINAL_SWEEP = "bucket_last_look"
MAX_WRITE_TIME = timedelta(seconds=3)
"""Practically every request writes within this time of its check of the bucket."""

FINAL_SWEEP_DELAY = timedelta(minutes=15)

PAGE_SIZE = 200
"""Objects are read whole and may hold content that has not been mirrored yet."""
MAX_EXECUTION_TIME = timedelta(seconds=15)


async def delete_bucket(
    container: Container, organization_id: str, namespace_id: str, identifier: str
) -> tuple[BucketDocument, TaskDocument]:
    """Start the deletion and return its task. Idempotent; a deletion that failed starts over."""
    bucket = await find_bucket(container, namespace_id, identifier)
    if bucket.get("is_locked"):
        raise Forbidden("the bucket is locked", code="bucket_locked", details={"bucket_id": bucket["_id"]})
    if (existing := await container.runner.restart(bucket.get("delete_task"))) is not None:
        return bucket, existing
    task = await container.runner.create(
        TASK_TYPE,
        organization_id=organization_id,
        namespace_id=namespace_id,
        inputs=[bucket["_id"]],
        data={"bucket_id": bucket["_id"], "bucket_name": bucket["name"], "namespace_id": namespace_id},
        task_id=bucket.get("delete_task"),
    )
    if not await container.buckets.mark_deleting(bucket["_id"], task["_id"], container.clock.now()):
        # A concurrent request was faster, and its task is the one that counts.
        await container.tasks.drop(task["_id"])
        bucket = await find_bucket(container, namespace_id, identifier)
        if (existing := await container.runner.restart(bucket.get("delete_task"))) is not None:
            return bucket, existing
        raise NotFound.of("bucket", identifier)
    container.forget_buckets()
    container.runner.enqueue(task["_id"])
    return bucket, task


async def execute_bucket_deletion(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove as much of the bucket as fits in one execution."""
    bucket_id = task["inputs"][0]
    bucket = await container.buckets.get_by_id(bucket_id)
    if bucket is None:
        return TaskResult(outputs=[bucket_id])
    # The request may have died between storing the task and marking the bucket.
    await container.buckets.mark_deleting(bucket_id, task["_id"], container.clock.now())
    deadline = container.clock.now() + MAX_EXECUTION_TIME
    removed = await empty_bucket(container, bucket_id, deadline)
    removed_before = task["data"].get("objects_deleted")
    data = {"objects_deleted": removed + (removed_before if isinstance(removed_before, int) else 0)}
    settled_at = bucket.get("deleting_since", container.clock.now()) + cache_grace_period(container)
    if container.clock.now() >= deadline:
        return Reschedule(container.clock.now(), data)
    if container.clock.now() < settled_at:
        return Reschedule(settled_at, data)
    await delete_bucket_record(container, bucket, task["organization_id"])
    return TaskResult(outputs=[bucket_id], data=data)


def cache_grace_period(container: Container) -> timedelta:
    """Return how long replicas may still write into a bucket or namespace that they have cached."""
    return timedelta(seconds=container.settings.namespace_cache_seconds) + MAX_WRITE_TIME


async def delete_bucket_record(container: Container, bucket: BucketDocument, organization_id: str) -> None:
    """Delete the empty bucket and schedule a final sweep for objects that were written concurrently."""
    await container.runner.create(
        FINAL_SWEEP,
        organization_id=organization_id,
        namespace_id=bucket["namespace_id"],
        inputs=[bucket["_id"]],
        delay=FINAL_SWEEP_DELAY.total_seconds(),
        hidden=True,
    )
    await container.buckets.delete_by_id(bucket["_id"])
    container.forget_buckets()


async def execute_final_sweep(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove what was written into a bucket that has been deleted."""
    bucket_id = task["inputs"][0]
    deadline = container.clock.now() + MAX_EXECUTION_TIME
    removed = await empty_bucket(container, bucket_id, deadline)
    if removed:
        log.warning("objects of deleted bucket removed", bucket_id=bucket_id, objects=removed)
    return Reschedule(container.clock.now()) if container.clock.now() >= deadline else TaskResult()


async def empty_bucket(container: Container, bucket_id: str, deadline: datetime) -> int:
    """Remove the contents of the bucket until nothing is left or the deadline passes.

    Return how many objects were removed. Each is removed as by a single delete: event, documents, unique key, blob
    references.
    """
    removed = 0
    while container.clock.now() < deadline:
        objects = await container.objects.page_of_bucket(bucket_id, limit=PAGE_SIZE)
        if not objects:
            break
        removed += await delete_objects(container, objects)
    while container.clock.now() < deadline:
        batches = await container.batches.page_of_bucket(bucket_id, limit=PAGE_SIZE, fields=["pending"])
        if not batches:
            break
        await container.batch_outbox.flush([outbox_entry_of(batch) for batch in batches if batch.get("pending")])
        ids = [batch["_id"] for batch in batches]
        await container.units.delete_of_batches(ids)
        await BatchDependencies(container.database).delete_of_batches(ids)
        await container.batches.delete_by_ids(ids)
    while container.clock.now() < deadline:
        uploads = await container.uploads.page_of_bucket(bucket_id, limit=PAGE_SIZE)
        if not uploads:
            break
        await delete_bucket_uploads(container, uploads)
    await container.objects.purge_soft_deleted(bucket_id)
    await BatchingWindows(container.database).delete_of_bucket(bucket_id)
    return removed
