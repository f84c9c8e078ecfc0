"""Detects consumers that have stopped making progress and restarts them.

A connected client says nothing about progress: after a broker restart a consumer may wait indefinitely, and a broker
that lost its data leaves consumers waiting beyond the end of the log. Each consumer's position is compared with the
broker's log. A consumer beyond the end goes back to the beginning; one that does not move although records wait, or
that has been outside its group for too long, is restarted. If that does not help either, or a subscriber has not
returned when the group reassigns its partitions, the service reports itself as not live.

A group that rebalances waits for a member that was killed until its session is over. No member moves then, and a
restart would only cause another rebalance, so the time limit is longer by a session.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faststream.kafka.subscriber.usecase import BatchSubscriber
from structlog.contextvars import bound_contextvars

from bucketline.errors import BucketlineError
from bucketline.kafka.admin import ensure_topics
from bucketline.kafka.batch_consumer import BatchConsumer
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import JOINED, LAG
from bucketline.settings import KafkaSettings

log = get_logger(__name__)

ANSWER_SECONDS = 3.0
RESTART_SECONDS = 30.0
MAX_POLL_SECONDS = 300.0
"""How long a micro-batch may take. A consumer that asks for no record for longer is removed from its group."""


class ConsumerStalled(BucketlineError):
    """A consumer has stopped making progress."""


@dataclass
class _State:
    subscriber: BatchSubscriber
    topic: str
    moved_at: float
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    restarts: int = 0
    starting: bool = False

    @property
    def consumer(self) -> BatchConsumer | None:
        """The current consumer of the subscriber, which our broker has created."""
        return cast("BatchConsumer | None", self.subscriber.consumer)

    @property
    def busy_since(self) -> float | None:
        return self.consumer.busy_since if self.consumer else None

    @property
    def joined(self) -> bool:
        return self.consumer is not None and self.consumer.joined

    @property
    def settled(self) -> bool:
        """Whether the consumer is a member of its group, and the group is not rebalancing."""
        return self.consumer is not None and self.consumer.joined and not self.consumer.rebalancing


class ConsumerMonitor:
    """Starts the consumers of one service and monitors them. :meth:`step` is run every few seconds.

    ``ping`` raises while no broker can be reached: restarting consumers does not help then. A consumer may make no
    progress for ``stall_seconds``; ``clock`` is a monotonic time in seconds.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        ping: Callable[[], Awaitable[None]],
        *,
        stall_seconds: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._ping = ping
        self._stall_seconds = stall_seconds
        self._session = settings.session_timeout_ms / 1000
        self._clock = clock
        self._states: list[_State] = []

    def watch(self, subscriber: BatchSubscriber) -> None:
        """Monitor the consumer of a subscriber."""
        (topic,) = subscriber.topic_names
        self._states.append(_State(subscriber, topic, self._clock()))
        LAG.labels(topic).set(0)
        JOINED.labels(topic).set(0)

    async def live(self) -> None:
        """Raise :class:`ConsumerStalled` when restarting a consumer did not help, or a subscriber does not return."""
        now = self._clock()
        for state in self._states:
            if self._is_hung(state):
                raise ConsumerStalled(f"the subscriber of {state.topic} does not return")
            if now - state.moved_at > self._stall_seconds * 6 + self._session:
                raise ConsumerStalled(f"the consumer of {state.topic} makes no progress")

    async def ready(self) -> None:
        """Raise :class:`ConsumerStalled` while a consumer has not joined its group."""
        for state in self._states:
            if not state.joined:
                raise ConsumerStalled(f"the consumer of {state.topic} has not joined its group")

    async def start(self) -> None:
        """Start all consumers concurrently; one that does not start is restarted later."""
        await asyncio.gather(*map(self._start, self._states))

    async def step(self) -> None:
        """Check every consumer, and restart those that have stalled."""
        is_reachable = await self._is_broker_reachable()
        for state in self._states:
            JOINED.labels(state.topic).set(is_reachable and self._is_member(state))
        if not is_reachable:
            for state in self._states:
                state.moved_at, state.restarts = self._clock(), 0
            return
        if self._settings.create_topics:
            # A broker that keeps its topics in memory forgets them when it restarts.
            await ensure_topics(self._settings)
        for state in self._states:
            await self._check(state)

    def _is_hung(self, state: _State) -> bool:
        since = state.busy_since
        return since is not None and self._clock() - since > MAX_POLL_SECONDS

    def _is_member(self, state: _State) -> bool:
        return state.settled and not self._is_hung(state)

    async def _check(self, state: _State) -> None:
        stalled = True
        if (consumer := state.consumer) is not None:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(2 * ANSWER_SECONDS):
                    stalled = await self._has_stalled(state, consumer)
        now = self._clock()
        busy = state.starting or state.busy_since is not None
        if not stalled or busy:
            state.moved_at, state.restarts = now, 0
            return
        limit = self._stall_seconds if state.settled else self._stall_seconds + self._session
        if now - state.moved_at > limit * (state.restarts + 1):
            state.restarts += 1
            log.warning("consumer restarted", topic=state.topic, restarts=state.restarts)
            await self._restart(state)

    async def _has_stalled(self, state: _State, consumer: BatchConsumer) -> bool:
        """Return whether records wait and the consumer has not moved. Update the lag."""
        assigned = consumer.assignment()
        if not assigned:
            # Fewer partitions than members is fine; a member that has not joined its group is not.
            LAG.labels(state.topic).set(0)
            return not state.joined
        # There are two sources for the end of the log. The last fetch is exact, but old once fetching hangs. A request
        # is current, although the local broker returns the start of its last batch. Its result is older than the
        # position that is read after it, so it never shows a lag that does not exist.
        ends = await self._ends(consumer, assigned)
        positions = {partition: await consumer.position(partition) for partition in assigned}
        fetched = {partition: consumer.highwater(partition) for partition in assigned}
        for partition, position in positions.items():
            end = fetched[partition]
            if end is not None and position > end:
                log.warning(
                    "log truncated, reading from the start",
                    topic=partition.topic,
                    partition=partition.partition,
                )
                await consumer.seek_to_beginning(partition)
        lag = sum(max(0, (fetched[key] or 0) - offset, ends.get(key, 0) - offset) for key, offset in positions.items())
        LAG.labels(state.topic).set(lag)
        moved = positions != state.positions
        state.positions = positions
        return lag > 0 and not moved

    async def _ends(self, consumer: BatchConsumer, assigned: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the ends of the log according to the broker, or nothing while it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return dict(await consumer.end_offsets(assigned))
        except (KafkaError, TimeoutError):
            return {}

    async def _is_broker_reachable(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._ping()
        except (BucketlineError, KafkaError, TimeoutError, OSError):
            return False
        return True

    async def _restart(self, state: _State) -> None:
        await self._stop(state)
        await self._start(state)

    async def _start(self, state: _State) -> None:
        state.starting = True
        try:
            # FastStream and aiokafka log from tasks of their own without a topic; those inherit this context.
            with bound_contextvars(consumes=state.topic):
                async with asyncio.timeout(RESTART_SECONDS + self._session):
                    await state.subscriber.start()
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("consumer not started", topic=state.topic, error=repr(error))
            await self._stop(state)
        finally:
            state.starting = False

    async def _stop(self, state: _State) -> None:
        try:
            async with asyncio.timeout(RESTART_SECONDS):
                await state.subscriber.stop()
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("consumer not stopped", topic=state.topic, error=repr(error))
            if state.consumer is not None:
                state.consumer.joined = False
