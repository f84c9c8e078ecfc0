"""Deleting a namespace with everything in it, by a task that finishes whatever happens to the process."""

from datetime import datetime

from bucketline.db.namespaces import NamespaceDocument
from bucketline.db.tasks import TaskDocument
from bucketline.domain.status import BATCH_ACTIVE
from bucketline.errors import AlreadyExists, NotFound
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.buckets.delete import TURN, cache_grace_period, delete_bucket_record, empty_bucket
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.namespaces.read import any_namespace
from bucketline_ingest_api.tasks.runner import Reschedule, TaskExecution, TaskResult

KIND = "api_namespaces_delete"
PAGE = 5000


async def delete_namespace(
    deps: Container, caller: Principal, identifier: str, *, force: bool
) -> tuple[NamespaceDocument, TaskDocument]:
    """Begins the deletion; asked again, it is the same task, and one that failed begins anew.

    409 while batches run, unless ``force``.
    """
    namespace = await any_namespace(deps, caller, identifier)
    if (known := await _task_of(deps, namespace)) is not None:
        return namespace, known
    if not force:
        await _refuse_running(deps, namespace)
    task = await begin_deletion(deps, namespace)
    if task is not None:
        return namespace, task
    # somebody else was faster: their task is the one that counts
    namespace = await any_namespace(deps, caller, identifier)
    if (known := await _task_of(deps, namespace)) is not None:
        return namespace, known
    raise NotFound.of("namespace", identifier)


async def begin_deletion(deps: Container, namespace: NamespaceDocument) -> TaskDocument | None:
    """The task that deletes the namespace from now on; None when another has it, or it is gone."""
    task = await deps.runner.create(
        KIND,
        organization_id=namespace["organization_id"],
        namespace_id=namespace["_id"],
        inputs=[namespace["_id"]],
        data={"namespace_id": namespace["_id"], "namespace_name": namespace["name"]},
        task_id=namespace.get("delete_task"),
    )
    if not await deps.namespaces.mark_deleting(namespace["_id"], task["_id"], deps.clock.now()):
        await deps.tasks.drop(task["_id"])
        return None
    deps.auth.forget()
    deps.runner.soon(task["_id"])
    return task


async def namespace_deletion_turn(deps: Container, task: TaskDocument) -> TaskExecution:
    """One turn of the task: as much as can be removed in a while."""
    namespace_id = task["inputs"][0]
    namespace = await deps.namespaces.collection.get(namespace_id)
    if namespace is None:
        return TaskResult(outputs=[namespace_id])
    now = deps.clock.now()
    await deps.namespaces.mark_deleting(namespace_id, task["_id"], now)
    until = now + TURN
    settled = namespace.get("deleting_since", now) + cache_grace_period(deps)
    own = {"namespace_id": namespace_id}
    await _empty_buckets(deps, namespace, task["_id"], until, forget=now >= settled)
    while deps.clock.now() < until:
        page = await deps.documents.collection.find(own, limit=PAGE, fields=["_id"])
        if not page:
            break
        await deps.documents.collection.delete_many({"_id": {"$in": [document["_id"] for document in page]}})
    if deps.clock.now() >= until:
        return Reschedule(deps.clock.now())
    await deps.collections.collection.delete_many(own)
    if now < settled:
        return Reschedule(settled)
    await deps.namespaces.collection.delete_one({"_id": namespace_id})
    deps.auth.forget()
    return TaskResult(outputs=[namespace_id])


async def _empty_buckets(
    deps: Container, namespace: NamespaceDocument, task_id: str, until: datetime, *, forget: bool
) -> None:
    """Removes what is in the buckets. They themselves stay until nobody can be writing into them any more."""
    after = ""
    while deps.clock.now() < until:
        where = {"namespace_id": namespace["_id"], "_id": {"$gt": after}}
        bucket = await deps.buckets.collection.find_one(where, sort=[("_id", 1)])
        if bucket is None:
            return
        after = bucket["_id"]
        await deps.buckets.mark_deleting(after, task_id, deps.clock.now())
        await empty_bucket(deps, after, until)
        if forget and deps.clock.now() < until:
            await delete_bucket_record(deps, bucket, namespace["organization_id"])


async def _refuse_running(deps: Container, namespace: NamespaceDocument) -> None:
    running = await deps.batches.collection.find(
        {"status": {"$in": [str(status) for status in BATCH_ACTIVE]}, "namespace_id": namespace["_id"]},
        limit=100,
        fields=["_id"],
        hint="active",
    )
    if running:
        raise AlreadyExists(
            "batches of the namespace are running: wait, cancel them, or pass ?force=true",
            code="namespace_busy",
            details={"namespace_id": namespace["_id"], "batch_ids": [batch["_id"] for batch in running]},
        )


async def _task_of(deps: Container, namespace: NamespaceDocument) -> TaskDocument | None:
    task_id = namespace.get("delete_task")
    return None if task_id is None else await deps.runner.resume(task_id)
