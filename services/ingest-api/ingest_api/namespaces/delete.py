"""Deleting a namespace with everything in it, by a task that finishes whatever happens to the process."""

from datetime import timedelta

from bucketline.domain.status import BATCH_ACTIVE
from bucketline.errors import AlreadyExists, NotFound
from bucketline.storage.namespaces import NamespaceDocument
from bucketline.storage.tasks import TaskDocument
from ingest_api.buckets.delete import SETTLED_AFTER, TURN, empty_bucket
from ingest_api.deps import Deps
from ingest_api.keys import Caller
from ingest_api.namespaces.read import any_namespace
from ingest_api.tasks.runner import Finished, Later, Turn

KIND = "api_namespaces_delete"
PAGE = 5000


async def delete_namespace(
    deps: Deps, caller: Caller, identifier: str, *, force: bool
) -> tuple[NamespaceDocument, TaskDocument]:
    """Begins the deletion; asked again, it is the same task. 409 while batches run, unless ``force``."""
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


async def begin_deletion(deps: Deps, namespace: NamespaceDocument) -> TaskDocument | None:
    """The task that deletes the namespace from now on; None when another has it, or it is gone."""
    task = await deps.runner.create(
        KIND,
        organization_id=namespace["organization_id"],
        namespace_id=namespace["_id"],
        inputs=[namespace["_id"]],
        data={"namespace_id": namespace["_id"], "namespace_name": namespace["name"]},
    )
    if not await deps.namespaces.mark_deleting(namespace["_id"], task["_id"], deps.clock.now()):
        await deps.tasks.drop(task["_id"])
        return None
    deps.auth.forget()
    deps.runner.soon(task["_id"])
    return task


async def namespace_deletion_turn(deps: Deps, task: TaskDocument) -> Turn:
    """One turn of the task: as much as can be removed in a while."""
    namespace_id = task["inputs"][0]
    namespace = await deps.namespaces.collection.get(namespace_id)
    if namespace is None:
        return Finished(outputs=[namespace_id])
    now = deps.clock.now()
    await deps.namespaces.mark_deleting(namespace_id, task["_id"], now)
    until = now + TURN
    own = {"namespace_id": namespace_id}
    while deps.clock.now() < until:
        bucket = await deps.buckets.collection.find_one(own)
        if bucket is None:
            break
        await deps.buckets.mark_deleting(bucket["_id"], task["_id"], now)
        await empty_bucket(deps, bucket, until)
        if deps.clock.now() < until:
            await deps.buckets.collection.delete_one({"_id": bucket["_id"]})
    deps.forget_buckets()
    while deps.clock.now() < until:
        page = await deps.documents.collection.find(own, limit=PAGE, fields=["_id"])
        if not page:
            break
        await deps.documents.collection.delete_many({"_id": {"$in": [document["_id"] for document in page]}})
    settled = namespace.get("deleting_since", now) + SETTLED_AFTER
    if deps.clock.now() >= until:
        return Later(deps.clock.now())
    await deps.collections.collection.delete_many(own)
    if deps.clock.now() < settled:
        return Later(settled + timedelta(milliseconds=1))
    await deps.namespaces.collection.delete_one({"_id": namespace_id})
    deps.auth.forget()
    return Finished(outputs=[namespace_id])


async def _refuse_running(deps: Deps, namespace: NamespaceDocument) -> None:
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


async def _task_of(deps: Deps, namespace: NamespaceDocument) -> TaskDocument | None:
    if not namespace.get("deleting"):
        return None
    return await deps.tasks.get(namespace.get("delete_task", ""))
