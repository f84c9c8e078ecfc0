"""The one way a record is handled.

A micro-batch (whatever has been fetched, up to a limit) goes to the handler, which does its reads and writes in bulk
and must be idempotent: every record may come again. Only after the handler returned is the offset committed.

- A record that cannot be read is parked at once; the others go on.
- A handler that fails is tried again with back-off and jitter. If the micro-batch still fails, its records are handled
  one by one, so that only the guilty are parked.
- While a store is away nothing is parked: the consumer seeks back and tries again, and the lag shows it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, cast

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from bucketline.clock import Clock
from bucketline.errors import BucketlineError, Poison, StoreUnavailable, Transient
from bucketline.events.catalog import Event
from bucketline.events.envelope import Received, unwrap
from bucketline.messaging.parking import Parking, Reason
from bucketline.telemetry.logging import get_logger
from bucketline.telemetry.messages import processing
from bucketline.telemetry.metrics import BATCH_SECONDS, BATCH_SIZE, RECORDS, RETRIES

log = get_logger(__name__)

Record: TypeAlias = "ConsumerRecord[bytes, bytes]"
Handler = Callable[[Sequence[Received]], Awaitable[None]]
"""Handles records in their order; all or nothing is not required, idempotence is. Events of unknown use are ignored."""


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
        self._offsets: dict[TopicPartition, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self.busy_since: float | None = None
        self.joined = False

    def assigned(self) -> None:
        """The group has told this consumer its share, which may be nothing."""
        self.joined = True

    async def __call__(self, delivery: Delivery) -> None:
        """Handles the delivered record and every other that has been fetched with it, then commits."""
        consumer = delivery.consumer
        records = [delivery.raw_message]
        if self._max_records > 1:
            fetched = await consumer.getmany(timeout_ms=0, max_records=self._max_records - 1)
            records += [record for found in fetched.values() for record in found]
        self.busy_since = time.monotonic()
        try:
            with BATCH_SECONDS.labels(self.topic).time():
                await self.handle(records)
        except StoreUnavailable as error:
            log.warning("a store is away, trying again", topic=self.topic, records=len(records), error=error.message)
            _rewind(consumer, records)
            return
        finally:
            self.busy_since = None
        for record in records:
            self._offsets[TopicPartition(record.topic, record.partition)] = record.offset + 1
        self._commit_soon(consumer)

    async def handle(self, records: Sequence[Record]) -> None:
        """Handles or parks every record. Raises ``StoreUnavailable`` when neither is possible now."""
        BATCH_SIZE.labels(self.topic).observe(len(records))
        readable: list[tuple[Record, Received]] = []
        for record in records:
            try:
                readable.append((record, unwrap(record.value, record.headers)))
            except Poison as error:
                await self._park(record, error, attempts=1)
        if readable:
            await self._handle(readable, self._policy)

    async def _handle(self, readable: Sequence[tuple[Record, Received]], policy: RetryPolicy) -> None:
        try:
            attempts = await self._attempt([received for _, received in readable], policy)
        except StoreUnavailable:
            raise
        except Exception as error:
            if len(readable) == 1:
                await self._park(readable[0][0], error, attempts=policy.attempts if _again(error) else 1)
                return
            log.warning("handling one by one", topic=self.topic, records=len(readable), error=repr(error))
            alone = replace(policy, attempts=2, budget=policy.budget / 2)
            for one in readable:
                await self._handle([one], alone)
        else:
            RECORDS.labels(self.topic, "handled").inc(len(readable))
            if attempts > 1:
                RETRIES.labels(self.topic).inc(attempts - 1)

    async def _attempt(self, received: Sequence[Received], policy: RetryPolicy) -> int:
        attempts = 0
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_again),
            stop=stop_after_attempt(policy.attempts) | stop_after_delay(policy.budget),
            wait=wait_random_exponential(multiplier=policy.first_wait, max=policy.longest_wait),
            reraise=True,
        ):
            with attempt, processing(self.topic, self.group, received) as traced:
                attempts += 1
                await self._handler(traced)
        return attempts

    async def _park(self, record: Record, error: BaseException, *, attempts: int) -> None:
        now = self._clock.now()
        reason = Reason(error=error, attempts=attempts, group=self.group, first_at=now, at=now)
        log.error(
            "parked a record",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempts=attempts,
            error=repr(error),
        )
        try:
            await self._parking.park(record, reason)
        except Transient as away:
            raise StoreUnavailable("the parking topic cannot be written") from away
        RECORDS.labels(self.topic, "parked").inc()

    def _commit_soon(self, consumer: AIOKafkaConsumer) -> None:
        """One commit is under way at a time; what is handled meanwhile goes into the next."""
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit(consumer))

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        while self._offsets:
            owned = consumer.assignment()
            offsets = {partition: offset for partition, offset in self._offsets.items() if partition in owned}
            self._offsets.clear()
            if not offsets:
                return
            try:
                await consumer.commit(offsets)
            except KafkaError as error:
                # The effects stay, the records come again, and being idempotent they change nothing.
                log.info("offsets not committed", topic=self.topic, error=type(error).__name__)
                return

    async def settle(self) -> None:
        """Waits for the commit under way: before partitions are given away, and at the end."""
        if self._committing is not None:
            await asyncio.wait([self._committing], timeout=5)


def only(kinds: tuple[type[Event], ...], records: Sequence[Received]) -> list[Received]:
    """The records whose event is of one of these kinds."""
    return [record for record in records if isinstance(record.event, kinds)]


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
