"""``/v1/tasks``: no namespace is needed; a key sees what it may see."""

from fastapi import APIRouter

from bucketline_ingest_api.dependencies import ContainerDep, DeletePrincipal, NamespaceHeader, ReadPrincipal
from bucketline_ingest_api.schemas import Deleted, Paging, errors
from bucketline_ingest_api.tasks.listing import list_tasks
from bucketline_ingest_api.tasks.lookup import delete_task, get_task
from bucketline_ingest_api.tasks.schemas import ListTasks, Task, TaskList
from bucketline_ingest_api.tasks.serializers import serialize_task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.post("/list", summary="List tasks, newest first", responses=errors(400))
async def listing(
    deps: ContainerDep,
    caller: ReadPrincipal,
    asked: Paging,
    body: ListTasks | None = None,
    namespace: NamespaceHeader = None,
) -> TaskList:
    scope = await deps.auth.namespace(caller, namespace) if namespace else None
    rows, pagination = await list_tasks(deps, caller, asked, body, namespace_id=scope["_id"] if scope else None)
    return TaskList(results=[serialize_task(row) for row in rows], pagination=pagination)


@router.get("/{task_id}", summary="Get a task", responses=errors())
async def get(deps: ContainerDep, caller: ReadPrincipal, task_id: str) -> Task:
    return serialize_task(await get_task(deps, caller, task_id))


@router.delete("/{task_id}", summary="Delete the record of a task; its work goes on", responses=errors())
async def delete(deps: ContainerDep, caller: DeletePrincipal, task_id: str) -> Deleted:
    await delete_task(deps, caller, task_id)
    return Deleted(message="task deleted")
