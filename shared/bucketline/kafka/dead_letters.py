"""Dead letters: write, list, replay and discard records that a service cannot process.

A dead letter is written to ``<topic>.<service>.dlq`` with the original key, value and headers, and the failure context
in additional headers. A record that is larger than the dead-letter topic allows is truncated and marked with the
header :data:`INCOMPLETE`: it does not block its partition, and it cannot be replayed.

A replay publishes a record to the topic that it came from, with its original key, value and headers, and then stores
how far it got. It may be repeated after a crash, and then some records are published twice, which consumers handle.
Records that become dead letters during a replay are left for the next one.

The replay position and the discarded records are stored in MongoDB: a broker forgets the offsets of a group without
members, after a week by default, and dead letters are kept for longer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from bucketline.clock import wire_time
from bucketline.db.job_cursors import BEGINNING, GcCursor, JobCursors
from bucketline.errors import DependencyUnavailable, NonRetryableError, RetryableError
from bucketline.events.cloudevents import CloudEvent
from bucketline.events.topics import dead_letter_topic, dead_letter_topics, original_topic
from bucketline.kafka.admin import check_topics
from bucketline.kafka.client_config import client_options
from bucketline.kafka.publisher import KafkaPublisher, RawHeaders
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import DEAD_LETTERS
from bucketline.settings import KafkaSettings

log = get_logger(__name__)

PREFIX = "dlq-"
INCOMPLETE = f"{PREFIX}incomplete"
"""The header that says why a dead letter is not the whole original record."""

MAX_ERROR = 2000
MAX_TRUNCATED_BYTES = 64 * 1024
"""Bytes kept of the value, the key, and all headers of a record that is too large for the dead-letter topic."""

READ_TIMEOUT_SECONDS = 30.0
MAX_RECORDS = 10_000
PUBLISH_BATCH_SIZE = 100
POLL_MS = 500


@dataclass(frozen=True)
class FailureContext:
    """Why a record became a dead letter, and after how many attempts."""

    error: BaseException
    attempts: int
    group: str
    first_at: datetime
    at: datetime

    def to_headers(self, topic: str, partition: str, offset: str) -> RawHeaders:
        """Return the headers that describe the failure and the original position of the record."""
        context = {
            "original-topic": topic,
            "original-partition": partition,
            "original-offset": offset,
            "consumer-group": self.group,
            "exception-class": type(self.error).__name__,
            "exception-message": str(self.error)[:MAX_ERROR],
            "attempts": str(self.attempts),
            "first-failed-at": wire_time(self.first_at),
            "failed-at": wire_time(self.at),
        }
        return [(PREFIX + name, value.encode(errors="replace")) for name, value in context.items()]


class DeadLetterSink(Protocol):
    """Stores records that cannot be processed."""

    async def send_record(self, record: "ConsumerRecord[bytes, bytes]", context: FailureContext) -> None:
        """Store the record durably. Raises :class:`~bucketline.errors.ProcessingError` when that is not possible."""
        ...


class KafkaDeadLetters:
    """Writes the dead letters of one service, to one topic per consumed topic."""

    def __init__(self, publisher: KafkaPublisher, service: str) -> None:
        self._publisher = publisher
        self._service = service

    async def send_record(self, record: "ConsumerRecord[bytes, bytes]", context: FailureContext) -> None:
        """Write the record to its dead-letter topic, truncated if the broker refuses it as it is."""
        topic = dead_letter_topic(record.topic, self._service)
        failure = context.to_headers(record.topic, str(record.partition), str(record.offset))
        # aiokafka sends nothing that has neither key nor value.
        key = b"" if record.key is None and record.value is None else record.key
        try:
            await self._publisher.publish_raw([(topic, key, record.value, [*record.headers, *failure])])
        except DependencyUnavailable:
            raise
        except Exception as error:
            log.warning("dead letter truncated", topic=record.topic, offset=record.offset, error=repr(error))
            value, headers = _truncate(record, error)
            key = key and key[:MAX_TRUNCATED_BYTES]
            await self._publisher.publish_raw([(topic, key, value, [*headers, *failure])])
        DEAD_LETTERS.labels(record.topic, context.group).inc()

    async def send_event(self, topic: str, event: CloudEvent, context: FailureContext) -> None:
        """Write an event that is to be replayed to ``topic``, for work that outlives the record that caused it.

        Raises :class:`~bucketline.errors.RetryableError` when it may not have been stored.
        """
        headers = [*event.headers(), *context.to_headers(topic, "-", "-")]
        dead_letters = dead_letter_topic(topic, self._service)
        await self._publisher.publish_raw([(dead_letters, event.key.encode(), event.data, headers)])
        DEAD_LETTERS.labels(topic, context.group).inc()


def _truncate(record: "ConsumerRecord[bytes, bytes]", error: Exception) -> tuple[bytes | None, RawHeaders]:
    """Return the value and the headers of a dead letter that is stored instead of the whole record."""
    reason = f"truncated, the value had {len(record.value or b'')} bytes: {error}"[:MAX_ERROR]
    size = sum(len(name) + len(value or b"") for name, value in record.headers)
    headers = record.headers if size <= MAX_TRUNCATED_BYTES else ()
    value = record.value and record.value[:MAX_TRUNCATED_BYTES]
    return value, [*headers, (INCOMPLETE, reason.encode(errors="replace"))]


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter. ``headers`` are those of the original record, ``context`` describes its failure.

    ``at`` is the time in milliseconds at which it was written to the dead-letter topic.
    """

    dead_letter_topic: str
    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders
    context: dict[str, str]
    replayed: bool
    discarded: bool

    @property
    def address(self) -> str:
        """The dead letter's topic, partition and offset."""
        return f"{self.dead_letter_topic}:{self.partition}:{self.offset}"

    @property
    def topic(self) -> str:
        """The topic that the record came from and is replayed to."""
        return self.context.get("original-topic") or original_topic(self.dead_letter_topic)

    @property
    def incomplete(self) -> str | None:
        """Why the original record was not stored whole, so that it cannot be replayed; None if it was."""
        return self.context.get(INCOMPLETE.removeprefix(PREFIX))

    @property
    def type(self) -> str:
        """The type of the event, as far as it can be read."""
        return next((_decode(value) for name, value in self.headers if name == "ce_type"), "")

    @property
    def state(self) -> str:
        """One of ``discarded``, ``incomplete``, ``replayed`` and ``to replay``."""
        if self.discarded:
            return "discarded"
        if self.incomplete is not None:
            return "incomplete"
        return "replayed" if self.replayed else "to replay"


