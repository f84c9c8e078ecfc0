"""What dedup does with records: decode, call one use case, return."""

from collections.abc import Sequence

from bucketline.events.catalog import ObjectCreated, ObjectUpdated
from bucketline.events.envelope import Received
from dedup.mirror import Mirroring


class Handlers:
    """Handlers of this service; each may see any record again."""

    def __init__(self, mirroring: Mirroring) -> None:
        self._mirroring = mirroring

    async def on_objects(self, records: Sequence[Received]) -> None:
        """Mirrors what was created or changed. What was deleted is left to gc."""
        traces = {
            r.event.object_id: r.trace
            for r in records
            if isinstance(r.event, ObjectCreated)
            or (isinstance(r.event, ObjectUpdated) and (r.event.blobs_changed or r.event.auto_process))
        }
        objects = await self._mirroring.objects.many(list(traces))
        await self._mirroring.mirror(list(objects.values()), traces)
