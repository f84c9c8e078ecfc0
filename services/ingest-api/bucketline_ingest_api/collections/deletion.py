"""Delete a collection with its documents, by a durable task that usually ends before the response is sent."""

from datetime import timedelta

from bucketline.db.collections import CollectionDocument
from bucketline.db.tasks import TaskDocument
from bucketline.errors import BadRequest, NotFound
from bucketline_ingest_api.collections.service import find_collection
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult

TASK_TYPE = "api_collections_documents_bulk_delete"
PAGE_SIZE = 5000
MAX_EXECUTION_TIME = timedelta(seconds=15)
MAX_RESPONSE_WAIT_SECONDS = 10.0

LATE_WRITES = timedelta(seconds=30)
"""A processor that started before the deletion may write documents for this long; they are removed too.

One that takes longer checks the collection again after it has written, and removes its documents itself.
"""


async def delete_collection(
    container: Container, organization_id: str, namespace_id: str, identifier: str
) -> tuple[CollectionDocument, TaskDocument]:
    """Start the deletion and wait some seconds for it. Rejected while other collections read this one."""
    collection = await find_collection(container, namespace_id, identifier)
    readers = await container.collections.readers(collection["_id"], limit=100)
    if readers:
        raise BadRequest(
            "other collections read this one: delete them first",
            code="collection_in_use",
            details={"collection_id": collection["_id"], "read_by": [reader["_id"] for reader in readers]},
        )
    task = await container.runner.create(
        TASK_TYPE,
        organization_id=organization_id,
        namespace_id=namespace_id,
        inputs=[collection["_id"]],
        data={"collection_id": collection["_id"], "collection_name": collection["name"]},
    )
    if not await container.collections.mark_deleting(collection["_id"], task["_id"], container.clock.now()):
        await container.tasks.drop(task["_id"])
        raise NotFound.of("collection", identifier)
    container.forget_buckets()
    container.runner.enqueue(task["_id"])
    await container.runner.wait(task["_id"], MAX_RESPONSE_WAIT_SECONDS)
    return collection, task


async def execute_collection_deletion(container: Container, task: TaskDocument) -> TaskOutcome:
    """Remove as many documents as fit in one execution."""
    collection_id = task["inputs"][0]
    collection = await container.collections.get_by_id(collection_id)
    if collection is None:
        return TaskResult(outputs=[collection_id])
    now = container.clock.now()
    await container.collections.mark_deleting(collection_id, task["_id"], now)
    removed_before = task["data"].get("documents_deleted")
    removed = removed_before if isinstance(removed_before, int) else 0
    while container.clock.now() < now + MAX_EXECUTION_TIME:
        deleted = await container.documents.delete_some({"collection_id": collection_id}, limit=PAGE_SIZE)
        if not deleted:
            break
        removed += deleted
    else:
        return Reschedule(container.clock.now(), {"documents_deleted": removed})
    settled_at = collection.get("deleting_since", now) + LATE_WRITES
    if container.clock.now() < settled_at:
        return Reschedule(settled_at, {"documents_deleted": removed})
    await container.collections.delete_by_id(collection_id)
    return TaskResult(outputs=[collection_id], data={"documents_deleted": removed})
