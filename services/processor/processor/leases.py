"""Leases: a unit belongs to one processor at a time, as long as that one lives.

The heartbeat runs beside the work, so a long extraction keeps its unit; a processor that died lets it go after
``seconds``, and another takes it. A processor that lost a lease without knowing does no harm: what it writes has the
same ids as what the other writes, and of two final statuses the first counts.
"""

import asyncio
from datetime import timedelta

from bucketline.clock import Clock
from bucketline.errors import StoreUnavailable
from bucketline.storage.batches import UnitDocument, Units
from bucketline.telemetry.logging import get_logger
from bucketline.telemetry.metrics import UNITS

log = get_logger(__name__)

BEATS = 4
"""Heartbeats in the length of a lease."""


class Leases:
    """The units that this process holds."""

    def __init__(self, units: Units, owner: str, *, clock: Clock, seconds: float) -> None:
        self._units = units
        self._owner = owner
        self._clock = clock
        self._seconds = seconds
        self._held: set[str] = set()

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return self._seconds / BEATS

    async def take(self, unit_id: str) -> UnitDocument | None:
        """The unit, if nobody else has it and it is not over."""
        now = self._clock.now()
        unit = await self._units.lease(unit_id, self._owner, now=now, until=now + timedelta(seconds=self._seconds))
        if unit is not None:
            self._held.add(unit_id)
        return unit

    def holds(self, unit_id: str) -> bool:
        """Whether the lease was taken here and neither given back nor lost, as far as is known."""
        return unit_id in self._held

    def done(self, unit_id: str) -> None:
        """Stops the heartbeat: every result was said, or the unit is not ours any more."""
        self._held.discard(unit_id)

    async def give_back(self, unit_id: str) -> None:
        """Lets another processor have an unfinished unit now and not when the lease runs out. Never raises."""
        self._held.discard(unit_id)
        UNITS.labels("given back").inc()
        try:
            await self._units.release(unit_id, self._owner, now=self._clock.now())
        except StoreUnavailable as error:
            log.warning("the lease is left to run out", unit_id=unit_id, error=error.message)

    async def beat(self) -> set[str]:
        """Extends every lease; returns the units that are not ours any more.

        A store that is away is asked again for as long as a lease lasts: then there is nothing left to extend.
        """
        held = set(self._held)
        if not held:
            return set()
        ends = self._clock.now() + timedelta(seconds=self._seconds)
        while True:
            try:
                return await self._extended(held)
            except StoreUnavailable as error:
                if self._clock.now() >= ends:
                    raise
                log.warning("leases not extended, trying again", units=len(held), error=error.message)
                await asyncio.sleep(min(1.0, self.interval))

    async def _extended(self, held: set[str]) -> set[str]:
        until = self._clock.now() + timedelta(seconds=self._seconds)
        if await self._units.extend(list(held), self._owner, until=until) == len(held):
            return set()
        where = {"_id": {"$in": list(held)}, "lease.owner": self._owner, "state": "leased"}
        ours = await self._units.collection.find(where, limit=len(held), fields=["_id"])
        lost = held - {unit["_id"] for unit in ours}
        # a unit that was finished in between is neither ours nor lost
        return lost & self._held
