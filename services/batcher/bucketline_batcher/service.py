"""The use cases that events trigger: plan mirrored objects and submitted batches, cancel batches, record results.

All of them act on stored state and may be repeated, so the order of the events does not matter.
"""

from collections.abc import Sequence

from bucketline.clock import Clock
from bucketline.db.batches import BatchDocument
from bucketline.db.work_units import UnitEnd
from bucketline.domain.status import BATCH_ACTIVE, RANK_FINAL, Status
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import BatchCanceled, BatchSubmitted, ObjectMirrored, ObjectStatusChanged
from bucketline_batcher.planner import FIELDS, Planner
from bucketline_batcher.publisher import BatchPublisher
from bucketline_batcher.results import BatchProgressTracker
from bucketline_batcher.windows import WindowBatcher

RETURNED_TO_DRAFT: UnitEnd = {"status": str(Status.DRAFT), "error": None, "error_type": None}
UNITS_PER_PAGE = 20


class BatcherService:
    """The use cases of the batcher."""

    def __init__(
        self,
        planner: Planner,
        progress: BatchProgressTracker,
        windowing: WindowBatcher,
        publisher: BatchPublisher,
        *,
        clock: Clock,
    ) -> None:
        self._planner = planner
        self._progress = progress
        self._windowing = windowing
        self._publisher = publisher
        self._clock = clock

    async def plan_mirrored(self, records: Sequence[ReceivedEvent[ObjectMirrored]]) -> None:
        """Plan objects to process at once and those that submitted batches wait for; add other drafts to windows."""
        traces = {record.event.object_id: record.trace for record in records}
        objects = await self._planner.objects.get_many(list(traces), fields=FIELDS)
        mirrored = {object_id: obj for object_id, obj in objects.items() if obj["mirror"]["state"] != "pending"}
        await self._planner.plan_auto(list(mirrored.values()), traces)
        planned = await self._planner.plan_ready_objects(mirrored, traces)
        # Some may be in a batch whose event has not been applied to them yet. The window checks that.
        await self._windowing.add_drafts([obj for object_id, obj in mirrored.items() if object_id not in planned])

    async def plan_or_cancel(self, records: Sequence[ReceivedEvent[BatchSubmitted | BatchCanceled]]) -> None:
        """Cancel batches, then plan the submitted ones, small ones first because a large one takes a while."""
        for record in records:
            if isinstance(record.event, BatchCanceled):
                await self.cancel(record.event.batch_id)
        submitted = [(record.event, record.trace) for record in records if isinstance(record.event, BatchSubmitted)]
        for event, trace in sorted(submitted, key=lambda row: row[0].object_count):
            await self._planner.plan_batch(event.batch_id, trace)
            # Its units may have finished by now, and there are none if all of its objects were deleted.
            await self._progress.update(event.batch_id)

    async def apply_results(self, records: Sequence[ReceivedEvent[ObjectStatusChanged]]) -> None:
        """Record the final statuses and complete their batches. Other statuses are no progress."""
        if final := [record for record in records if record.event.sequence == RANK_FINAL]:
            await self._progress.apply_results(final)

    async def cancel(self, batch_id: str) -> None:
        """Return to draft what no processor has leased. The leased units finish, and then the batch does."""
        batch = await self._planner.batches.get(batch_id)
        if batch is None or batch.get("cancel_requested_at") is None or batch["status"] not in BATCH_ACTIVE:
            return
        if batch["auto"]:
            await self._cancel_auto(batch)
        else:
            await self._cancel_explicit(batch)

    async def _cancel_explicit(self, batch: BatchDocument) -> None:
        batch_id, turn = batch["_id"], batch.get("run", 1)
        now = self._clock.now()
        # First the objects without a unit, so that nothing can be planned any more; then the units that wait.
        await self._planner.cancel_unplanned(batch, RETURNED_TO_DRAFT)
        await self._planner.waiting.delete_of_batches([batch_id])
        units = self._planner.units
        await units.cancel_unleased(batch_id, turn, RETURNED_TO_DRAFT, now)
        await self._planner.batches.mark_planned(batch_id, turn, now)
        after = ""
        while page := await units.find_canceled(batch_id, turn, after=after, limit=UNITS_PER_PAGE):
            await self._publisher.publish_final(page)
            after = page[-1]["_id"]
        await self._progress.update(batch_id)

    async def _cancel_auto(self, batch: BatchDocument) -> None:
        """Cancel an automatic batch. Its unit has items of other batches, so only its own item is returned."""
        batch_id, object_id = batch["_id"], batch["objects"][0]
        unit = await self._planner.units.of_automatic_batch(batch_id)
        if unit is None:
            obj = (await self._planner.objects.get_many([object_id], fields=FIELDS)).get(object_id)
            if obj is not None and obj.get("batch_id") == batch_id:
                await self._planner.cancel_unplanned_auto(batch, obj, RETURNED_TO_DRAFT)
                unit = await self._planner.units.of_automatic_batch(batch_id)
        if unit is not None and unit["state"] in ("ready", "canceled"):
            await self._publisher.publish_final([unit], only=batch_id)
        await self._progress.finish_auto_batches([batch])
