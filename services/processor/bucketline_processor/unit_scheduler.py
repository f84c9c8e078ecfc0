"""The units that this processor has in the works, and those that stand in line for it.

A record of the bus says that a unit is ready. It is acknowledged as soon as its unit stands in line here, because
from then on state alone remembers it: a unit in line is *ready* and one in the works is *leased*, and both are taken
over by others when this process dies (:meth:`UnitScheduler.look_around` there, and the batcher's sweeper). So a unit
that
takes minutes holds up nothing but its own slot: not the consumer, not the other units, not the partition.

The line is short. When it is full the consumer waits, what is not taken stays on the bus, and the lag shows it. Who
stands behind many others there is found in the state, and has one of the slots that are left free for those who come
later (:meth:`UnitScheduler.look_around` again).
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from bucketline.clock import Clock
from bucketline.db.work_units import WorkUnitDocument, WorkUnits, group_of
from bucketline.errors import DependencyUnavailable
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import STAGE_SECONDS, UNITS
from bucketline.observability.tracing import start_span
from bucketline.periodic import PeriodicTasks
from bucketline_processor.leases import Leases
from bucketline_processor.pipeline import Pipeline
from bucketline_processor.settings import ProcessorSettings

log = get_logger(__name__)

FIELDS = ("batch_id", "group", "state", "lease", "trace", "created_at")
MAX_WAIT = 60.0
"""Seconds that a record may wait for a place in line: far below the interval within which Kafka expects a poll."""

STOPPING_PAUSE = 0.5
"""Seconds after which a record is refused by a service that stops: the bus offers it again at once."""


class QueueFull(DependencyUnavailable):
    """The line is full, or the service stops. The record goes back to the bus and comes again."""

    retryable = False


@dataclass(frozen=True)
class QueuedUnit:
    """A unit in line. ``group`` is with whom it shares its turns."""

    unit_id: str
    group: str
    trace: Mapping[str, str]


class UnitScheduler:
    """Runs units side by side, fairly between batches and namespaces."""

    def __init__(
        self, units: WorkUnits, leases: Leases, pipeline: Pipeline, *, clock: Clock, settings: ProcessorSettings
    ) -> None:
        self._units = units
        self._leases = leases
        self._pipeline = pipeline
        self._clock = clock
        self._settings = settings
        self._line: dict[str, QueuedUnit] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._groups: Counter[str] = Counter()
        self._last_group = ""
        self._moved = asyncio.Event()
        self._stopping = False

    def start(self, background: PeriodicTasks, *, interval: float) -> None:
        background.every(self._leases.interval, "leases", self.beat)
        background.every(interval, "units that nobody has", self.look_around)

    async def offer(self, wanted: Mapping[str, Mapping[str, str]]) -> None:
        """Puts units (id → trace) in line; returns when all of them stand there, or need not.

        Raises :class:`QueueFull` when that takes too long, and ``DependencyUnavailable``. May be called again with
        the same.
        """
        if self._stopping:
            await asyncio.sleep(STOPPING_PAUSE)
            raise QueueFull("the service is stopping")
        fresh = [unit_id for unit_id in wanted if not self._known(unit_id)]
        if not fresh:
            return
        found = await self._units.many(fresh, fields=FIELDS)
        try:
            async with asyncio.timeout(MAX_WAIT):
                for unit in self._free(found.values()):
                    if not self._known(unit["_id"]):
                        await self._room()
                        self._enqueue(unit, wanted[unit["_id"]])
        except TimeoutError as late:
            raise QueueFull("every place in line is taken") from late

    async def look_around(self) -> int:
        """Takes up units that nobody has, if a slot is free; returns how many.

        First those of groups that have nothing here, in turns: their records may be behind thousands of others. With
        nothing else to do, all: their record was lost, or is in line at a processor that is busier than this one, or
        theirs has died.
        """
        now = self._clock.now()
        before = now - timedelta(seconds=self._settings.orphan_claim_delay_seconds)
        taken = await self._of_others(before, now)
        if not self._line and (idle := self._idle):
            stalled = await self._units.stalled(before, now, limit=self._settings.max_concurrent_units)
            free = [unit for unit in self._free(stalled) if not self._known(unit["_id"])][:idle]
            for unit in free:
                if len(self._line) < self._settings.prefetch_units and not self._stopping:
                    taken += self._enqueue(unit)
        UNITS.labels("reclaimed").inc(taken)
        return taken

    async def _of_others(self, before: datetime, now: datetime) -> int:
        """Takes up one unit of each group that has none here, as far as slots are free; returns how many."""
        taken = 0
        for _ in range(self._idle):
            here = list(self._groups_here())
            unit = await self._units.next_of_other_groups(here, before, now, after=self._last_group, fields=FIELDS)
            if unit is None and self._last_group:
                unit = await self._units.next_of_other_groups(here, before, now, fields=FIELDS)
            if unit is None or not self._idle:
                break
            self._last_group = group_of(unit)
            taken += self._enqueue(unit)
        return taken

    async def beat(self) -> None:
        """The heartbeat. Work on a unit that is not ours any more is dropped."""
        for unit_id in await self._leases.beat():
            task = self._running.get(unit_id)
            if task is not None:
                log.warning("another has the unit now", unit_id=unit_id)
                UNITS.labels("lease_lost").inc()
                self._leases.done(unit_id)
                task.cancel()

    async def stop(self) -> None:
        """Takes nothing more, lets what is being extracted finish for a while, gives the rest back."""
        self._stopping = True
        self._line.clear()
        self._moved.set()
        self._pipeline.stop()
        if not self._running:
            return
        _, late = await asyncio.wait(self._running.values(), timeout=self._settings.shutdown_grace_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    @property
    def _idle(self) -> int:
        """Slots in which nothing runs."""
        return 0 if self._stopping else self._settings.max_concurrent_units - len(self._running)

    def _groups_here(self) -> set[str]:
        return self._groups.keys() | {waiting.group for waiting in self._line.values()}

    def _known(self, unit_id: str) -> bool:
        return unit_id in self._line or unit_id in self._running

    def _free(self, units: Iterable[WorkUnitDocument]) -> list[WorkUnitDocument]:
        now = self._clock.now()
        return [
            unit
            for unit in units
            if unit["state"] == "ready" or (unit["state"] == "leased" and unit["lease"]["until"] < now)
        ]

    async def _room(self) -> None:
        while len(self._line) >= self._settings.prefetch_units and not self._stopping:
            self._moved.clear()
            await self._moved.wait()
        if self._stopping:
            raise QueueFull("the service is stopping")

    def _enqueue(self, unit: WorkUnitDocument, trace: Mapping[str, str] | None = None) -> bool:
        """Add the unit to the queue unless it is queued or running here; return whether it was added.

        This is the only way into the queue, and it awaits nothing: whatever the callers read before, a unit that the
        consumer and the periodic scan both found is added once.
        """
        unit_id = unit["_id"]
        if self._known(unit_id):
            return False
        self._line[unit_id] = QueuedUnit(unit_id, group_of(unit), trace or unit.get("trace") or {})
        self._fill()
        return True

    def _fill(self) -> None:
        """Starts what may start, of the group that has the fewest slots."""
        while self._line and len(self._running) < self._settings.max_concurrent_units:
            fewest = min(self._line.values(), key=lambda waiting: self._groups[waiting.group])
            if not self._may_have(self._groups[fewest.group]):
                return
            del self._line[fewest.unit_id]
            self._groups[fewest.group] += 1
            # A context of its own: a unit is not part of whatever happened to make room for it.
            task = asyncio.create_task(self._traced(fewest), name=f"unit {fewest.unit_id}", context=Context())
            self._running[fewest.unit_id] = task
            task.add_done_callback(partial(self._ended, fewest))
            self._moved.set()

    def _may_have(self, slots: int) -> bool:
        """Whether a group with so many slots may have one more. One group alone leaves half of all slots free, two
        leave a third, and so on: the next to come finds one. What cannot be divided goes to the first that ask."""
        groups = self._groups_here()
        together = max(len(groups), self._settings.max_concurrent_units * len(groups) // (len(groups) + 1))
        each, rest = divmod(together, len(groups))
        return slots < each or (slots == each and sum(count > each for count in self._groups.values()) < rest)

    def _ended(self, done: QueuedUnit, _task: asyncio.Task[None]) -> None:
        del self._running[done.unit_id]
        self._groups[done.group] -= 1
        if not self._groups[done.group]:
            del self._groups[done.group]
        self._moved.set()
        if not self._stopping:
            self._fill()

    async def _traced(self, waiting: QueuedUnit) -> None:
        with (
            structlog.contextvars.bound_contextvars(unit_id=waiting.unit_id),
            start_span("work on unit", parent=waiting.trace, attributes={"bucketline.unit_id": waiting.unit_id}),
        ):
            await self._work(waiting)

    async def _work(self, waiting: QueuedUnit) -> None:
        """Lease the unit, run it, and finish or release it. Raises nothing but ``CancelledError``."""
        unit_id = waiting.unit_id
        leased = finished = False
        try:
            unit = await self._leases.take(unit_id)
            if unit is None:
                return
            leased = True
            STAGE_SECONDS.labels("unit").observe(max(0.0, (self._clock.now() - unit["created_at"]).total_seconds()))
            finished = await self._pipeline.run(unit, waiting.trace)
        except asyncio.CancelledError:
            log.info("unit interrupted", unit_id=unit_id)
        except DependencyUnavailable as error:
            log.warning("unit released", unit_id=unit_id, error=error.message)
        except Exception:
            log.exception("unit failed", unit_id=unit_id)
        if finished:
            UNITS.labels("finished").inc()
            self._leases.done(unit_id)
        elif not leased or self._leases.holds(unit_id):
            # A lease whose request failed may have been stored all the same.
            await asyncio.shield(self._leases.give_back(unit_id))
