"""The outbox: every event that was written with its fact gets published, whatever happens in between.

Right after the write the same process publishes and forgets the event (:meth:`Outbox.flush_soon`). What a crash or an
absent broker leaves behind is older than a few seconds, and the sweeper of any replica publishes it
(:meth:`Outbox.sweep`), except for what its own process is still publishing: under overload that takes longer. So an
event may be published twice, with the same identity, but never not at all.
"""

import asyncio
import contextvars
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from bucketline.clock import Clock
from bucketline.db.outbox_store import OutboxEntry, OutboxStore
from bucketline.errors import BucketlineError, NonRetryableError
from bucketline.kafka.publisher import Publisher
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import OUTBOX_AGE, SWEPT
from bucketline.observability.tracing import start_shared_span
from bucketline.periodic import PeriodicTasks
from bucketline.settings import ReconcileSettings

log = get_logger(__name__)


class Outbox:
    """Publishes what the documents of one collection owe."""

    def __init__(
        self,
        name: str,
        store: OutboxStore,
        publisher: Publisher,
        *,
        clock: Clock,
        settings: ReconcileSettings,
        max_group: int = 1000,
        max_queue: int = 50_000,
    ) -> None:
        self._name = name
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._settings = settings
        self._max_group = max_group
        self._max_queue = max_queue
        self._queue: list[OutboxEntry] = []
        self._in_flight: Counter[str] = Counter()
        self._worker: asyncio.Task[None] | None = None

    def start(self, background: PeriodicTasks) -> None:
        background.every(self._settings.interval_seconds, f"outbox {self._name}", self.sweep)

    def flush_soon(self, owed: Sequence[OutboxEntry]) -> None:
        """Publishes in the background, in the order of the calls. Never blocks, never raises.

        Above ``max_queue`` the sweeper is left to do it: the events are safe where they are.
        """
        if len(self._queue) + len(owed) > self._max_queue:
            return
        self._queue.extend(owed)
        self._in_flight.update(_documents(owed))
        if self._worker is None or self._worker.done():
            # A context of its own: what is published is not part of whichever request happened to be the first.
            self._worker = asyncio.create_task(self._drain(), context=contextvars.Context())

    async def flush(self, owed: Sequence[OutboxEntry]) -> None:
        """Publishes now, for whoever cannot go on before. What the broker raises is raised; the events stay then."""
        if not owed:
            return
        self._in_flight.update(_documents(owed))
        try:
            await self._pay(owed)
        finally:
            self._in_flight -= _documents(owed)

    async def sweep(self) -> int:
        """Publishes what is overdue; returns how many documents owed something and owe it no more."""
        try:
            return await self._sweep()
        finally:
            # Above all while nothing can be published: that is when somebody has to be told.
            oldest = await self._store.oldest()
            age = (self._clock.now() - oldest).total_seconds() if oldest else 0.0
            OUTBOX_AGE.labels(self._name).set(max(0.0, age))

    async def _sweep(self) -> int:
        before = self._clock.now() - timedelta(seconds=self._settings.outbox_delay_seconds)
        swept = 0
        while overdue := await self._store.overdue(before, limit=self._settings.batch_size, without=[*self._in_flight]):
            paid = await self._pay(overdue)
            swept += paid
            SWEPT.labels(f"outbox {self._name}").inc(paid)
            if not paid or len(overdue) < self._settings.batch_size:
                break
        return swept

    async def close(self, deadline: float = 5.0) -> None:
        """Publishes what is queued, within the deadline; the rest is swept by another replica or the next start."""
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=deadline)

    async def _drain(self) -> None:
        while self._queue:
            group = self._queue[: self._max_group]
            del self._queue[: self._max_group]
            try:
                await self._pay(group)
            except BucketlineError as error:
                log.warning("left to the sweeper", outbox=self._name, events=len(group), error=error.message)
            except Exception:
                # the rest of the queue must not stay in flight without a worker
                log.exception("left to the sweeper", outbox=self._name, events=len(group))
            finally:
                self._in_flight -= _documents(group)

    async def _pay(self, owed: Sequence[OutboxEntry]) -> int:
        """How many of them were paid. One that no broker takes stays, is told, and holds up nobody else."""
        try:
            await self._publish(owed)
        except NonRetryableError as error:
            if len(owed) > 1:
                return sum([await self._pay([one]) for one in owed])
            owner = owed[0].document_id
            log.error("an event cannot be published", outbox=self._name, owed_by=owner, error=error.message)
            return 0
        return len(owed)

    async def _publish(self, owed: Sequence[OutboxEntry]) -> None:
        envelopes = [envelope for one in owed for envelope in one.envelopes]
        with start_shared_span(f"publish outbox {self._name}", [envelope.trace for envelope in envelopes]):
            await self._publisher.publish(envelopes)
            await self._store.clear(owed)


def _documents(owed: Sequence[OutboxEntry]) -> Counter[str]:
    return Counter(one.document_id for one in owed)
