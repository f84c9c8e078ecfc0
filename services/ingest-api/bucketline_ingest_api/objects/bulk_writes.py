"""Shared round trips: concurrent creates become one bulk write, and each caller still gets its own result."""

from collections.abc import Sequence

from bucketline.clock import Clock
from bucketline.db.batches import BatchDocument, Batches
from bucketline.db.bulk_writer import BulkWriter
from bucketline.db.objects import ObjectDocument, Objects


class ObjectBulkWriter:
    """Group commits of new objects and of the batches that ``auto_process`` makes."""

    def __init__(self, objects: Objects, batches: Batches, clock: Clock) -> None:
        self._repository = objects
        self._batches = batches
        self._clock = clock
        self._object_group: BulkWriter[ObjectDocument, str | None] = BulkWriter(self._write_objects, name="objects")
        self._batch_group: BulkWriter[BatchDocument, None] = BulkWriter(self._write_batches, name="batches")

    async def insert(self, document: ObjectDocument) -> str | None:
        """Writes a new object; the name of the unique index that refused it, or None."""
        return await self._object_group.submit(document)

    async def insert_batch(self, document: BatchDocument) -> None:
        """Writes a batch unless it is there already."""
        await self._batch_group.submit(document)

    async def close(self) -> None:
        """Waits until everything that was submitted is written."""
        await self._object_group.close()
        await self._batch_group.close()

    async def _write_objects(self, documents: Sequence[ObjectDocument]) -> Sequence[str | None]:
        # An event is overdue from its write on, not from its request: the write may have waited seconds for its group.
        now = self._clock.now()
        for document in documents:
            if "pending" in document:
                document["pending_since"] = now
        refused = await self._repository.insert(documents)
        return [refused.get(place) for place in range(len(documents))]

    async def _write_batches(self, documents: Sequence[BatchDocument]) -> Sequence[None]:
        await self._batches.insert(documents)
        return [None] * len(documents)
