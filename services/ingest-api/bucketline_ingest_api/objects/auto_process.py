"""The run that ``auto_process`` starts: a batch of one object, submitted at once."""

from bucketline.db.batches import new_auto_batch
from bucketline.db.objects import ObjectDocument
from bucketline.errors import DependencyUnavailable
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.container import Container

log = get_logger(__name__)


async def submit_auto_batches(deps: Container, objects: list[ObjectDocument]) -> None:
    """Writes the batches of objects that were written with one.

    The objects are durable and say which batch they are in. So a store that goes away here delays the batch until the
    batcher makes it; the request is answered as the success that it is.
    """
    batches = [new_auto_batch(obj, batch_id) for obj in objects if (batch_id := obj.get("batch_id"))]
    try:
        if len(batches) == 1:
            await deps.object_writes.insert_batch(batches[0])
        elif batches:
            await deps.batches.insert(batches)
    except DependencyUnavailable as error:
        log.warning("batches left to the batcher", batches=len(batches), error=error.message)
