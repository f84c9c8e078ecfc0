"""Endpoints of ``/v1/tasks``. No namespace is needed: a key sees the tasks of every namespace that it may access."""

from fastapi import APIRouter

from bucketline_ingest_api.dependencies import ContainerDep, DeletePrincipal, NamespaceHeader, ReadPrincipal
from bucketline_ingest_api.schemas import Deleted, Paging, errors
from bucketline_ingest_api.tasks import service
from bucketline_ingest_api.tasks.schemas import ListTasks, Task, TaskList

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.post("/list", summary="List tasks, newest first", responses=errors(400))
async def list_tasks(
    deps: ContainerDep,
    caller: ReadPrincipal,
    list_query: Paging,
    body: ListTasks | None = None,
    namespace: NamespaceHeader = None,
) -> TaskList:
    """List the tasks of one namespace, or of all that the key may access."""
    namespace_id = (await deps.auth.namespace(caller, namespace))["_id"] if namespace else None
    return await service.find_tasks(deps, caller, list_query, body, namespace_id=namespace_id)


@router.get("/{task_id}", summary="Get a task", responses=errors())
async def get_task(deps: ContainerDep, caller: ReadPrincipal, task_id: str) -> Task:
    """Show the progress of the work, also for the task of a submitted batch."""
    return service.serialize_task(await service.find_task(deps, caller, task_id))


@router.delete("/{task_id}", summary="Delete the record of a task; its work goes on", responses=errors())
async def delete_task(deps: ContainerDep, caller: DeletePrincipal, task_id: str) -> Deleted:
    """Remove the record only; to stop a batch, cancel the batch. Idempotent."""
    await service.remove_task(deps, caller, task_id)
    return Deleted(message="task deleted")
