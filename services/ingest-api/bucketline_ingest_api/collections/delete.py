"""Deleting a collection: it is gone from every route at once; its documents follow, usually before the answer."""

from datetime import timedelta

from bucketline.db.collections import CollectionDocument
from bucketline.db.tasks import TaskDocument
from bucketline.errors import BadRequest, NotFound
from bucketline_ingest_api.collections.lookup import live_collection
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult

KIND = "api_collections_documents_bulk_delete"
PAGE = 5000
TURN = timedelta(seconds=15)
PATIENCE = 10.0
"""Seconds that the answer waits for the documents to go."""

STRAGGLERS_AFTER = timedelta(seconds=30)
"""A processor that had begun before may write documents until then; they are removed as well. One that takes longer
than a few seconds looks again when it has written, and removes them itself."""


async def delete_collection(
    deps: Container, organization_id: str, namespace_id: str, identifier: str
) -> tuple[CollectionDocument, TaskDocument]:
    """Refused while other collections read it: they would never get anything again."""
    collection = await live_collection(deps, namespace_id, identifier)
    readers = await deps.collections.collection.find(
        {"source.collection_ids": collection["_id"], "deleting": {"$ne": True}}, limit=100, fields=["name"]
    )
    if readers:
        raise BadRequest(
            "other collections read this one: delete them first",
            code="collection_in_use",
            details={"collection_id": collection["_id"], "read_by": [reader["_id"] for reader in readers]},
        )
    task = await deps.runner.create(
        KIND,
        organization_id=organization_id,
        namespace_id=namespace_id,
        inputs=[collection["_id"]],
        data={"collection_id": collection["_id"], "collection_name": collection["name"]},
    )
    if not await deps.collections.mark_deleting(collection["_id"], task["_id"], deps.clock.now()):
        await deps.tasks.drop(task["_id"])
        raise NotFound.of("collection", identifier)
    deps.forget_buckets()
    deps.runner.enqueue(task["_id"])
    await deps.runner.wait(task["_id"], PATIENCE)
    return collection, task


async def collection_deletion_turn(deps: Container, task: TaskDocument) -> TaskOutcome:
    """One turn of the task: as many documents as go in a while."""
    collection_id = task["inputs"][0]
    collection = await deps.collections.collection.get(collection_id)
    if collection is None:
        return TaskResult(outputs=[collection_id])
    now = deps.clock.now()
    await deps.collections.mark_deleting(collection_id, task["_id"], now)
    known = task["data"].get("documents_deleted")
    removed = known if isinstance(known, int) else 0
    while deps.clock.now() < now + TURN:
        page = await deps.documents.collection.find({"collection_id": collection_id}, limit=PAGE, fields=["_id"])
        if not page:
            break
        ids = [document["_id"] for document in page]
        removed += await deps.documents.collection.delete_many({"_id": {"$in": ids}})
    else:
        return Reschedule(deps.clock.now(), {"documents_deleted": removed})
    settled = collection.get("deleting_since", now) + STRAGGLERS_AFTER
    if deps.clock.now() < settled:
        return Reschedule(settled, {"documents_deleted": removed})
    await deps.collections.collection.delete_one({"_id": collection_id})
    return TaskResult(outputs=[collection_id], data={"documents_deleted": removed})
