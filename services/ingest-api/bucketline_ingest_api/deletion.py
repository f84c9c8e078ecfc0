"""Delete buckets, collections and namespaces with their contents, by durable tasks.

From the request on, the resource takes no writes. Replicas that have cached it may still write for some seconds, so
its task empties it again after that. A request that was suspended between its check of a bucket and its write may
write even later: a final sweep, long after the bucket is gone, removes that.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from bucketline.db.batch_dependencies import BatchDependencies
from bucketline.db.batching_windows import BatchingWindows
from bucketline.db.buckets import BucketDocument
from bucketline.db.collections import CollectionDocument
from bucketline.db.namespaces import NamespaceDocument
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.db.repository import D, NamedRepository
from bucketline.db.tasks import TaskDocument
from bucketline.errors import AlreadyExists, BadRequest, Forbidden, NotFound
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.deletion import delete_objects
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult
from bucketline_ingest_api.uploads.service import delete_bucket_uploads

log = get_logger(__name__)

BUCKET_DELETION = "api_buckets_delete"
COLLECTION_DELETION = "api_collections_documents_bulk_delete"
NAMESPACE_DELETION = "api_namespaces_delete"
FINAL_SWEEP = "bucket_final_sweep"
NAMESPACE_EXPIRY = "namespace_expiry"

PAGE_SIZE = 200
"""Objects are read whole and may hold content that has not been mirrored yet."""
DOCUMENTS_PAGE_SIZE = 5000
MAX_EXECUTION_TIME = timedelta(seconds=15)
MAX_RESPONSE_WAIT_SECONDS = 10.0
"""The response to the deletion of a collection waits this long for its task."""

MAX_WRITE_TIME = timedelta(seconds=3)
"""Practically every request writes within this time of its check of the bucket."""
FINAL_SWEEP_DELAY = timedelta(minutes=15)
LATE_DOCUMENTS = timedelta(seconds=30)
"""A processor that started before the deletion of its collection may write documents for this long.

One that takes longer checks the collection again after it has written, and removes its documents itself.
"""
MIN_EXPIRY_DELAY = timedelta(seconds=30)
"""Longer than it takes to store the namespace."""
MAX_EXPIRY_DELAY = timedelta(days=1)
"""Well below the age at which untouched tasks are removed."""


async def delete_bucket(container: Container, organization_id: str, bucket: BucketDocument) -> TaskDocument:
    """Start the deletion and return its task. Idempotent; a deletion that failed starts over."""
    if bucket.get("is_locked"):
        raise Forbidden("the bucket is locked", code="bucket_locked", details={"bucket_id": bucket["_id"]})
    return await _start(container, "bucket", container.buckets, bucket, organization_id, BUCKET_DELETION)


async def delete_collection(container: Container, organization_id: str, collection: CollectionDocument) -> TaskDocument:
    """Start the deletion and wait some seconds for it. Rejected while other collections read this one."""
    readers = await container.collections.readers(collection["_id"], limit=100)
    if readers:
        raise BadRequest(
            "other collections read this one: delete them first",
            code="collection_in_use",
            details={"collection_id": collection["_id"], "read_by": [reader["_id"] for reader in readers]},
        )
    repository = container.collections
    task = await _start(container, "collection", repository, collection, organization_id, COLLECTION_DELETION)
    await container.runner.wait(task["_id"], MAX_RESPONSE_WAIT_SECONDS)
    return task


async def delete_namespace(container: Container, namespace: NamespaceDocument, *, force: bool = False) -> TaskDocument:
    """Start the deletion and return its task. Idempotent; a deletion that failed starts over.

    Raises :class:`AlreadyExists` (409) while batches are running, unless ``force``.
    """
    if not force and not namespace.get("deleting"):
        running = await container.batches.active_of_namespace(namespace["_id"], limit=100)
        if running:
            raise AlreadyExists(
                "batches of the namespace are running: wait, cancel them, or pass ?force=true",
                code="namespace_busy",
                details={"namespace_id": namespace["_id"], "batch_ids": [batch["_id"] for batch in running]},
            )
    repository, organization_id = container.namespaces, namespace["organization_id"]
    return await _start(container, "namespace", repository, namespace, organization_id, NAMESPACE_DELETION)


async def _start(
    container: Container,
    kind: str,
    repository: NamedRepository[Any],
    resource: Mapping[str, Any],
    organization_id: str,
    task_type: str,
) -> TaskDocument:
    """Return the task that deletes the resource, after storing and starting it if there is none."""
    resource_id = resource["_id"]
    if (existing := await container.runner.restart(resource.get("delete_task"))) is not None:
        return existing
    namespace_id = resource.get("namespace_id", resource_id)
    task = await container.runner.create(
        task_type,
        organization_id=organization_id,
        namespace_id=namespace_id,
        inputs=[resource_id],
        data={"namespace_id": namespace_id, f"{kind}_id": resource_id, f"{kind}_name": resource["name"]},
        task_id=resource.get("delete_task"),
    )
    if await repository.mark_deleting(resource_id, task["_id"], container.clock.now()):
        container.forget_buckets()
        container.auth.forget()
        container.runner.enqueue(task["_id"])
        return task
    # A concurrent request was faster, and its task is the one that counts.
    await container.tasks.delete_by_id(task["_id"])
    current = await repository.get_by_id(resource_id)
    existing = await container.runner.restart(current.get("delete_task")) if current else None
    if existing is None:
        raise NotFound.of(kind, resource_id)
    return existing


async def _read_resource(container: Container, repository: NamedRepository[D], task: TaskDocument) -> D | None:
    """Return the resource that the task deletes, after marking it: the request may have died before it could."""
    resource = await repository.get_by_id(task["inputs"][0])
    if resource is not None:
        await repository.mark_deleting(task["inputs"][0], task["_id"], container.clock.now())
    return resource


def _add_removed(task: TaskDocument, name: str, removed: int) -> dict[str, object]:
    before = task["data"].get(name)
    return {name: removed + (before if isinstance(before, int) else 0)}


async def execute_bucket_deletion(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove as much of the bucket as fits in one execution."""
    bucket = await _read_resource(container, container.buckets, task)
    if bucket is None:
        return TaskResult(outputs=task["inputs"])
    started = container.clock.now()
    deadline = started + MAX_EXECUTION_TIME
    data = _add_removed(task, "objects_deleted", await empty_bucket(container, bucket["_id"], deadline))
    now = container.clock.now()
    settled_at = bucket.get("deleting_since", started) + cache_grace_period(container)
    if now >= deadline or now < settled_at:
        return Reschedule(now if now >= deadline else settled_at, data)
    await _delete_bucket_record(container, bucket, task["organization_id"])
    return TaskResult(outputs=task["inputs"], data=data)


