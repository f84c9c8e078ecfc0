"""Which tasks a caller may see: those of its organisation, within the namespaces that its key is restricted to."""

from bucketline.db.batches import BatchDocument
from bucketline.db.tasks import TaskDocument
from bucketline.domain.status import Status
from bucketline.errors import NotFound
from bucketline_ingest_api.auth import Principal, can_access
from bucketline_ingest_api.container import Container


async def find_task(deps: Container, caller: Principal, task_id: str) -> TaskDocument | BatchDocument | None:
    """The task, or the batch whose task it is; None for one that does not exist for this caller.

    A batch has no task before it is submitted.
    """
    task = await deps.tasks.get(task_id)
    if task is not None:
        own = task["organization_id"] == caller.organization_id and not task.get("hidden")
        return task if own and (not caller.namespaces or task["namespace_id"] in caller.namespaces) else None
    batch = await deps.batches.collection.find_one({"task_id": task_id})
    if batch is None or batch.get("task_hidden") or batch["status"] == str(Status.DRAFT):
        return None
    namespace = await deps.namespaces.collection.get(batch["namespace_id"])
    return batch if namespace is not None and can_access(caller, namespace) else None


async def get_task(deps: Container, caller: Principal, task_id: str) -> TaskDocument | BatchDocument:
    """The same, or :class:`NotFound`."""
    found = await find_task(deps, caller, task_id)
    if found is None:
        raise NotFound.of("task", task_id)
    return found


async def delete_task(deps: Container, caller: Principal, task_id: str) -> None:
    """Takes the task out of sight. What it does, or the batch, is not stopped. Idempotent."""
    found = await find_task(deps, caller, task_id)
    if found is None:
        return
    if "task_id" in found:
        await deps.batches.collection.update_one({"_id": found["_id"]}, {"$set": {"task_hidden": True}})
    else:
        await deps.tasks.remove(found["_id"])
