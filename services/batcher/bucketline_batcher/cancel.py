"""Cancelling: what no processor holds is given up, and its objects are drafts again."""

from bucketline.db.batches import BatchDocument
from bucketline.db.work_units import UnitEnd
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.service_context import ServiceContext
from bucketline_batcher.planner import FIELDS, Planner
from bucketline_batcher.publisher import BatchPublisher
from bucketline_batcher.results import BatchProgressTracker

RETURNED_TO_DRAFT: UnitEnd = {"status": str(Status.DRAFT), "error": None, "error_type": None}


class Cancellation:
    """Carries a cancel request out. May be repeated, until the batch is over."""

    def __init__(
        self,
        runtime: ServiceContext,
        planner: Planner,
        progress: BatchProgressTracker,
        voice: BatchPublisher,
        *,
        page: int = 20,
    ) -> None:
        self._clock = runtime.clock
        self._planner = planner
        self._progress = progress
        self._voice = voice
        self._page = page

    async def cancel(self, batch_id: str) -> None:
        """Takes back what has not started; what a processor holds ends by itself, and the batch with it."""
        batch = await self._planner.batches.get(batch_id)
        if batch is None or batch.get("cancel_requested_at") is None or batch["status"] not in BATCH_ACTIVE:
            return
        if batch["auto"]:
            await self._automatic(batch)
        else:
            await self._explicit(batch)

    async def _explicit(self, batch: BatchDocument) -> None:
        batch_id, turn = batch["_id"], batch.get("run", 1)
        now = self._clock.now()
        # First what has no unit: afterwards nothing can be planned any more. Then what has one and waits.
        await self._planner.cancel_unplanned(batch, RETURNED_TO_DRAFT)
        await self._planner.waiting.delete_of_batches([batch_id])
        units = self._planner.units
        await units.cancel_unleased(batch_id, turn, RETURNED_TO_DRAFT, now)
        await self._planner.batches.mark_planned(batch_id, turn, now)
        after = ""
        while page := await units.find_canceled(batch_id, turn, after=after, limit=self._page):
            await self._voice.publish_final(page)
            after = page[-1]["_id"]
        await self._progress.update(batch_id)

    async def _automatic(self, batch: BatchDocument) -> None:
        """The unit is shared with other batches: only this batch's item is given back, if no processor has it."""
        unit = await self._planner.units.of_automatic_batch(batch["_id"])
        if unit is None:
            found = await self._planner.objects.get_many(batch["objects"][:1], fields=FIELDS)
            obj = found.get(batch["objects"][0])
            if obj is not None and obj.get("batch_id") == batch["_id"]:
                await self._planner.cancel_unplanned_auto(batch, obj, RETURNED_TO_DRAFT)
                unit = await self._planner.units.of_automatic_batch(batch["_id"])
        if unit is not None and unit["state"] in ("ready", "canceled"):
            await self._voice.publish_final([unit], only=batch["_id"])
        await self._progress.finish_auto_batches([batch])
