"""Transactional outbox: publishes the events that were stored together with a state change.

The process that wrote an entry publishes it right away and then removes it (:meth:`Outbox.enqueue`). An entry that a
crash or an unavailable broker left behind is published by the reconciler of any replica once it is older than
``outbox_delay_seconds`` (:meth:`Outbox.publish_overdue`). The reconciler skips entries that its own process is still
publishing. An event may therefore be published twice, with the same identity, but it is never lost.
"""

import asyncio
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from bucketline.clock import Clock
from bucketline.db.outbox_store import OutboxEntry, OutboxStore
from bucketline.errors import BucketlineError, NonRetryableError
from bucketline.events.cloudevents import CloudEvent
from bucketline.kafka.publisher import Publisher
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import OUTBOX_AGE, SWEPT
from bucketline.observability.tracing import start_shared_span
from bucketline.periodic import PeriodicTasks
from bucketline.settings import ReconcileSettings

log = get_logger(__name__)


class Outbox:
    """Publishes the outbox entries in the documents of one collection."""

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
        before_publish: Callable[[Sequence[CloudEvent]], Awaitable[None]] | None = None,
    ) -> None:
        """``before_publish`` gets the events first. If it raises, they are published, and passed to it, again later."""
        self._name = name
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._settings = settings
        self._max_group = max_group
        self._max_queue = max_queue
        self._before_publish = before_publish
        self._queue: list[OutboxEntry] = []
        self._in_flight: Counter[str] = Counter()
        self._worker: asyncio.Task[None] | None = None

    def start(self, background: PeriodicTasks) -> None:
        """Publish overdue entries periodically."""
        background.every(self._settings.interval_seconds, f"outbox {self._name}", self.publish_overdue)

    def enqueue(self, entries: Sequence[OutboxEntry]) -> None:
        """Publish the entries in the background, in the order of the calls. Never blocks and never raises.

        If more than ``max_queue`` entries wait, these are left to the reconciler.
        """
        if len(self._queue) + len(entries) > self._max_queue:
            return
        self._queue.extend(entries)
        self._in_flight.update(_document_ids(entries))
        if self._worker is None or self._worker.done():
            # An empty context: the publishing is not part of the request that happened to start it.
            self._worker = asyncio.create_task(self._publish_queue(), context=contextvars.Context())

    async def publish(self, entries: Sequence[OutboxEntry]) -> None:
        """Publish the entries now. If the broker is unavailable, raise its error and keep the entries."""
        if not entries:
            return
        self._in_flight.update(_document_ids(entries))
        try:
            await self._publish_entries(entries)
        finally:
            self._in_flight -= _document_ids(entries)

    async def publish_overdue(self) -> int:
        """Publish the entries that are overdue and return how many were published."""
        published = 0
        try:
            before = self._clock.now() - timedelta(seconds=self._settings.outbox_delay_seconds)
            limit = self._settings.batch_size
            while entries := await self._store.find_overdue(before, limit=limit, without=[*self._in_flight]):
                count = await self._publish_entries(entries)
                published += count
                SWEPT.labels(f"outbox {self._name}").inc(count)
                if not count or len(entries) < limit:
                    break
            return published
        finally:
            # The age matters most while nothing can be published, so it is also updated after an error.
            oldest = await self._store.oldest_pending_since()
            age = (self._clock.now() - oldest).total_seconds() if oldest else 0.0
            OUTBOX_AGE.labels(self._name).set(max(0.0, age))

    async def close(self, deadline: float = 5.0) -> None:
        """Publish the queue within ``deadline`` seconds. The reconciler of another replica publishes the rest."""
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=deadline)

    async def _publish_queue(self) -> None:
        while self._queue:
            group = self._queue[: self._max_group]
            del self._queue[: self._max_group]
            try:
                await self._publish_entries(group)
            except BucketlineError as error:
                log.warning("entries not published", outbox=self._name, entries=len(group), error=error.message)
            except Exception:
                # The rest of the queue must not stay in flight without a worker.
                log.exception("entries not published", outbox=self._name, entries=len(group))
            finally:
                self._in_flight -= _document_ids(group)

    async def _publish_entries(self, entries: Sequence[OutboxEntry]) -> int:
        """Publish the entries and return how many were published.

        An entry that the broker rejects is logged and kept; it does not block the others.
        """
        events = [event for entry in entries for event in entry.events]
        try:
            with start_shared_span(f"publish outbox {self._name}", [event.trace for event in events]):
                if self._before_publish is not None:
                    await self._before_publish(events)
                await self._publisher.publish(events)
                await self._store.clear(entries)
        except NonRetryableError as error:
            if len(entries) > 1:
                return sum([await self._publish_entries([entry]) for entry in entries])
            document_id = entries[0].document_id
            log.error("event rejected", outbox=self._name, document_id=document_id, error=error.message)
            return 0
        return len(entries)


def _document_ids(entries: Sequence[OutboxEntry]) -> Counter[str]:
    return Counter(entry.document_id for entry in entries)