async def execute_collection_deletion(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove as many documents as fit in one execution."""
    collection = await _read_resource(container, container.collections, task)
    if collection is None:
        return TaskResult(outputs=task["inputs"])
    started = container.clock.now()
    deadline = started + MAX_EXECUTION_TIME
    removed = await _delete_documents(container, {"collection_id": collection["_id"]}, deadline)
    data = _add_removed(task, "documents_deleted", removed)
    now = container.clock.now()
    settled_at = collection.get("deleting_since", started) + LATE_DOCUMENTS
    if now >= deadline or now < settled_at:
        return Reschedule(now if now >= deadline else settled_at, data)
    await container.collections.delete_by_id(collection["_id"])
    return TaskResult(outputs=task["inputs"], data=data)


async def execute_namespace_deletion(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove as much of the namespace as fits in one execution."""
    namespace = await _read_resource(container, container.namespaces, task)
    if namespace is None:
        return TaskResult(outputs=task["inputs"])
    started = container.clock.now()
    deadline = started + MAX_EXECUTION_TIME
    settled_at = namespace.get("deleting_since", started) + cache_grace_period(container)
    last_id = ""
    while container.clock.now() < deadline:
        bucket = await container.buckets.next_of_namespace(namespace["_id"], after=last_id)
        if bucket is None:
            break
        last_id = bucket["_id"]
        await container.buckets.mark_deleting(last_id, task["_id"], container.clock.now())
        await empty_bucket(container, last_id, deadline)
        if started >= settled_at and container.clock.now() < deadline:
            await _delete_bucket_record(container, bucket, namespace["organization_id"])
    await _delete_documents(container, {"namespace_id": namespace["_id"]}, deadline)
    if container.clock.now() >= deadline:
        return Reschedule(container.clock.now())
    await container.collections.delete_of_namespace(namespace["_id"])
    if started < settled_at:
        return Reschedule(settled_at)
    await container.namespaces.delete_by_id(namespace["_id"])
    container.auth.forget()
    return TaskResult(outputs=task["inputs"])


async def execute_final_sweep(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove what was written into a bucket that has been deleted."""
    bucket_id = task["inputs"][0]
    deadline = container.clock.now() + MAX_EXECUTION_TIME
    removed = await empty_bucket(container, bucket_id, deadline)
    if removed:
        log.warning("objects of deleted bucket removed", bucket_id=bucket_id, objects=removed)
    return Reschedule(container.clock.now()) if container.clock.now() >= deadline else TaskResult()


async def schedule_expiry(container: Container, namespace: NamespaceDocument) -> None:
    """Schedule the check whether the namespace has expired, if it expires at all.

    Call this before the namespace is stored: a superfluous check does no harm, and the check reads ``expires_at``
    from the namespace, where it may have changed.
    """
    expires_at = namespace.get("expires_at")
    if expires_at is None:
        return
    delay = max(MIN_EXPIRY_DELAY, min(MAX_EXPIRY_DELAY, expires_at - container.clock.now()))
    await container.runner.create(
        NAMESPACE_EXPIRY,
        organization_id=namespace["organization_id"],
        namespace_id=namespace["_id"],
        inputs=[namespace["_id"]],
        delay=delay.total_seconds(),
        hidden=True,
    )


async def execute_expiry(container: Container, task: TaskDocument) -> TaskOutcome:
    """Start the deletion of the namespace if it has expired, else check again later."""
    namespace = await container.namespaces.get_by_id(task["inputs"][0])
    expires_at = namespace.get("expires_at") if namespace else None
    if namespace is None or expires_at is None or namespace.get("deleting"):
        return TaskResult()
    now = container.clock.now()
    if expires_at > now:
        return Reschedule(min(expires_at, now + MAX_EXPIRY_DELAY))
    with suppress(NotFound):
        await delete_namespace(container, namespace, force=True)
    return TaskResult()


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
        await container.batch_outbox.publish([outbox_entry_of(batch) for batch in batches if batch.get("pending")])
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


def cache_grace_period(container: Container) -> timedelta:
    """Return how long replicas may still write into a bucket or namespace that they have cached."""
    return timedelta(seconds=container.settings.namespace_cache_seconds) + MAX_WRITE_TIME


async def _delete_documents(container: Container, where: Mapping[str, str], deadline: datetime) -> int:
    """Delete documents until none is left or the deadline passes; return how many were deleted."""
    removed = 0
    while container.clock.now() < deadline:
        deleted = await container.documents.delete_some(where, limit=DOCUMENTS_PAGE_SIZE)
        if not deleted:
            break
        removed += deleted
    return removed


async def _delete_bucket_record(container: Container, bucket: BucketDocument, organization_id: str) -> None:
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
