"""Delete a namespace and everything in it, on request or when it expires, by durable tasks."""

from datetime import datetime, timedelta

from bucketline.db.namespaces import NamespaceDocument
from bucketline.db.tasks import TaskDocument
from bucketline.errors import AlreadyExists, NotFound
from bucketline_ingest_api.buckets.deletion import (
    MAX_EXECUTION_TIME,
    cache_grace_period,
    delete_bucket_record,
    empty_bucket,
)
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult

TASK_TYPE = "api_namespaces_delete"
EXPIRY_TASK_TYPE = "namespace_expiry"
PAGE_SIZE = 5000

MIN_EXPIRY_DELAY = timedelta(seconds=30)
"""Longer than it takes to store the namespace."""
MAX_EXPIRY_DELAY = timedelta(days=1)
"""Well below the age at which untouched tasks are removed."""


async def delete_namespace(
    container: Container, namespace: NamespaceDocument, *, force: bool
) -> tuple[NamespaceDocument, TaskDocument]:
    """Start the deletion and return its task. Idempotent; a deletion that failed starts over.

    Raises :class:`AlreadyExists` (409) while batches are running, unless ``force``.
    """
    if (existing := await container.runner.restart(namespace.get("delete_task"))) is not None:
        return namespace, existing
    if not force:
        await _refuse_running_batches(container, namespace)
    if (task := await _start_deletion(container, namespace)) is not None:
        return namespace, task
    # A concurrent request was faster, and its task is the one that counts.
    current = await container.namespaces.get_by_id(namespace["_id"])
    existing = await container.runner.restart(current.get("delete_task")) if current is not None else None
    if current is None or existing is None:
        raise NotFound.of("namespace", namespace["_id"])
    return current, existing


async def execute_namespace_deletion(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove as much of the namespace as fits in one execution."""
    namespace_id = task["inputs"][0]
    namespace = await container.namespaces.get_by_id(namespace_id)
    if namespace is None:
        return TaskResult(outputs=[namespace_id])
    now = container.clock.now()
    await container.namespaces.mark_deleting(namespace_id, task["_id"], now)
    deadline = now + MAX_EXECUTION_TIME
    settled_at = namespace.get("deleting_since", now) + cache_grace_period(container)
    await _empty_buckets(container, namespace, task["_id"], deadline, delete_records=now >= settled_at)
    while container.clock.now() < deadline:
        if not await container.documents.delete_some({"namespace_id": namespace_id}, limit=PAGE_SIZE):
            break
    if container.clock.now() >= deadline:
        return Reschedule(container.clock.now())
    await container.collections.delete_of_namespace(namespace_id)
    if now < settled_at:
        return Reschedule(settled_at)
    await container.namespaces.delete_by_id(namespace_id)
    container.auth.forget()
    return TaskResult(outputs=[namespace_id])


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
        EXPIRY_TASK_TYPE,
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
    await _start_deletion(container, namespace)
    return TaskResult()


async def _start_deletion(container: Container, namespace: NamespaceDocument) -> TaskDocument | None:
    """Return the task that deletes the namespace; None when another task does, or the namespace is gone."""
    task = await container.runner.create(
        TASK_TYPE,
        organization_id=namespace["organization_id"],
        namespace_id=namespace["_id"],
        inputs=[namespace["_id"]],
        data={"namespace_id": namespace["_id"], "namespace_name": namespace["name"]},
        task_id=namespace.get("delete_task"),
    )
    if not await container.namespaces.mark_deleting(namespace["_id"], task["_id"], container.clock.now()):
        await container.tasks.drop(task["_id"])
        return None
    container.auth.forget()
    container.runner.enqueue(task["_id"])
    return task


async def _empty_buckets(
    container: Container, namespace: NamespaceDocument, task_id: str, deadline: datetime, *, delete_records: bool
) -> None:
    """Remove the contents of the buckets. The buckets themselves stay while replicas may still write into them."""
    last_id = ""
    while container.clock.now() < deadline:
        bucket = await container.buckets.next_of_namespace(namespace["_id"], after=last_id)
        if bucket is None:
            return
        last_id = bucket["_id"]
        await container.buckets.mark_deleting(last_id, task_id, container.clock.now())
        await empty_bucket(container, last_id, deadline)
        if delete_records and container.clock.now() < deadline:
            await delete_bucket_record(container, bucket, namespace["organization_id"])


async def _refuse_running_batches(container: Container, namespace: NamespaceDocument) -> None:
    running = await container.batches.active_of_namespace(namespace["_id"], limit=100)
    if running:
        raise AlreadyExists(
            "batches of the namespace are running: wait, cancel them, or pass ?force=true",
            code="namespace_busy",
            details={"namespace_id": namespace["_id"], "batch_ids": [batch["_id"] for batch in running]},
        )
