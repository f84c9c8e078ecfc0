"""The run that ``auto_process`` starts: a batch of one object, submitted at once."""

from bucketline.domain.status import Status
from bucketline.errors import StoreUnavailable
from bucketline.ids import derived
from bucketline.storage.batches import BatchDocument
from bucketline.storage.objects import ObjectDocument
from bucketline.telemetry.logging import get_logger
from ingest_api.deps import Deps

log = get_logger(__name__)


def task_of(batch_id: str) -> str:
    """The task that shows an automatic batch."""
    return derived("task", batch_id)


def automatic_batch(obj: ObjectDocument, batch_id: str) -> BatchDocument:
    """Everything in it can be told from the object, so that the batcher makes it again if it got lost."""
    now = obj["updated_at"]
    batch: BatchDocument = {
        "_id": batch_id,
        "namespace_id": obj["namespace_id"],
        "bucket_id": obj["bucket_id"],
        "batch_name": None,
        "status": str(Status.PENDING),
        "objects": [obj["_id"]],
        "total": 1,
        "collection_ids": None,
        "dedup_strategy": "skip",
        "metadata": {},
        "task_id": task_of(batch_id),
        "auto": True,
        "run": obj["run"]["id"],
        "created_at": now,
        "submitted_at": now,
        "updated_at": now,
        "moved_at": now,
    }
    if trace := obj.get("trace"):
        batch["trace"] = trace
    return batch


async def start_runs(deps: Deps, objects: list[ObjectDocument]) -> None:
    """Writes the batches of objects that were written with one.

    The objects are durable and say which batch they are in. So a store that goes away here delays the batch until the
    batcher makes it; the request is answered as the success that it is.
    """
    batches = [automatic_batch(obj, batch_id) for obj in objects if (batch_id := obj.get("batch_id"))]
    try:
        if len(batches) == 1:
            await deps.object_writes.insert_batch(batches[0])
        elif batches:
            await deps.batches.insert(batches)
    except StoreUnavailable as error:
        log.warning("batches left to the batcher", batches=len(batches), error=error.message)
