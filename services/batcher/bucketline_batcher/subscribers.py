"""What the batcher does with records: decode, call one use case, return."""

from collections.abc import Sequence

from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import BatchCanceled, BatchSubmitted, ObjectMirrored
from bucketline_batcher.cancel import Cancellation
from bucketline_batcher.planner import FIELDS, Planner
from bucketline_batcher.progress import BatchProgressTracker
from bucketline_batcher.windows import WindowBatcher


class Handlers:
    """Handlers of this service; each may see any record again."""

    def __init__(
        self, planner: Planner, progress: BatchProgressTracker, canceling: Cancellation, windowing: WindowBatcher
    ) -> None:
        self._planner = planner
        self._progress = progress
        self._canceling = canceling
        self._windowing = windowing

    async def on_mirrored(self, records: Sequence[ReceivedEvent]) -> None:
        """Plans what is to be processed at once and what submitted batches wait for; other drafts go into windows."""
        traces = {r.event.object_id: r.trace for r in records if isinstance(r.event, ObjectMirrored)}
        objects = await self._planner.objects.many(list(traces), fields=FIELDS)
        mirrored = {oid: found for oid, found in objects.items() if found["mirror"]["state"] != "pending"}
        await self._planner.auto(list(mirrored.values()), traces)
        taken = await self._planner.arrived(mirrored, traces)
        # Drafts to look at: that a batch has them is said on the bus, and may not be applied to them yet.
        await self._windowing.collect([found for oid, found in mirrored.items() if oid not in taken])

    async def on_batches(self, records: Sequence[ReceivedEvent]) -> None:
        """Carries cancellations out and plans submitted batches, the small ones first: a large one takes a while.

        Both go by what the batch's state says, so that the order of the two is of no matter.
        """
        for record in records:
            if isinstance(record.event, BatchCanceled):
                await self._canceling.cancel(record.event.batch_id)
        submitted = [(record.event, record.trace) for record in records if isinstance(record.event, BatchSubmitted)]
        for event, trace in sorted(submitted, key=lambda row: row[0].object_count):
            await self._planner.submitted(event.batch_id, trace)
            # Its units may be over by now, and there are none if all of its objects were deleted.
            await self._progress.refresh(event.batch_id)

    async def on_status(self, records: Sequence[ReceivedEvent]) -> None:
        """Counts progress and finishes batches."""
        await self._progress.record(records)
