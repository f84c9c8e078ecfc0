"""The one way a record is handled.

A micro-batch (whatever has been fetched, up to a limit) goes to the handler, which does its reads and writes in bulk
and must be idempotent: every record may come again. Only after the handler returned is the offset committed.

- A record that cannot be read is parked at once; the others go on. An event of ours whose type is not known is ignored:
  in a rolling upgrade the newer version handles it.
- A handler that fails is tried again with back-off and jitter. If the micro-batch still fails, its records are handled
  one by one, so that only the guilty are parked.
- While a store or the broker is away nothing is parked: the consumer seeks back and tries again, and the lag shows it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from bucketline.clock import Clock
from bucketline.errors import BucketlineError, Poison, RecordError, StoreUnavailable
from bucketline.events.envelope import Received, UnknownType, unwrap
from bucketline.messaging.commits import Commits, Record
from bucketline.messaging.parking import LONGEST_ERROR, Parking, Reason
from bucketline.telemetry.logging import get_logger
from bucketline.telemetry.messages import processing
from bucketline.telemetry.metrics import BATCH_SECONDS, BATCH_SIZE, PARKED, RECORDS, RETRIES

log = get_logger(__name__)

MOST_IGNORED = 100
"""Unknown types that are told of in the log, each once."""

FINISH_SECONDS = 5.0
"""How long the others of a group wait for a handler that runs while partitions are given away."""

Handler = Callable[[Sequence[Received]], Awaitable[None]]
"""Handles records in their order; all or nothing is not required, idempotence is. Events of no use are ignored."""


class Delivery(Protocol):
    """What arrives from FastStream: the first record of a micro-batch and the consumer that fetched it."""

    raw_message: Record
    consumer: AIOKafkaConsumer


@dataclass(frozen=True)
class RetryPolicy:
    """How long a failing micro-batch is tried: at most ``attempts`` times and ``budget`` seconds."""

    attempts: int = 5
    budget: float = 20.0
    first_wait: float = 0.1
    longest_wait: float = 5.0


class Intake:
    """Handles one topic for one consumer group."""

    def __init__(
        self,
        topic: str,
        group: str,
        handler: Handler,
        *,
        parking: Parking,
        clock: Clock,
        policy: RetryPolicy,
        max_records: int,
    ) -> None:
        self.topic = topic
        self.group = group
        self._handler = handler
        self._parking = parking
        self._clock = clock
        self._policy = policy
        self._max_records = max_records
        self._commits = Commits(topic)
        self._ignored: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self.busy_since: float | None = None
        self.joined = False
        self.rebalancing = False
        # A counter that first appears with its first increase is an increase that no alert sees.
        PARKED.labels(topic, group)
        RETRIES.labels(topic)
        for outcome in ("handled", "ignored", "parked"):
            RECORDS.labels(topic, outcome)

    def assigned(self) -> None:
        """The group has told this consumer its share, which may be nothing."""
        self.joined, self.rebalancing = True, False

    async def revoked(self) -> None:
        """The group shares out anew: what is handled is committed first, a handler that runs has a few seconds."""
        self.rebalancing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                await self._idle.wait()
        await self.settle()

    def left(self) -> None:
        """The consumer is gone, and another is about to start: it commits nothing more, and is in no group."""
        self.joined = self.rebalancing = False
        self._commits.forget()

    async def closing(self) -> None:
        """From now on a micro-batch ends with its commit: nobody waits for a commit once the consumer has stopped."""
        self._closing = True
        await self.settle()

    async def __call__(self, delivery: Delivery) -> None:
        """Handles the delivered record and every other that has been fetched with it, then commits."""
        consumer = delivery.consumer
        records = [delivery.raw_message]
        if self._max_records > 1:
            records += await self._fetched(consumer)
        self.busy_since = time.monotonic()
        self._idle.clear()
        try:
            with BATCH_SECONDS.labels(self.topic).time():
                await self.handle(records)
        except StoreUnavailable as error:
            log.warning("not handled now, trying again", topic=self.topic, records=len(records), error=error.message)
            _rewind(consumer, records)
        else:
            self._commits.handled(records, consumer)
        finally:
            self.busy_since = None
            self._idle.set()
        if self._closing:
            await self.settle()

    async def _fetched(self, consumer: AIOKafkaConsumer) -> list[Record]:
        """What else is there. What the group coordinator complains of must not cost the record that is in hand."""
        try:
            fetched = await consumer.getmany(timeout_ms=0, max_records=self._max_records - 1)
        except KafkaError as error:
            log.warning("nothing more fetched", topic=self.topic, error=repr(error))
            return []
        return [record for found in fetched.values() for record in found]

    async def handle(self, records: Sequence[Record]) -> None:
        """Handles, ignores or parks every record. Raises ``StoreUnavailable`` when none of that is possible now."""
        BATCH_SIZE.labels(self.topic).observe(len(records))
        since = self._clock.now()
        readable: list[tuple[Record, Received]] = []
        for record in records:
            try:
                received = unwrap(record.value, record.headers, partition=record.partition, offset=record.offset)
            except UnknownType as error:
                self._ignore(error)
            except Poison as error:
                await self._park(record, error, attempts=1, since=since)
            else:
                readable.append((record, received))
        if readable:
            await self._handle(readable, self._policy, since)

    async def _handle(
        self, readable: Sequence[tuple[Record, Received]], policy: RetryPolicy, since: datetime, before: int = 0
    ) -> None:
        """``before``: how often these records were tried already, in larger company."""
        tries = _Tries()
        try:
            await self._attempt([received for _, received in readable], policy, tries)
        except StoreUnavailable:
            raise
        except Exception as error:
            attempts = before + tries.made
            if len(readable) == 1:
                await self._park(readable[0][0], error, attempts=attempts, since=since)
                return
            log.warning("handling one by one", topic=self.topic, records=len(readable), error=repr(error))
            alone = replace(policy, attempts=2, budget=policy.budget / 2)
            for one in readable:
                await self._handle([one], alone, since, attempts)
        else:
            RECORDS.labels(self.topic, "handled").inc(len(readable))
        finally:
            RETRIES.labels(self.topic).inc(max(0, tries.made - 1))

    async def _attempt(self, received: Sequence[Received], policy: RetryPolicy, tries: "_Tries") -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_again),
            stop=stop_after_attempt(policy.attempts) | stop_after_delay(policy.budget),
            wait=wait_random_exponential(multiplier=policy.first_wait, max=policy.longest_wait),
            reraise=True,
        ):
            with attempt, processing(self.topic, self.group, received) as traced:
                tries.made += 1
                try:
                    await self._handler(traced)
                except ExceptionGroup as group:
                    raise _decisive(group) from group

    def _ignore(self, error: UnknownType) -> None:
        """In a rolling upgrade the old version sees many of these; its records are another's to handle."""
        RECORDS.labels(self.topic, "ignored").inc()
        if error.kind not in self._ignored and len(self._ignored) < MOST_IGNORED:
            self._ignored.add(error.kind)
            log.warning("events of a newer version are ignored", topic=self.topic, type=error.kind)

    async def _park(self, record: Record, error: BaseException, *, attempts: int, since: datetime) -> None:
        reason = Reason(error=error, attempts=attempts, group=self.group, first_at=since, at=self._clock.now())
        log.error(
            "parked a record",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempts=attempts,
            error=repr(error)[:LONGEST_ERROR],
        )
        try:
            await self._parking.park(record, reason)
        except RecordError as refused:
            # Neither handled nor parked: it stays where it is, and the lag shows it.
            raise StoreUnavailable(f"the parking topic cannot be written: {refused.message}") from refused
        RECORDS.labels(self.topic, "parked").inc()

    async def settle(self) -> None:
        """Waits a moment for the commit under way."""
        await self._commits.settle()


@dataclass
class _Tries:
    """How often a handler was called."""

    made: int = 0


def _decisive(group: ExceptionGroup[Exception]) -> Exception:
    """The error that decides when a handler's tasks failed side by side: a store that is away before all others."""
    away = group.subgroup(StoreUnavailable)
    found: Exception = away or group
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found


def _again(error: BaseException) -> bool:
    if isinstance(error, BucketlineError):
        return error.retry_class == "retry"
    return isinstance(error, Exception)


def _rewind(consumer: AIOKafkaConsumer, records: Sequence[Record]) -> None:
    earliest: dict[TopicPartition, int] = {}
    for record in records:
        partition = TopicPartition(record.topic, record.partition)
        earliest[partition] = min(record.offset, earliest.get(partition, record.offset))
    owned = cast("set[TopicPartition]", consumer.assignment())
    for partition, offset in earliest.items():
        if partition in owned:
            consumer.seek(partition, offset)
