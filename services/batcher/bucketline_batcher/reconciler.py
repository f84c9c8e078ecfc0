"""What the batcher's state says is due and has not moved: it is driven again by the same use cases.

Losing every event of the bus costs the time until the next sweep, nothing else.
"""

from datetime import datetime, timedelta

from bucketline.backoff import backoff_seconds
from bucketline.db.work_units import UnitEnd, WorkUnitDocument, unit_attempts
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.observability.metrics import SWEPT, UNITS_OPEN
from bucketline.periodic import PeriodicTasks
from bucketline.service_context import ServiceContext
from bucketline.settings import ReconcileSettings
from bucketline_batcher.cancel import Cancellation
from bucketline_batcher.planner import FIELDS, Planner
from bucketline_batcher.publisher import BatchPublisher
from bucketline_batcher.results import BatchProgressTracker
from bucketline_batcher.settings import BatcherSettings

BACKLOG_SECONDS = 15.0
"""Between two counts of the open units: about as often as anybody reads them."""

MAX_COUNTED = 1000

MAX_QUIET = 60.0
"""Seconds between two announcements of a unit that nobody takes."""


class BatchReconciler:
    """Looks for stalled batches, units, waiting rows and queued objects."""

    def __init__(
        self,
        runtime: ServiceContext,
        planner: Planner,
        progress: BatchProgressTracker,
        canceling: Cancellation,
        voice: BatchPublisher,
        settings: BatcherSettings,
    ) -> None:
        self._clock = runtime.clock
        self._sweep: ReconcileSettings = runtime.settings.reconcile
        self._planner = planner
        self._progress = progress
        self._canceling = canceling
        self._voice = voice
        self._settings = settings
        self._object_place: tuple[datetime, str] | None = None

    def start(self, background: PeriodicTasks) -> None:
        background.every(self._sweep.interval_seconds, "sweep objects", self.objects)
        background.every(self._sweep.interval_seconds, "sweep waiting", self.waiting)
        background.every(self._sweep.interval_seconds, "sweep units", self.units)
        background.every(self._sweep.interval_seconds, "sweep batches", self.batches)
        background.every(BACKLOG_SECONDS, "count units", self.backlog)

    async def objects(self) -> int:
        """Mirrored ``auto_process`` objects for which no unit was made.

        Goes round all that stand still, a page a step; the place is kept in memory, so that looking writes nothing.
        """
        limit = self._sweep.batch_size
        page = await self._planner.objects.find_stalled(
            self._before(), limit=limit, fields=FIELDS, after=self._object_place
        )
        self._object_place = (page[-1]["moved_at"], page[-1]["_id"]) if len(page) == limit else None
        due = [o for o in page if o["auto_process"] and o["status"] == Status.QUEUED]
        planned = await self._planner.plan_auto([o for o in due if o["mirror"]["state"] != "pending"], {})
        SWEPT.labels("object without unit").inc(planned)
        return planned

    async def waiting(self) -> int:
        """Objects that were mirrored while nobody told the batches that wait for them, or that are gone."""
        rows = await self._planner.waiting.find_overdue(self._before(), limit=self._sweep.batch_size)
        if not rows:
            return 0
        objects = await self._planner.objects.get_many(list({row["object_id"] for row in rows}), fields=FIELDS)
        gone = [row for row in rows if row["object_id"] not in objects]
        await self._planner.waiting.delete_by_ids([row["_id"] for row in gone])
        mirrored = {oid: o for oid, o in objects.items() if o["mirror"]["state"] != "pending"}
        await self._planner.plan_ready_objects(mirrored, {})
        still = [row["_id"] for row in rows if row["object_id"] in objects and row["object_id"] not in mirrored]
        await self._planner.waiting.touch(still, self._clock.now())
        for batch_id in {row["batch_id"] for row in gone}:
            await self._progress.update(batch_id)
        SWEPT.labels("waiting object").inc(len(mirrored) + len(gone))
        return len(mirrored) + len(gone)

    async def units(self) -> int:
        """Units that nobody works on: their event was lost, their processor died, or they were given up.

        One that has cost too many processors, or was given back too often, is given up: what is left of it failed.
        """
        now = self._clock.now()
        stalled = await self._planner.units.find_stalled(self._before(), now, limit=self._sweep.batch_size)
        for unit in stalled:
            if unit["state"] != "canceled" and (reason := self._hopeless(unit)):
                await self._give_up(unit, reason, now)
            stale = self._sweep.stale_after_seconds
            pause = backoff_seconds(unit.get("wakes", 0) + 1, initial=stale, maximum=stale + MAX_QUIET) - stale
            await self._planner.units.postpone_announcement(unit, now + timedelta(seconds=pause))
        await self._voice.publish_final([unit for unit in stalled if unit["state"] == "canceled"])
        await self._voice.publish_ready([unit for unit in stalled if unit["state"] != "canceled"])
        # A ready one may just stand in the line of a busy processor: that is no repair.
        SWEPT.labels("unit").inc(sum(unit["state"] != "ready" for unit in stalled))
        return len(stalled)

    async def batches(self) -> int:
        """Submitted batches that were not planned, not finished, or not cancelled to the end."""
        stalled = await self._planner.batches.find_stalled(self._before(), limit=self._sweep.batch_size)
        ids = [batch["_id"] for batch in stalled]
        await self._planner.batches.touch(ids, self._clock.now())
        quiet = [batch["_id"] for batch in stalled if batch["auto"] and not batch.get("cancel_requested_at")]
        if quiet:
            await self._progress.finish_auto_batches(list((await self._planner.batches.get_many(quiet)).values()))
        late = 0
        for batch in stalled:
            if batch.get("cancel_requested_at") is not None:
                await self._canceling.cancel(batch["_id"])
            elif batch["auto"]:
                continue
            else:
                if not batch.get("planned"):
                    late += 1
                    await self._planner.plan_batch(batch["_id"])
                await self._progress.update(batch["_id"])
        # Most only wait for their units. What was repaired are those that nobody had planned, or had ended.
        found = await self._planner.batches.get_many(ids, fields=["status"])
        SWEPT.labels("batch").inc(late + sum(batch["status"] not in BATCH_ACTIVE for batch in found.values()))
        return len(stalled)

    async def backlog(self) -> int:
        """Tells how many units processors have or may take: they are off the bus as soon as they stand in a line."""
        waiting = await self._planner.units.count_open(limit=MAX_COUNTED)
        UNITS_OPEN.set(waiting)
        return waiting

    def _hopeless(self, unit: WorkUnitDocument) -> str | None:
        """Why the unit is given up, if it is. What an object did alone is laid to that object, up to a limit."""
        settings, cost = self._settings, unit_attempts(unit)
        if cost.crashes >= settings.unit_max_crashes or cost.isolated_crashes >= settings.unit_max_isolated_crashes:
            return f"its processor ended {cost.crashes + cost.isolated_crashes} times"
        if cost.releases >= settings.unit_max_releases:
            return f"it was given back unfinished {cost.releases} times"
        return None

    async def _give_up(self, unit: WorkUnitDocument, reason: str, now: datetime) -> None:
        """Unless somebody took the unit since it was read."""
        ending: UnitEnd = {
            "status": str(Status.FAILED),
            "error": f"processing was given up: {reason}",
            "error_type": "resource",
        }
        if await self._planner.units.give_up(unit, ending, now=now):
            unit["state"], unit["ending"] = "canceled", ending

    def _before(self) -> datetime:
        return self._clock.now() - timedelta(seconds=self._sweep.stale_after_seconds)
