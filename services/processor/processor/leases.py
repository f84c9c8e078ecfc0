"""Leases: a unit belongs to one processor at a time, as long as that one lives.

The heartbeat runs beside the work, so a long extraction keeps its unit; a processor that died lets it go after
``seconds``, and the batcher's sweeper gives it to another. A processor that lost a lease without knowing does no harm:
what it writes has the same ids as what the other writes.
"""

from datetime import timedelta

from bucketline.background import Background
from bucketline.clock import Clock
from bucketline.storage.batches import UnitDocument, Units


class Leases:
    """The units that this process holds."""

    def __init__(self, units: Units, owner: str, *, clock: Clock, seconds: float) -> None:
        self._units = units
        self._owner = owner
        self._clock = clock
        self._seconds = seconds
        self._held: set[str] = set()

    def start(self, background: Background) -> None:
        background.every(self._seconds / 3, "leases", self.beat)

    async def take(self, unit_id: str) -> UnitDocument | None:
        """The unit, if nobody else has it and it is not over."""
        now = self._clock.now()
        unit = await self._units.lease(unit_id, self._owner, now=now, until=now + timedelta(seconds=self._seconds))
        if unit is not None:
            self._held.add(unit_id)
        return unit

    def done(self, unit_id: str) -> None:
        """Stops the heartbeat: every result was said."""
        self._held.discard(unit_id)

    async def give_back(self, unit_id: str) -> None:
        """Lets another processor have an unfinished unit now and not when the lease runs out."""
        self._held.discard(unit_id)
        await self._units.release(unit_id, self._owner, now=self._clock.now())

    async def beat(self) -> None:
        if self._held:
            until = self._clock.now() + timedelta(seconds=self._seconds)
            await self._units.extend(list(self._held), self._owner, until=until)
