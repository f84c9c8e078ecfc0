"""Schedules the work units of this process: a short queue and a fixed number of slots, shared fairly between groups.

A record of the bus announces that a unit is ready. It is acknowledged as soon as the unit is queued here, because from
then on MongoDB remembers it: a queued unit is *ready* and a running one is *leased*, and when this process dies, other
processors take both (:mod:`bucketline_processor.reconciler`). A unit that takes minutes therefore blocks its own slot,
but neither the consumer nor the partition.

When the queue is full the consumer waits, the records stay on the bus, and the consumer lag shows it.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial

import structlog

from bucketline.clock import Clock
from bucketline.db.work_units import WorkUnitDocument, WorkUnits, group_of
from bucketline.errors import DependencyUnavailable
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import STAGE_SECONDS, UNITS
from bucketline.observability.tracing import start_span
from bucketline_processor.isolation import Isolation
from bucketline_processor.leases import Leases
from bucketline_processor.service import UnitProcessor
from bucketline_processor.settings import ProcessorSettings

log = get_logger(__name__)

QUEUED_FIELDS = ("batch_id", "group", "state", "lease", "trace", "created_at")
"""The fields of a unit that the scheduler needs."""

MAX_QUEUE_SECONDS = 60.0
"""Seconds that a record may wait for room in the queue: far below the interval within which Kafka expects a poll."""

STOPPING_PAUSE = 0.5
"""Seconds after which a stopping service rejects a record, because the bus redelivers it at once."""


class QueueFull(DependencyUnavailable):
    """The queue is full or the service is stopping. The record is redelivered."""

    retryable = False


@dataclass(frozen=True)
class QueuedUnit:
    """A unit in the queue; ``group`` is the group with which it shares slots."""

    unit_id: str
    group: str
    trace: Mapping[str, str]


class UnitScheduler:
    """Runs units concurrently, fairly between batches and namespaces."""

    def __init__(
        self,
        units: WorkUnits,
        leases: Leases,
        isolation: Isolation,
        processor: UnitProcessor,
        *,
        clock: Clock,
        settings: ProcessorSettings,
    ) -> None:
        self._units = units
        self._leases = leases
        self._isolation = isolation
        self._processor = processor
        self._clock = clock
        self._settings = settings
        self._queue: dict[str, QueuedUnit] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._slots: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._stopping = False

    async def submit(self, traces: Mapping[str, Mapping[str, str]]) -> None:
        """Queue units (id → trace context); return when all are queued, or need not be.

        May be called again with the same units. Raises :class:`QueueFull` when the queue stays full, and
        ``DependencyUnavailable``.
        """
        if self._stopping:
            await asyncio.sleep(STOPPING_PAUSE)
            raise QueueFull("the service is stopping")
        new = [unit_id for unit_id in traces if not self._is_scheduled(unit_id)]
        if not new:
            return
        units = await self._units.get_many(new, fields=QUEUED_FIELDS)
        try:
            async with asyncio.timeout(MAX_QUEUE_SECONDS):
                for unit in self.available(units.values()):
                    if not self._is_scheduled(unit["_id"]):
                        await self._wait_for_room()
                        self.enqueue(unit, traces[unit["_id"]])
        except TimeoutError as error:
            raise QueueFull("the queue of work units is full") from error

    def enqueue(self, unit: WorkUnitDocument, trace: Mapping[str, str] | None = None) -> bool:
        """Add the unit to the queue unless it is queued or running here; return whether it was added.

        This is the only way into the queue, and it awaits nothing: whatever the callers read before, a unit that the
        consumer and the reconciler both found is added once.
        """
        unit_id = unit["_id"]
        if self._stopping or self._is_scheduled(unit_id):
            return False
        self._queue[unit_id] = QueuedUnit(unit_id, group_of(unit), trace or unit.get("trace") or {})
        self._start_queued()
        return True

    def available(self, units: Iterable[WorkUnitDocument]) -> list[WorkUnitDocument]:
        """Return those of the units that are ready or whose lease has expired."""
        now = self._clock.now()
        return [
            unit
            for unit in units
            if unit["state"] == "ready" or (unit["state"] == "leased" and unit["lease"]["until"] < now)
        ]

    @property
    def free_slots(self) -> int:
        """Return the number of slots in which nothing runs; 0 while the service stops."""
        return 0 if self._stopping else self._settings.max_concurrent_units - len(self._running)

    @property
    def queued(self) -> int:
        """Return the number of units in the queue."""
        return len(self._queue)

    @property
    def groups(self) -> set[str]:
        """Return the groups of all units that are queued or running."""
        return self._slots.keys() | {queued.group for queued in self._queue.values()}

    async def heartbeat(self) -> None:
        """Renew the leases and cancel the units whose lease is lost."""
        for unit_id in await self._leases.renew():
            task = self._running.get(unit_id)
            if task is not None:
                log.warning("lease lost", unit_id=unit_id)
                UNITS.labels("lease_lost").inc()
                self._leases.forget(unit_id)
                task.cancel()

    async def stop(self) -> None:
        """Start nothing more, let running objects finish within the grace period, and release the other units."""
        self._stopping = True
        self._queue.clear()
        self._changed.set()
        self._processor.stop()
        if not self._running:
            return
        _, late = await asyncio.wait(self._running.values(), timeout=self._settings.shutdown_grace_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _is_scheduled(self, unit_id: str) -> bool:
        return unit_id in self._queue or unit_id in self._running

    async def _wait_for_room(self) -> None:
        while len(self._queue) >= self._settings.prefetch_units and not self._stopping:
            self._changed.clear()
            await self._changed.wait()
        if self._stopping:
            raise QueueFull("the service is stopping")

    def _start_queued(self) -> None:
        """Start queued units while slots are free, those of the group with the fewest slots first."""
        while self._queue and len(self._running) < self._settings.max_concurrent_units:
            queued = min(self._queue.values(), key=lambda candidate: self._slots[candidate.group])
            if not self._may_start(self._slots[queued.group]):
                return
            del self._queue[queued.unit_id]
            self._slots[queued.group] += 1
            # The unit gets a context of its own: it does not belong to the trace of the unit that made room for it.
            task = asyncio.create_task(self._run(queued), name=f"unit {queued.unit_id}", context=Context())
            self._running[queued.unit_id] = task
            task.add_done_callback(partial(self._on_done, queued))
            self._changed.set()

    def _may_start(self, slots: int) -> bool:
        """Return whether a group that holds so many slots may have one more.

        A single group leaves half of the slots free, two leave a third, and so on, so that the next group finds one.
        The remainder of the division goes to the groups that ask first.
        """
        count = len(self.groups)
        usable = max(count, self._settings.max_concurrent_units * count // (count + 1))
        share, remainder = divmod(usable, count)
        return slots < share or (slots == share and sum(held > share for held in self._slots.values()) < remainder)

    def _on_done(self, done: QueuedUnit, _task: asyncio.Task[None]) -> None:
        del self._running[done.unit_id]
        self._slots[done.group] -= 1
        if not self._slots[done.group]:
            del self._slots[done.group]
        self._changed.set()
        if not self._stopping:
            self._start_queued()

    async def _run(self, queued: QueuedUnit) -> None:
        """Lease the unit, process it, and finish or release it. Raises only ``CancelledError``."""
        unit_id = queued.unit_id
        acquired = finished = False
        with (
            structlog.contextvars.bound_contextvars(unit_id=unit_id),
            start_span("work on unit", parent=queued.trace, attributes={"bucketline.unit_id": unit_id}),
        ):
            try:
                async with self._isolation.shared():
                    unit = await self._leases.acquire(unit_id)
                if unit is None:
                    return
                acquired = True
                STAGE_SECONDS.labels("unit").observe(max(0.0, (self._clock.now() - unit["created_at"]).total_seconds()))
                finished = await self._processor.run(unit, queued.trace)
            except asyncio.CancelledError:
                log.info("unit interrupted", unit_id=unit_id)
            except DependencyUnavailable as error:
                log.warning("unit released", unit_id=unit_id, error=error.message)
            except Exception:
                log.exception("unit failed", unit_id=unit_id)
            if finished:
                UNITS.labels("finished").inc()
                self._leases.forget(unit_id)
            elif not acquired or unit_id in self._leases.held:
                # A request for a lease that failed may have been stored all the same.
                await asyncio.shield(self._leases.release(unit_id))
