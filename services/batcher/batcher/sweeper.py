"""What the batcher's state says is due and has not moved: it is driven again by the same use cases.

Losing every event of the bus costs the time until the next sweep, nothing else.
"""

from datetime import datetime, timedelta

from batcher.cancel import Canceling
from batcher.planning import FIELDS, Planner
from batcher.progress import Progress
from batcher.settings import BatcherSettings
from bucketline.background import Background
from bucketline.domain.status import Status
from bucketline.runtime import Runtime
from bucketline.settings import SweepSettings
from bucketline.telemetry.metrics import SWEPT


class Sweeper:
    """Looks for stalled batches, units, waiting rows and queued objects."""

    def __init__(
        self,
        runtime: Runtime,
        planner: Planner,
        progress: Progress,
        canceling: Canceling,
        settings: BatcherSettings,
    ) -> None:
        self._clock = runtime.clock
        self._sweep: SweepSettings = runtime.settings.sweep
        self._planner = planner
        self._progress = progress
        self._canceling = canceling
        self._settings = settings

    def start(self, background: Background) -> None:
        background.every(self._sweep.interval, "sweep objects", self.objects)
        background.every(self._sweep.interval, "sweep waiting", self.waiting)
        background.every(self._sweep.interval, "sweep units", self.units)
        background.every(self._sweep.interval, "sweep batches", self.batches)

    async def objects(self) -> int:
        """Mirrored ``auto_process`` objects for which no unit was made."""
        stalled = await self._planner.objects.stalled(self._before(), limit=self._sweep.limit)
        due = [
            o
            for o in stalled
            if o["auto_process"] and o["status"] == Status.QUEUED and o["mirror"]["state"] != "pending"
        ]
        planned = await self._planner.auto(due, {})
        await self._planner.objects.touch([o["_id"] for o in due], self._clock.now())
        SWEPT.labels("object without unit").inc(planned)
        return planned

    async def waiting(self) -> int:
        """Objects that were mirrored while nobody told the batches that wait for them, or that are gone."""
        rows = await self._planner.waiting.collection.find(
            {"since": {"$lt": self._before()}}, limit=self._sweep.limit, sort=[("since", 1)]
        )
        if not rows:
            return 0
        objects = await self._planner.objects.many(list({row["object_id"] for row in rows}), fields=FIELDS)
        gone = [row for row in rows if row["object_id"] not in objects]
        for row in gone:
            await self._planner.batches.collection.update_one({"_id": row["batch_id"]}, {"$inc": {"missing": 1}})
            await self._planner.waiting.remove([row["_id"]])
        mirrored = {oid: o for oid, o in objects.items() if o["mirror"]["state"] != "pending"}
        await self._planner.arrived(mirrored, {})
        still = [row["_id"] for row in rows if row["object_id"] in objects and row["object_id"] not in mirrored]
        await self._planner.waiting.collection.update_many(
            {"_id": {"$in": still}}, {"$set": {"since": self._clock.now()}}
        )
        SWEPT.labels("waiting object").inc(len(mirrored) + len(gone))
        return len(mirrored) + len(gone)

    async def units(self) -> int:
        """Units that nobody works on: their event was lost, or their processor died."""
        now = self._clock.now()
        stalled = await self._planner.units.stalled(self._before(), now, limit=self._sweep.limit)
        await self._planner.units.collection.update_many(
            {"_id": {"$in": [unit["_id"] for unit in stalled]}}, {"$set": {"moved_at": now}}
        )
        await self._planner.wake(stalled, {})
        SWEPT.labels("unit").inc(len(stalled))
        return len(stalled)

    async def batches(self) -> int:
        """Submitted batches that were not planned, not finished, or not cancelled to the end."""
        stalled = await self._planner.batches.stalled(self._before(), limit=self._sweep.limit)
        for batch in stalled:
            await self._planner.batches.collection.update_one(
                {"_id": batch["_id"]}, {"$set": {"moved_at": self._clock.now()}}
            )
            if batch.get("cancel_requested_at") is not None:
                await self._canceling.cancel(batch["_id"])
            elif batch["auto"]:
                await self._progress.settle_auto(batch)
            elif batch.get("planned"):
                await self._progress.refresh(batch["_id"])
            else:
                await self._planner.submitted(batch["_id"])
        SWEPT.labels("batch").inc(len(stalled))
        return len(stalled)

    def _before(self) -> datetime:
        return self._clock.now() - timedelta(seconds=self._sweep.stalled_after)
