"""Cancelling: units that no processor holds are given up, and their objects are drafts again."""

from batcher.planning import FIELDS, Planner
from batcher.progress import Progress
from bucketline.domain.status import BATCH_ACTIVE
from bucketline.runtime import Runtime


class Canceling:
    """Carries a cancel request out. May be repeated."""

    def __init__(self, runtime: Runtime, planner: Planner, progress: Progress, *, page: int = 1000) -> None:
        self._clock = runtime.clock
        self._planner = planner
        self._progress = progress
        self._page = page

    async def cancel(self, batch_id: str) -> None:
        """Takes back what has not started; what a processor holds ends by itself, and the batch with it."""
        batch = await self._planner.batches.get(batch_id)
        if batch is None or batch.get("cancel_requested_at") is None or batch["status"] not in BATCH_ACTIVE:
            return
        now = self._clock.now()
        units = self._planner.units.collection
        # A unit of auto_process objects is shared with other batches and runs to its end.
        mine: dict[str, object] = {"items.batch_id": batch_id} if batch["auto"] else {"batch_id": batch_id}
        if not batch["auto"]:
            await units.update_many(
                {**mine, "state": {"$in": ["held", "ready"]}},
                {"$set": {"state": "canceled", "moved_at": now, "finished_at": now}},
            )
        await self._planner.waiting.collection.delete_many({"batch_id": batch_id})
        await self._planner.batches.collection.update_one(
            {"_id": batch_id}, {"$set": {"planned": True, "moved_at": now}}
        )
        kept = {
            item["object_id"]
            for unit in await units.find({**mine, "state": {"$ne": "canceled"}}, limit=50_000, fields=["items"])
            for item in unit["items"]
        }
        returned = [object_id for object_id in batch["objects"] if object_id not in kept]
        for start in range(0, len(returned), self._page):
            objects = await self._planner.objects.many(returned[start : start + self._page], fields=FIELDS)
            await self._planner.give_back(batch, list(objects.values()))
        await self._progress.refresh(batch_id)
