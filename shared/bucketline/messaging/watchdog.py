"""Sees that consuming goes on.

A connected client says nothing about progress: after a broker restart a consumer may wait for ever, and a broker that
forgot its data leaves consumers waiting beyond the end of the log. The watchdog compares each consumer's position with
the broker's log. A consumer beyond the end goes back to the beginning; one that does not move although records wait,
or that has stood without an assignment for too long, is started anew; if that does not help either, the service is no
longer live, and whoever runs it restarts it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from bucketline.errors import BucketlineError
from bucketline.messaging.consume import Intake
from bucketline.messaging.topics import ensure_topics
from bucketline.settings import KafkaSettings
from bucketline.telemetry.logging import get_logger
from bucketline.telemetry.metrics import LAG

log = get_logger(__name__)


class Watched(Protocol):
    """A FastStream subscriber."""

    consumer: AIOKafkaConsumer | None

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Stuck(BucketlineError):
    """A consumer does not get on."""


@dataclass
class _State:
    subscriber: Watched
    intake: Intake
    moved_at: float
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    restarts: int = 0


class Watchdog:
    """Watches the consumers of one service; :meth:`step` is run every few seconds.

    ``patience`` is how many seconds a consumer may stand still; ``clock`` counts seconds from anywhere.
    """

    def __init__(
        self, settings: KafkaSettings, *, patience: float = 20.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._patience = patience
        self._clock = clock
        self._states: list[_State] = []

    def watch(self, subscriber: Watched, intake: Intake) -> None:
        self._states.append(_State(subscriber, intake, self._clock()))
        LAG.labels(intake.topic).set(0)

    async def live(self) -> None:
        """Raises :class:`Stuck` when starting a consumer anew did not help."""
        now = self._clock()
        for state in self._states:
            if now - state.moved_at > self._patience * 6:
                raise Stuck(f"{state.intake.topic} does not get on")

    async def ready(self) -> None:
        """Raises :class:`Stuck` while a consumer has never joined its group."""
        for state in self._states:
            if not state.intake.joined:
                raise Stuck(f"{state.intake.topic} has not joined its group")

    async def step(self) -> None:
        if self._settings.create_topics:
            # A broker that keeps its topics in memory forgets them with its restart.
            await ensure_topics(self._settings)
        for state in self._states:
            await self._look_at(state)

    async def _look_at(self, state: _State) -> None:
        consumer = state.subscriber.consumer
        if consumer is None:
            return
        try:
            async with asyncio.timeout(5):
                waiting = await self._compare(state, consumer)
        except (KafkaError, TimeoutError):
            waiting = True
        now = self._clock()
        busy = state.intake.busy_since is not None
        if not waiting or busy:
            state.moved_at, state.restarts = now, 0
            return
        if now - state.moved_at > self._patience * (state.restarts + 1):
            state.restarts += 1
            log.warning("starting a consumer anew", topic=state.intake.topic, restarts=state.restarts)
            await self._restart(state)

    async def _compare(self, state: _State, consumer: AIOKafkaConsumer) -> bool:
        """Whether the consumer should have moved and did not."""
        assigned = consumer.assignment()
        if not assigned:
            # Fewer partitions than members is fine; a member that never heard of its group is not.
            LAG.labels(state.intake.topic).set(0)
            return not state.intake.joined
        # The end as the last answered fetch told it. Asking for end offsets instead is no good here: the local broker
        # answers with the start of its last batch, and any broker's answer is older than a position read after it.
        positions = {partition: await consumer.position(partition) for partition in assigned}
        ends = {partition: consumer.highwater(partition) for partition in assigned}
        for partition, position in positions.items():
            end = ends[partition]
            if end is not None and position > end:
                log.warning(
                    "the broker lost records, reading from the start",
                    topic=partition.topic,
                    partition=partition.partition,
                )
                await consumer.seek_to_beginning(partition)
        lag = sum(max(0, (ends[partition] or 0) - position) for partition, position in positions.items())
        LAG.labels(state.intake.topic).set(lag)
        moved = positions != state.positions
        state.positions = positions
        return lag > 0 and not moved

    async def _restart(self, state: _State) -> None:
        try:
            async with asyncio.timeout(30):
                await state.subscriber.stop()
                await state.subscriber.start()
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("the consumer did not start", topic=state.intake.topic, error=repr(error))
