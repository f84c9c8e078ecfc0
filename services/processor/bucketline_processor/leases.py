"""Leases: a unit belongs to one processor at a time, as long as that one lives.

The heartbeat runs beside the work, so a long extraction keeps its unit; a processor that died lets it go after
``seconds``, and another takes it. A processor that lost a lease without knowing does no harm: what it writes has the
same ids as what the other writes, and of two final statuses the first counts.

A lease may also say what its holder is at, so that it is known what a holder died of: see
:mod:`bucketline_processor.isolation`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from bucketline.clock import Clock
from bucketline.db.work_units import NO_ITEM, WorkUnitDocument, WorkUnits
from bucketline.errors import DependencyUnavailable
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import UNITS
from bucketline_processor.rw_lock import RWLock

log = get_logger(__name__)

BEATS = 4
"""Heartbeats in the length of a lease."""


class Leases:
    """The units that this process holds."""

    def __init__(self, units: WorkUnits, owner: str, *, clock: Clock, seconds: float) -> None:
        self._units = units
        self._owner = owner
        self._clock = clock
        self._seconds = seconds
        self._held: set[str] = set()
        self._careful: set[str] = set()
        self._company = RWLock()

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return self._seconds / BEATS

    async def take(self, unit_id: str) -> WorkUnitDocument | None:
        """The unit, if nobody else has it and it is not over. Waits while somebody is alone here."""
        async with self.beside():
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
        self._careful.discard(unit_id)

    async def give_back(self, unit_id: str) -> None:
        """Lets another processor have an unfinished unit now and not when the lease runs out. Never raises."""
        self.done(unit_id)
        UNITS.labels("released").inc()
        try:
            await self._units.release(unit_id, self._owner, now=self._clock.now())
        except DependencyUnavailable as error:
            log.warning("the lease is left to run out", unit_id=unit_id, error=error.message)

    def beside(self) -> AbstractAsyncContextManager[None]:
        """Work beside others of this process."""
        return self._company.beside()

    async def careful(self, unit_id: str) -> None:
        """From now on nothing of the unit is worked on but what :meth:`set_current_item` names."""
        self._careful.add(unit_id)
        await self._units.set_current_item(unit_id, self._owner, NO_ITEM)

    @asynccontextmanager
    async def alone(self, unit_id: str) -> AsyncIterator[None]:
        """Inside, this process works on nothing but this unit, and the leases of its other units say so."""
        async with self._company.alone():
            others = self._held - self._careful
            if others:
                await self._units.mark_idle(list(others), self._owner, idle=True)
            try:
                yield
            finally:
                await self._again(unit_id, others)

    async def set_current_item(self, unit_id: str, place: int) -> bool:
        """Notes which item is tried now; whether the unit is still ours."""
        return await self._units.set_current_item(unit_id, self._owner, place)

    async def _again(self, unit_id: str, others: set[str]) -> None:
        try:
            await self._units.set_current_item(unit_id, self._owner, NO_ITEM)
            if others:
                await self._units.mark_idle(list(others), self._owner, idle=False)
        except DependencyUnavailable as error:
            # What the leases say now favours the others, and the suspect has been finished or is given back.
            log.warning("leases still say who was alone", unit_id=unit_id, error=error.message)

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
            except DependencyUnavailable as error:
                if self._clock.now() >= ends:
                    raise
                log.warning("leases not extended, trying again", units=len(held), error=error.message)
                await asyncio.sleep(min(1.0, self.interval))

    async def _extended(self, held: set[str]) -> set[str]:
        until = self._clock.now() + timedelta(seconds=self._seconds)
        lost = held - await self._units.extend(list(held), self._owner, until=until)
        # a unit that was finished in between is neither ours nor lost
        return lost & self._held
