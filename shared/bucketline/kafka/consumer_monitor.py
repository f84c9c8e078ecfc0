"""Sees that consuming goes on.

A connected client says nothing about progress: after a broker restart a consumer may wait for ever, and a broker that
forgot its data leaves consumers waiting beyond the end of the log. The watchdog compares each consumer's position with
the broker's log. A consumer beyond the end goes back to the beginning; one that does not move although records wait,
or that has stood outside its group for too long, is started anew; if that does not help either, or a handler has not
returned when the group gives its records to another, the service is no longer live, and whoever runs it restarts it.

A group that shares out its partitions waits for a member that was killed until its session is over. Nobody moves then,
and starting anew would only make the group share out again, so patience is longer by a session.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from structlog.contextvars import bound_contextvars

from bucketline.errors import BucketlineError
from bucketline.kafka.batch_consumer import Intake
from bucketline.kafka.retry import MAX_POLL
from bucketline.kafka.topic_admin import ensure_topics
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import JOINED, LAG
from bucketline.settings import KafkaSettings

log = get_logger(__name__)

ANSWER_SECONDS = 3.0
RESTART_SECONDS = 30.0


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
    starting: bool = False


class Watchdog:
    """Starts the consumers of one service and watches them; :meth:`step` is run every few seconds.

    ``answers`` raises while no broker can be reached: then nobody gets on, and no new start and no restart helps.
    ``patience`` is how many seconds a consumer may stand still; ``clock`` counts seconds from anywhere.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        answers: Callable[[], Awaitable[None]],
        *,
        patience: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._answers = answers
        self._patience = patience
        self._session = settings.session_timeout_ms / 1000
        self._clock = clock
        self._states: list[_State] = []

    def watch(self, subscriber: Watched, intake: Intake) -> None:
        self._states.append(_State(subscriber, intake, self._clock()))
        LAG.labels(intake.topic).set(0)
        JOINED.labels(intake.topic).set(0)

    async def live(self) -> None:
        """Raises :class:`Stuck` when starting a consumer anew did not help, or a handler does not return."""
        now = self._clock()
        for state in self._states:
            if self._is_hung(state):
                raise Stuck(f"a handler of {state.intake.topic} does not return")
            if now - state.moved_at > self._patience * 6 + self._session:
                raise Stuck(f"{state.intake.topic} does not get on")

    async def ready(self) -> None:
        """Raises :class:`Stuck` while a consumer has not joined its group."""
        for state in self._states:
            if not state.intake.joined:
                raise Stuck(f"{state.intake.topic} has not joined its group")

    async def start(self) -> None:
        """Starts all consumers side by side; one that does not start is started anew later."""
        await asyncio.gather(*map(self._start, self._states))

    async def step(self) -> None:
        answers = await self._broker_answers()
        for state in self._states:
            JOINED.labels(state.intake.topic).set(answers and self._is_member(state))
        if not answers:
            for state in self._states:
                state.moved_at, state.restarts = self._clock(), 0
            return
        if self._settings.create_topics:
            # A broker that keeps its topics in memory forgets them with its restart.
            await ensure_topics(self._settings)
        for state in self._states:
            await self._look_at(state)

    def _is_hung(self, state: _State) -> bool:
        since = state.intake.busy_since
        return since is not None and self._clock() - since > MAX_POLL

    def _is_member(self, state: _State) -> bool:
        settled = state.intake.joined and not state.intake.rebalancing
        return settled and state.subscriber.consumer is not None and not self._is_hung(state)

    async def _look_at(self, state: _State) -> None:
        waiting = True
        if (consumer := state.subscriber.consumer) is not None:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(2 * ANSWER_SECONDS):
                    waiting = await self._compare(state, consumer)
        now = self._clock()
        busy = state.starting or state.intake.busy_since is not None
        if not waiting or busy:
            state.moved_at, state.restarts = now, 0
            return
        settled = state.intake.joined and not state.intake.rebalancing
        patience = self._patience if settled else self._patience + self._session
        if now - state.moved_at > patience * (state.restarts + 1):
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
        # Two opinions of where the log ends. What the last answered fetch told is exact, and old once fetching hangs.
        # The other is asked for: the local broker answers with the start of its last batch, and any broker's answer
        # is older than a position that is read after it, so it never makes a lag that is not there.
        asked = await self._ends(consumer, assigned)
        positions = {partition: await consumer.position(partition) for partition in assigned}
        told = {partition: consumer.highwater(partition) for partition in assigned}
        for partition, position in positions.items():
            end = told[partition]
            if end is not None and position > end:
                log.warning(
                    "the broker lost records, reading from the start",
                    topic=partition.topic,
                    partition=partition.partition,
                )
                await consumer.seek_to_beginning(partition)
        lag = sum(max(0, (told[at] or 0) - position, asked.get(at, 0) - position) for at, position in positions.items())
        LAG.labels(state.intake.topic).set(lag)
        moved = positions != state.positions
        state.positions = positions
        return lag > 0 and not moved

    async def _ends(self, consumer: AIOKafkaConsumer, assigned: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the broker says that the log ends; nothing while it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found: dict[TopicPartition, int] = await consumer.end_offsets(assigned)
        except (KafkaError, TimeoutError):
            return {}
        return found

    async def _broker_answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._answers()
        except (BucketlineError, KafkaError, TimeoutError, OSError):
            return False
        return True

    async def _restart(self, state: _State) -> None:
        await self._stop(state)
        await self._start(state)

    async def _start(self, state: _State) -> None:
        state.starting = True
        try:
            # What FastStream and aiokafka log from its tasks names no topic; their context is the one they begin in.
            with bound_contextvars(consumes=state.intake.topic):
                async with asyncio.timeout(RESTART_SECONDS + self._session):
                    await state.subscriber.start()
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("the consumer did not start", topic=state.intake.topic, error=repr(error))
            await self._stop(state)
        finally:
            state.starting = False

    async def _stop(self, state: _State) -> None:
        try:
            async with asyncio.timeout(RESTART_SECONDS):
                await state.subscriber.stop()
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("the consumer did not stop", topic=state.intake.topic, error=repr(error))
        state.intake.left()
