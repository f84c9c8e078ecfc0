"""Combines concurrent creates into one bulk write; each caller gets its own result."""

from collections.abc import Sequence

from bucketline.clock import Clock
from bucketline.db.batches import BatchDocument, Batches
from bucketline.db.bulk_writer import BulkWriter
from bucketline.db.objects import ObjectDocument, Objects


class ObjectBulkWriter:
    """Writes new objects and their automatic batches in groups."""

    def __init__(self, objects: Objects, batches: Batches, clock: Clock) -> None:
        self._objects = objects
        self._batches = batches
        self._clock = clock
        self._object_writer: BulkWriter[ObjectDocument, str | None] = BulkWriter(self._write_objects, name="objects")
        self._batch_writer: BulkWriter[BatchDocument, None] = BulkWriter(self._write_batches, name="batches")

    async def insert(self, document: ObjectDocument) -> str | None:
        """Insert an object; return the name of the unique index that refused it, or None."""
        return await self._object_writer.submit(document)

    async def insert_batch(self, document: BatchDocument) -> None:
        """Insert a batch unless it exists."""
        await self._batch_writer.submit(document)

    async def close(self) -> None:
        """Wait until everything that was submitted is written."""
        await self._object_writer.close()
        await self._batch_writer.close()

    async def _write_objects(self, documents: Sequence[ObjectDocument]) -> Sequence[str | None]:
        # The outbox delay counts from the write: the document may have waited seconds for its group.
        now = self._clock.now()
        for document in documents:
            if "pending" in document:
                document["pending_since"] = now
        refused = await self._objects.insert(documents)
        return [refused.get(index) for index in range(len(documents))]

    async def _write_batches(self, documents: Sequence[BatchDocument]) -> Sequence[None]:
        await self._batches.insert(documents)
        return [None] * len(documents)
