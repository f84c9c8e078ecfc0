"""Finds work that is due according to MongoDB but has not moved, and runs its use case again.

If all events were lost, the work would only be delayed until the next run.
"""

from datetime import datetime, timedelta

from bucketline.backoff import backoff_seconds
from bucketline.db.work_units import UnitEnd, WorkUnitDocument, unit_attempts
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.observability.metrics import SWEPT, UNITS_OPEN
from bucketline.periodic import PeriodicTasks
from bucketline.service_context import ServiceContext
from bucketline_batcher.planner import FIELDS, Planner
from bucketline_batcher.publisher import BatchPublisher
from bucketline_batcher.results import BatchProgressTracker
from bucketline_batcher.service import BatcherService
from bucketline_batcher.settings import BatcherSettings

BACKLOG_SECONDS = 15.0
"""Time between two updates of the backlog metric, about as often as it is scraped."""

MAX_COUNTED = 1000

MAX_ANNOUNCEMENT_PAUSE = 60.0
"""Maximum seconds between two announcements of a unit that no processor takes."""


class BatchReconciler:
    """Repairs stalled batches, units, batch dependencies and queued objects."""

    def __init__(
        self,
        context: ServiceContext,
        planner: Planner,
        progress: BatchProgressTracker,
        service: BatcherService,
        publisher: BatchPublisher,
        settings: BatcherSettings,
    ) -> None:
        self._clock = context.clock
        self._reconcile = context.settings.reconcile
        self._planner = planner
        self._progress = progress
        self._service = service
        self._publisher = publisher
        self._settings = settings
        self._object_cursor: tuple[datetime, str] | None = None

    def start(self, background: PeriodicTasks) -> None:
        """Run all repairs periodically."""
        for name, step in {
            "reconcile objects": self.objects,
            "reconcile dependencies": self.waiting,
            "reconcile units": self.units,
            "reconcile batches": self.batches,
        }.items():
            background.every(self._reconcile.interval_seconds, name, step)
        background.every(BACKLOG_SECONDS, "count units", self.backlog)

    async def objects(self) -> int:
        """Plan mirrored ``auto_process`` objects without a unit, one page per call; return how many there were.

        The cursor is kept in memory, so that a page without work costs no write.
        """
        limit = self._reconcile.batch_size
        page = await self._planner.objects.find_stalled(
            self._before(), limit=limit, fields=FIELDS, after=self._object_cursor
        )
        self._object_cursor = (page[-1]["moved_at"], page[-1]["_id"]) if len(page) == limit else None
        due = [obj for obj in page if obj["auto_process"] and obj["status"] == Status.QUEUED]
        planned = await self._planner.plan_auto([obj for obj in due if obj["mirror"]["state"] != "pending"], {})
        SWEPT.labels("object without unit").inc(planned)
        return planned

    async def waiting(self) -> int:
        """Plan objects that a batch still waits for although they were mirrored or deleted; return how many."""
        rows = await self._planner.waiting.find_overdue(self._before(), limit=self._reconcile.batch_size)
        if not rows:
            return 0
        objects = await self._planner.objects.get_many(list({row["object_id"] for row in rows}), fields=FIELDS)
        deleted = [row for row in rows if row["object_id"] not in objects]
        await self._planner.waiting.delete_by_ids([row["_id"] for row in deleted])
        mirrored = {object_id: obj for object_id, obj in objects.items() if obj["mirror"]["state"] != "pending"}
        await self._planner.plan_ready_objects(mirrored, {})
        pending = [row["_id"] for row in rows if row["object_id"] in objects and row["object_id"] not in mirrored]
        await self._planner.waiting.touch(pending, self._clock.now())
        for batch_id in {row["batch_id"] for row in deleted}:
            await self._progress.update(batch_id)
        repaired = len(mirrored) + len(deleted)
        SWEPT.labels("waiting object").inc(repaired)
        return repaired

    async def units(self) -> int:
        """Announce units that no processor works on again, and return how many there were.

        Their event was lost, their processor crashed, or they were canceled. A unit that crashed too many processors,
        or was released too often, is canceled, and its remaining objects fail.
        """
        now = self._clock.now()
        stalled = await self._planner.units.find_stalled(self._before(), now, limit=self._reconcile.batch_size)
        stale = self._reconcile.stale_after_seconds
        for unit in stalled:
            if unit["state"] != "canceled" and (reason := self._failure_reason(unit)):
                await self._fail(unit, reason, now)
            pause = backoff_seconds(unit.get("wakes", 0) + 1, initial=stale, maximum=stale + MAX_ANNOUNCEMENT_PAUSE)
            await self._planner.units.postpone_announcement(unit, now + timedelta(seconds=pause - stale))
        await self._publisher.publish_final([unit for unit in stalled if unit["state"] == "canceled"])
        await self._publisher.publish_ready([unit for unit in stalled if unit["state"] != "canceled"])
        # A ready unit may just be queued in a busy processor: that is no repair.
        SWEPT.labels("unit").inc(sum(unit["state"] != "ready" for unit in stalled))
        return len(stalled)

    async def batches(self) -> int:
        """Plan, finish or cancel submitted batches that have not moved, and return how many there were."""
        stalled = await self._planner.batches.find_stalled(self._before(), limit=self._reconcile.batch_size)
        ids = [batch["_id"] for batch in stalled]
        await self._planner.batches.touch(ids, self._clock.now())
        canceled = [batch["_id"] for batch in stalled if batch.get("cancel_requested_at") is not None]
        auto = [batch["_id"] for batch in stalled if batch["auto"] and batch["_id"] not in canceled]
        if auto:
            await self._progress.finish_auto_batches(list((await self._planner.batches.get_many(auto)).values()))
        for batch_id in canceled:
            await self._service.cancel(batch_id)
        unplanned = 0
        for batch in stalled:
            if batch["auto"] or batch["_id"] in canceled:
                continue
            if not batch.get("planned"):
                unplanned += 1
                await self._planner.plan_batch(batch["_id"])
            await self._progress.update(batch["_id"])
        # Most batches only wait for their units. Repaired are those that were not planned or not finished.
        current = await self._planner.batches.get_many(ids, fields=["status"])
        SWEPT.labels("batch").inc(unplanned + sum(batch["status"] not in BATCH_ACTIVE for batch in current.values()))
        return len(stalled)

    async def backlog(self) -> int:
        """Update the number of ready and leased units. Consumer lag does not show units that a processor has queued."""
        count = await self._planner.units.count_open(limit=MAX_COUNTED)
        UNITS_OPEN.set(count)
        return count

    def _failure_reason(self, unit: WorkUnitDocument) -> str | None:
        """Return why the unit is to fail, or None if it may be tried again."""
        settings, attempts = self._settings, unit_attempts(unit)
        if (
            attempts.crashes >= settings.unit_max_crashes
            or attempts.isolated_crashes >= settings.unit_max_isolated_crashes
        ):
            return f"its processor ended {attempts.crashes + attempts.isolated_crashes} times"
        if attempts.releases >= settings.unit_max_releases:
            return f"it was released unfinished {attempts.releases} times"
        return None

    async def _fail(self, unit: WorkUnitDocument, reason: str, now: datetime) -> None:
        """Cancel the unit, unless a processor has leased it since it was read."""
        ending: UnitEnd = {
            "status": str(Status.FAILED),
            "error": f"processing was given up: {reason}",
            "error_type": "resource",
        }
        if await self._planner.units.give_up(unit, ending, now=now):
            unit["state"], unit["ending"] = "canceled", ending

    def _before(self) -> datetime:
        return self._clock.now() - timedelta(seconds=self._reconcile.stale_after_seconds)
