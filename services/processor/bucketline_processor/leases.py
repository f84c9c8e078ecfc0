"""Leases: a work unit belongs to one processor at a time, for as long as that processor is alive.

The heartbeat runs concurrently with the work, so a long extraction keeps its unit. The lease of a processor that died
expires, and another processor takes the unit. A processor that lost a lease without noticing does no harm: it writes
documents with the same ids as the new holder, and the first final status of an item counts.
"""

import asyncio
from datetime import timedelta

from bucketline.clock import Clock
from bucketline.db.work_units import WorkUnitDocument, WorkUnits
from bucketline.errors import DependencyUnavailable
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import UNITS

log = get_logger(__name__)

HEARTBEATS_PER_LEASE = 4


class Leases:
    """The leases that this process holds."""

    def __init__(self, units: WorkUnits, owner: str, *, clock: Clock, seconds: float) -> None:
        self._units = units
        self._clock = clock
        self._duration = timedelta(seconds=seconds)
        self.owner = owner
        self.held: set[str] = set()
        self.interval = seconds / HEARTBEATS_PER_LEASE

    async def acquire(self, unit_id: str) -> WorkUnitDocument | None:
        """Lease and return the unit, or return None if another processor holds it or it has ended."""
        now = self._clock.now()
        unit = await self._units.lease(unit_id, self.owner, now=now, until=now + self._duration)
        if unit is not None:
            self.held.add(unit_id)
        return unit

    def forget(self, unit_id: str) -> None:
        """Stop renewing the lease: the unit is finished, or belongs to another processor."""
        self.held.discard(unit_id)

    async def release(self, unit_id: str) -> None:
        """Let another processor have an unfinished unit before the lease expires. Never raises."""
        self.forget(unit_id)
        UNITS.labels("released").inc()
        try:
            await self._units.release(unit_id, self.owner, now=self._clock.now())
        except DependencyUnavailable as error:
            log.warning("lease not released, it will expire", unit_id=unit_id, error=error.message)

    async def renew(self) -> set[str]:
        """Renew every lease; return the units whose lease is lost.

        While MongoDB is unavailable this is retried for the duration of a lease; after that, nothing is left to renew.
        """
        held = set(self.held)
        if not held:
            return set()
        deadline = self._clock.now() + self._duration
        while True:
            try:
                lost = held - await self._units.renew_leases(
                    list(held), self.owner, until=self._clock.now() + self._duration
                )
                # A unit that was finished during the request is not leased any more, but not lost either.
                return lost & self.held
            except DependencyUnavailable as error:
                if self._clock.now() >= deadline:
                    raise
                log.warning("leases not renewed, trying again", units=len(held), error=error.message)
                await asyncio.sleep(min(1.0, self.interval))