@dataclass
class ReplayReport:
    """Numbers of replayed records by the topic they were published to, and of skipped incomplete records."""

    topics: dict[str, int] = field(default_factory=dict)
    incomplete: int = 0

    @property
    def count(self) -> int:
        """The number of replayed records."""
        return sum(self.topics.values())


@dataclass(frozen=True)
class _Partition:
    """A partition with dead letters: its first offset, its end, the replay position and what was discarded."""

    key: TopicPartition
    first: int
    end: int
    replayed_until: int
    discarded: frozenset[tuple[int, int]]

    @property
    def next_offset(self) -> int:
        """The offset of the first record that was not replayed."""
        return max(self.first, self.replayed_until)

    @property
    def count(self) -> int:
        """The number of records that were neither replayed nor discarded."""
        discarded = {offset for offset, _ in self.discarded if offset >= self.next_offset}
        return max(0, self.end - self.next_offset - len(discarded))


class DeadLetterStore:
    """Works on all dead-letter topics, or on those whose name contains ``topic_filter``.

    Raises :class:`~bucketline.errors.RetryableError` when the broker does not answer, and ``StoreUnavailable`` when
    MongoDB does not.
    """

    def __init__(self, settings: KafkaSettings, cursors: JobCursors, *, topic_filter: str | None = None) -> None:
        self._settings = settings
        self._cursors = cursors
        self._topic_filter = topic_filter

    async def list(self, *, limit: int, include_all: bool = False) -> Sequence[DeadLetter]:
        """Return at most ``limit`` dead letters, in the order of each partition.

        Replayed and discarded ones are included only with ``include_all``.
        """
        rows: list[DeadLetter] = []
        async with self._open() as (consumer, partitions):
            for partition in partitions:
                start = partition.first if include_all else partition.next_offset
                async for row in self._read(consumer, partition, start, limit - len(rows), include_all):
                    rows.append(row)  # noqa: PERF401 - an asynchronous comprehension would hide the limit
        return rows

    async def count(self) -> int:
        """Return how many dead letters were neither replayed nor discarded, from their offsets."""
        async with self._open() as (_, partitions):
            return sum(partition.count for partition in partitions)

    async def get(self, topic: str, partition: int, offset: int) -> DeadLetter | None:
        """Return one dead letter; None if there is none at this address, or no longer."""
        async with self._open() as (consumer, partitions):
            for candidate in partitions:
                if candidate.key == TopicPartition(topic, partition) and candidate.first <= offset < candidate.end:
                    async for row in self._read(consumer, candidate, offset, 1, include_discarded=True):
                        return row if row.offset == offset else None
        return None

    async def replay(self, *, limit: int) -> ReplayReport:
        """Publish at most ``limit`` records to their topics and advance the replay position."""
        report = ReplayReport()
        async with self._open() as (consumer, partitions), KafkaPublisher(self._settings) as publisher:
            for partition in partitions:
                rows: list[DeadLetter] = []
                remaining = limit - report.count - report.incomplete
                async for row in self._read(consumer, partition, partition.next_offset, remaining):
                    rows.append(row)
                    if len(rows) == PUBLISH_BATCH_SIZE:
                        await self._publish(publisher, partition.key, rows, report)
                        rows = []
                await self._publish(publisher, partition.key, rows, report)
        return report

    async def replay_one(self, row: DeadLetter) -> None:
        """Publish one record, whether it was replayed before or not. The replay position does not change.

        Raises :class:`~bucketline.errors.NonRetryableError` for an incomplete record.
        """
        if row.incomplete is not None:
            raise NonRetryableError(f"an incomplete record cannot be replayed: {row.incomplete}")
        async with KafkaPublisher(self._settings) as publisher:
            await publisher.publish_raw([(row.topic, row.key, row.value, row.headers)])

    async def discard(self, row: DeadLetter) -> None:
        """Exclude a dead letter from lists and replays for good. The record stays in its topic until it expires."""
        prefix = _discard_prefix(TopicPartition(row.dead_letter_topic, row.partition))
        await self._cursors.save(f"{prefix}{row.offset}", GcCursor(logged=(row.offset, row.at)))

    async def _publish(
        self, publisher: KafkaPublisher, partition: TopicPartition, rows: Sequence[DeadLetter], report: ReplayReport
    ) -> None:
        if not rows:
            return
        complete = [row for row in rows if row.incomplete is None]
        await publisher.publish_raw([(row.topic, row.key, row.value, row.headers) for row in complete])
        await self._cursors.save(_replay_job(partition), GcCursor(logged=(rows[-1].offset + 1, rows[-1].at)))
        report.incomplete += len(rows) - len(complete)
        for row in complete:
            report.topics[row.topic] = report.topics.get(row.topic, 0) + 1

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[AIOKafkaConsumer, Sequence[_Partition]]]:
        """Yield a consumer and the partitions that it may read."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self._settings.fetch_max_wait_ms,
            request_timeout_ms=self._settings.request_timeout_ms,
        )
        try:
            keys = await self._find_partitions()
            await consumer.start()
            try:
                partitions: list[_Partition] = []
                if keys:
                    consumer.assign(keys)
                    async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                        firsts = await consumer.beginning_offsets(keys)
                        ends = await consumer.end_offsets(keys)
                        partitions = [await self._describe(consumer, key, firsts[key], ends[key]) for key in keys]
                yield consumer, partitions
            finally:
                await consumer.stop()
        except (KafkaError, TimeoutError) as error:
            raise RetryableError(f"the broker did not answer: {type(error).__name__}") from error

    async def _find_partitions(self) -> Sequence[TopicPartition]:
        names = {self._settings.topic_prefix + name for _, _, name in dead_letter_topics()}
        return [
            TopicPartition(state.name, partition)
            for state in await check_topics(self._settings)
            if state.name in names and (self._topic_filter is None or self._topic_filter in state.name)
            for partition in range(state.partitions or 0)
        ]

    async def _describe(self, consumer: AIOKafkaConsumer, key: TopicPartition, first: int, end: int) -> _Partition:
        partition = _Partition(key, first, end, 0, await self._load_discarded(key, first))
        return _Partition(key, first, end, await self._load_position(consumer, partition), partition.discarded)

    async def _load_discarded(self, key: TopicPartition, first: int) -> frozenset[tuple[int, int]]:
        """Return offset and time of the discarded records, and forget those that have expired."""
        discarded: set[tuple[int, int]] = set()
        for job, cursor in await self._cursors.find_by_prefix(_discard_prefix(key), limit=MAX_RECORDS):
            if cursor.logged is not None and cursor.logged[0] >= first:
                discarded.add(cursor.logged)
            else:
                await self._cursors.save(job, BEGINNING)
        return frozenset(discarded)

    async def _load_position(self, consumer: AIOKafkaConsumer, partition: _Partition) -> int:
        """Return the replay position, or 0 if it belongs to a log that the broker has lost since."""
        position = (await self._cursors.get(_replay_job(partition.key))).logged
        if position is None:
            return 0
        offset, at = position
        if offset > partition.end:
            return 0
        async for row in self._read(consumer, partition, max(partition.first, offset - 1), 1, include_discarded=True):
            return offset if row.offset >= offset or row.at == at else 0
        return offset

    async def _read(
        self,
        consumer: AIOKafkaConsumer,
        partition: _Partition,
        start: int,
        limit: int,
        include_discarded: bool = False,
    ) -> AsyncIterator[DeadLetter]:
        remaining = min(limit, MAX_RECORDS)
        if remaining <= 0 or start >= partition.end:
            return
        consumer.seek(partition.key, start)
        while True:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                # Compacted or expired offsets have no record: the position shows that the end is reached.
                while not (batch := await consumer.getmany(partition.key, timeout_ms=POLL_MS)):
                    if await consumer.position(partition.key) >= partition.end:
                        return
            for record in batch[partition.key]:
                if record.offset >= partition.end or remaining <= 0:
                    return
                row = _build_dead_letter(record, partition)
                if include_discarded or not row.discarded:
                    yield row
                    remaining -= 1
            if remaining <= 0 or record.offset + 1 >= partition.end:
                return


def _build_dead_letter(record: "ConsumerRecord[Any, Any]", partition: _Partition) -> DeadLetter:
    context = {
        name.removeprefix(PREFIX): _decode(value)
        for name, value in record.headers
        if name.startswith(PREFIX) and value is not None
    }
    return DeadLetter(
        dead_letter_topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        at=record.timestamp,
        key=record.key,
        value=record.value,
        headers=[(name, value) for name, value in record.headers if not name.startswith(PREFIX)],
        context=context,
        replayed=record.offset < partition.replayed_until,
        discarded=(record.offset, record.timestamp) in partition.discarded,
    )


def _replay_job(partition: TopicPartition) -> str:
    return f"replay {partition.topic}:{partition.partition}"


def _discard_prefix(partition: TopicPartition) -> str:
    return f"discard {partition.topic}:{partition.partition}:"


def _decode(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
