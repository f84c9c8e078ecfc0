"""Reclaims work units that no processor has: their record was lost or is far behind, or their processor died."""

from datetime import datetime, timedelta

from bucketline.clock import Clock
from bucketline.db.work_units import WorkUnits, group_of
from bucketline.observability.metrics import UNITS
from bucketline_processor.scheduler import QUEUED_FIELDS, UnitScheduler
from bucketline_processor.settings import ProcessorSettings


class UnitReconciler:
    """Finds units in MongoDB while the scheduler has free slots."""

    def __init__(
        self, units: WorkUnits, scheduler: UnitScheduler, *, clock: Clock, settings: ProcessorSettings
    ) -> None:
        self._units = units
        self._scheduler = scheduler
        self._clock = clock
        self._settings = settings
        self._last_group = ""

    async def reclaim(self) -> int:
        """Queue units without a holder if slots are free; return how many.

        Groups without a unit here go first, one unit each: their records may be behind thousands of others. When the
        queue is empty, units of all groups follow.
        """
        now = self._clock.now()
        before = now - timedelta(seconds=self._settings.orphan_claim_delay_seconds)
        reclaimed = await self._reclaim_other_groups(before, now)
        if not self._scheduler.queued and (free_slots := self._scheduler.free_slots):
            stalled = await self._units.find_stalled(before, now, limit=self._settings.max_concurrent_units)
            for unit in self._scheduler.available(stalled):
                if free_slots and self._scheduler.queued < self._settings.prefetch_units:
                    added = self._scheduler.enqueue(unit)
                    reclaimed += added
                    free_slots -= added
        UNITS.labels("reclaimed").inc(reclaimed)
        return reclaimed

    async def _reclaim_other_groups(self, before: datetime, now: datetime) -> int:
        """Queue one unit of each group that has none here, in the order of the groups, while slots are free."""
        reclaimed = 0
        for _ in range(self._scheduler.free_slots):
            groups = list(self._scheduler.groups)
            unit = await self._units.next_of_other_groups(
                groups, before, now, after=self._last_group, fields=QUEUED_FIELDS
            )
            if unit is None and self._last_group:
                unit = await self._units.next_of_other_groups(groups, before, now, fields=QUEUED_FIELDS)
            if unit is None or not self._scheduler.free_slots:
                break
            self._last_group = group_of(unit)
            reclaimed += self._scheduler.enqueue(unit)
        return reclaimed
