"""The one way a record is handled.

A micro-batch (whatever has been fetched, up to a limit) goes to the handler, which does its reads and writes in bulk
and must be idempotent: every record may come again. Only after the handler returned is the offset committed.

- A record that cannot be read is parked at once; the others go on. An event of ours whose type is not known is ignored:
  in a rolling upgrade the newer version handles it.
- A handler that fails is tried again with back-off and jitter. If the micro-batch still fails, its records are handled
  one by one, so that only the guilty are parked.
- While a store or the broker is away nothing is parked: the consumer seeks back and tries again, and the lag shows it.
- Whatever else goes wrong is logged, and the micro-batch comes again: nothing is committed that was not dealt with.
- Handling one by one has a time limit, well below the time after which the group takes the partitions away. What is
  left then comes again; what was dealt with before it does not.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Protocol, cast

from aiokafka import AIOKafkaConsumer, TopicPartition

from bucketline.clock import Clock
from bucketline.errors import DependencyUnavailable, NonRetryableError, ProcessingError
from bucketline.events.cloudevents import ReceivedEvent, UnknownEventType, unwrap
from bucketline.kafka.dead_letters import MAX_ERROR, Parking, Reason
from bucketline.kafka.offset_committer import Commits, Record
from bucketline.kafka.retry import Attempts, Handler, RetryPolicy
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import BATCH_SECONDS, BATCH_SIZE, PARKED, RECORDS, RETRIES

log = get_logger(__name__)

MAX_IGNORED = 100
"""Unknown types that are told of in the log, each once."""

FINISH_SECONDS = 5.0
"""How long the others of a group wait for a handler that runs while partitions are given away."""


class Delivery(Protocol):
    """What arrives from FastStream: the first record of a micro-batch and the consumer that fetched it."""

    raw_message: Record
    consumer: AIOKafkaConsumer


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
            records += await self._fetched(records[0], consumer)
        self.busy_since = time.monotonic()
        self._idle.clear()
        try:
            left = await self._dealt_with(records)
            self._settled(records, left, consumer)
        finally:
            self.busy_since = None
            self._idle.set()
        if self._closing:
            await self.settle()
        elif left:
            await asyncio.sleep(self._policy.pause)

    async def _dealt_with(self, records: Sequence[Record]) -> Sequence[Record]:
        """What is left of them when it has to be tried again. Whatever happens, nothing is raised but a cancellation:
        FastStream goes on to the next record after an error, and its commit would pass over these."""
        try:
            with BATCH_SECONDS.labels(self.topic).time():
                return await self.handle(records)
        except DependencyUnavailable as error:
            log.warning("not handled now, trying again", topic=self.topic, records=len(records), error=error.message)
        except Exception:
            log.exception("not handled, trying again", topic=self.topic, records=len(records))
        return records

    def _settled(self, records: Sequence[Record], left: Sequence[Record], consumer: AIOKafkaConsumer) -> None:
        """Commits what was dealt with, and goes back to what was ``left``."""
        again = _firsts(left)
        self._commits.handled([record for record in records if _is_before(record, again)], consumer)
        owned = cast("set[TopicPartition]", consumer.assignment())
        for partition, offset in again.items():
            if partition in owned:
                consumer.seek(partition, offset)

    async def _fetched(self, first: Record, consumer: AIOKafkaConsumer) -> list[Record]:
        """What else is there. What goes wrong with it must not cost the record that is in hand.

        Each partition is asked for its own: an error at one would take with it what was fetched from the others. The
        first goes on where it is, so that they take turns as the fetches came.
        """
        fetched: list[Record] = []
        others = cast("set[TopicPartition]", consumer.assignment()) - {_place(first)}
        try:
            for partition in (_place(first), *others):
                room = self._max_records - 1 - len(fetched)
                if not room:
                    break
                fetched += (await consumer.getmany(partition, timeout_ms=0, max_records=room)).get(partition, [])
        except Exception as error:
            log.warning("nothing more fetched", topic=self.topic, error=repr(error))
        return fetched

    async def handle(self, records: Sequence[Record]) -> Sequence[Record]:
        """Handles, ignores or parks records, and returns those that it did not come to.

        Raises ``DependencyUnavailable`` when none of that is possible now.
        """
        BATCH_SIZE.labels(self.topic).observe(len(records))
        since, until = self._clock.now(), time.monotonic() + self._policy.one_by_one
        readable: list[tuple[Record, ReceivedEvent]] = []
        unreadable: list[tuple[Record, NonRetryableError]] = []
        for record in records:
            try:
                received = unwrap(record.value, record.headers, partition=record.partition, offset=record.offset)
            except UnknownEventType as error:
                self._ignore(error)
            except NonRetryableError as error:
                unreadable.append((record, error))
            else:
                readable.append((record, received))
        left = await self._handle(readable, since, until) if readable else []
        # What stands behind a record that comes again comes again itself, and would be parked twice.
        again = _firsts(left)
        for record, why in unreadable:
            if _is_before(record, again):
                await self._park(record, why, attempts=1, since=since)
        return left

    async def _handle(
        self, readable: Sequence[tuple[Record, ReceivedEvent]], since: datetime, until: float
    ) -> Sequence[Record]:
        if len(readable) == 1:
            await self._handle_one(*readable[0], self._policy, 0, since)
            return []
        tries = Attempts(self._handler, self.topic, self.group, self._policy)
        try:
            await tries.run([received for _, received in readable])
        except DependencyUnavailable:
            raise
        except Exception as error:
            log.warning("handling one by one", topic=self.topic, records=len(readable), error=repr(error))
            return await self._one_by_one(readable, tries.made, since, until)
        RECORDS.labels(self.topic, "handled").inc(len(readable))
        return []

    async def _one_by_one(
        self, readable: Sequence[tuple[Record, ReceivedEvent]], before: int, since: datetime, until: float
    ) -> Sequence[Record]:
        """At least one of them is dealt with, or it raises."""
        policy = replace(self._policy, attempts=2, budget=self._policy.budget / 2)
        for place, (record, received) in enumerate(readable):
            left = [record for record, _ in readable[place:]]
            if place and time.monotonic() >= until:
                log.warning("no time for all of them now", topic=self.topic, left=len(left))
                return left
            try:
                await self._handle_one(record, received, policy, before, since)
            except DependencyUnavailable as error:
                if not place:
                    raise
                log.warning("not all handled now", topic=self.topic, left=len(left), error=error.message)
                return left
        return []

    async def _handle_one(
        self, record: Record, received: ReceivedEvent, policy: RetryPolicy, before: int, since: datetime
    ) -> None:
        """``before``: how often it was tried already, in larger company."""
        tries = Attempts(self._handler, self.topic, self.group, policy)
        try:
            await tries.run([received])
        except DependencyUnavailable:
            raise
        except Exception as error:
            await self._park(record, error, attempts=before + tries.made, since=since)
        else:
            RECORDS.labels(self.topic, "handled").inc()

    def _ignore(self, error: UnknownEventType) -> None:
        """In a rolling upgrade the old version sees many of these; its records are another's to handle."""
        RECORDS.labels(self.topic, "ignored").inc()
        if error.kind not in self._ignored and len(self._ignored) < MAX_IGNORED:
            self._ignored.add(error.kind)
            log.warning("events of a newer version are ignored", topic=self.topic, type=error.kind)

    async def _park(self, record: Record, error: BaseException, *, attempts: int, since: datetime) -> None:
        reason = Reason(error=error, attempts=attempts, group=self.group, first_at=since, at=self._clock.now())
        try:
            await self._parking.park(record, reason)
        except ProcessingError as refused:
            # Neither handled nor parked: it stays where it is, and the lag shows it.
            raise DependencyUnavailable(f"the parking topic cannot be written: {refused.message}") from refused
        log.error(
            "parked a record",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempts=attempts,
            error=repr(error)[:MAX_ERROR],
        )
        RECORDS.labels(self.topic, "parked").inc()

    async def settle(self) -> None:
        """Waits a moment for the commit under way."""
        await self._commits.settle()


def _place(record: Record) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


def _firsts(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """The earliest offset of each partition."""
    earliest: dict[TopicPartition, int] = {}
    for record in records:
        earliest[_place(record)] = min(record.offset, earliest.get(_place(record), record.offset))
    return earliest


def _is_before(record: Record, firsts: Mapping[TopicPartition, int]) -> bool:
    first = firsts.get(_place(record))
    return first is None or record.offset < first
