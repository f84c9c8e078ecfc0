"""Looking at parked records, and sending them on their way again.

A replay publishes a record to the topic it came from, with its own key, value and headers, and then remembers how far
it got. It may therefore be repeated after a crash, and then some records come twice, which consumers are made for. What
is parked during a replay is left for the next. A record that was not parked whole is told of and not sent.

The place of the replays is kept in MongoDB: a broker forgets what a group without members has read, after a week by
default, and parked records are kept for longer. Replays of before left their place with the broker, where it still
counts until there is one of ours.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from bucketline.db.job_cursors import GcCursor, JobCursors
from bucketline.errors import NonRetryableError, RetryableError
from bucketline.events.topics import parked_from, parking_topics
from bucketline.kafka.client_config import client_options
from bucketline.kafka.dead_letters import INCOMPLETE, PREFIX
from bucketline.kafka.publisher import KafkaPublisher, RawHeaders
from bucketline.kafka.topic_admin import check_topics
from bucketline.settings import KafkaSettings

GROUP = "parked.replay"
DEADLINE = 30.0
"""Seconds in which the next records must come; a broker that is slower than this is taken for absent."""

MOST = 10_000
TOGETHER = 100
_WAIT_MS = 500


@dataclass(frozen=True)
class Parked:
    """A parked record. ``context`` is what was noted when it was parked; ``headers`` are the record's own; ``at`` (ms)
    is when it was parked, as the log has it."""

    parking: str
    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders
    context: dict[str, str]
    replayed: bool

    @property
    def topic(self) -> str:
        """Where it came from and goes back to."""
        return self.context.get("topic") or parked_from(self.parking)

    @property
    def incomplete(self) -> str | None:
        """Why this is not all of the record, if so: then it cannot be sent on its way again."""
        return self.context.get(INCOMPLETE.removeprefix(PREFIX))

    @property
    def type(self) -> str:
        """The event's type, as far as it can be read."""
        return next((_text(value) for name, value in self.headers if name == "ce_type"), "")


@dataclass
class Replayed:
    """How many records a replay sent, by the topic they went to, and how many it passed: they are incomplete."""

    topics: dict[str, int] = field(default_factory=dict)
    passed: int = 0

    @property
    def count(self) -> int:
        return sum(self.topics.values())


class ParkedRecords:
    """Raises :class:`~bucketline.errors.RetryableError` when the broker does not answer, ``StoreUnavailable`` when
    MongoDB
    does not.

    ``only`` limits everything to parking topics whose name contains it.
    """

    def __init__(self, settings: KafkaSettings, places: JobCursors, *, only: str | None = None) -> None:
        self._settings = settings
        self._places = places
        self._only = only

    async def waiting(self, *, limit: int, replayed: bool = False) -> Sequence[Parked]:
        """At most ``limit`` records that wait for a replay, oldest first a topic; with ``replayed`` all there are."""
        async with self._reader() as (consumer, places):
            rows: list[Parked] = []
            for partition, (first, done, end) in places.items():
                start = first if replayed else max(first, done)
                async for row in self._read(consumer, partition, start, end, done, limit - len(rows)):
                    rows.append(row)  # noqa: PERF401 - an asynchronous comprehension would hide the limit
            return rows

    async def get(self, parking: str, partition: int, offset: int) -> Parked | None:
        """One record; None if there is none at this place, or not any more."""
        async with self._reader() as (consumer, places):
            for found, (first, done, end) in places.items():
                if found == TopicPartition(parking, partition) and first <= offset < end:
                    async for row in self._read(consumer, found, offset, offset + 1, done, 1):
                        return row
            return None

    async def replay(self, *, limit: int) -> Replayed:
        """Sends at most ``limit`` waiting records back to their topics."""
        outcome = Replayed()
        async with self._reader() as (consumer, places), KafkaPublisher(self._settings) as publisher:
            for partition, (first, done, end) in places.items():
                rows: list[Parked] = []
                left = limit - outcome.count - outcome.passed
                async for row in self._read(consumer, partition, max(first, done), end, done, left):
                    rows.append(row)
                    if len(rows) == TOGETHER:
                        await self._send(publisher, partition, rows, outcome)
                        rows = []
                await self._send(publisher, partition, rows, outcome)
        return outcome

    async def replay_one(self, row: Parked) -> None:
        """Sends one record back, whether it was replayed before or not; the place of the next replay stays.

        Raises :class:`~bucketline.errors.NonRetryableError` for one that is incomplete.
        """
        if row.incomplete is not None:
            raise NonRetryableError(f"this record was not parked whole: {row.incomplete}")
        async with KafkaPublisher(self._settings) as publisher:
            await publisher.publish_raw([(row.topic, row.key, row.value, row.headers)])

    async def _send(
        self, publisher: KafkaPublisher, partition: TopicPartition, rows: Sequence[Parked], outcome: Replayed
    ) -> None:
        if not rows:
            return
        whole = [row for row in rows if row.incomplete is None]
        await publisher.publish_raw([(row.topic, row.key, row.value, row.headers) for row in whole])
        await self._places.put(_work(partition), GcCursor(logged=(rows[-1].offset + 1, rows[-1].at)))
        outcome.passed += len(rows) - len(whole)
        for row in whole:
            outcome.topics[row.topic] = outcome.topics.get(row.topic, 0) + 1

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[tuple[AIOKafkaConsumer, dict[TopicPartition, tuple[int, int, int]]]]:
        """A consumer, and of each parking partition: its first offset, the replays' place, and its end."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            group_id=f"{self._settings.group_prefix}{GROUP}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self._settings.fetch_max_wait_ms,
            request_timeout_ms=self._settings.request_timeout_ms,
        )
        try:
            partitions = await self._partitions()
            await consumer.start()
            try:
                places: dict[TopicPartition, tuple[int, int, int]] = {}
                if partitions:
                    consumer.assign(partitions)
                    async with asyncio.timeout(DEADLINE):
                        firsts = await consumer.beginning_offsets(partitions)
                        ends = await consumer.end_offsets(partitions)
                        for partition in partitions:
                            first, end = firsts[partition], ends[partition]
                            places[partition] = first, await self._done(consumer, partition, first, end), end
                yield consumer, places
            finally:
                await consumer.stop()
        except (KafkaError, TimeoutError) as error:
            raise RetryableError(f"the broker did not answer: {type(error).__name__}") from error

    async def _done(self, consumer: AIOKafkaConsumer, partition: TopicPartition, first: int, end: int) -> int:
        """The place of the replays in this very log: a broker that lost its data begins another under the same name."""
        place = (await self._places.get(_work(partition))).logged
        if place is None:
            committed: int = await consumer.committed(partition) or 0
            return committed if committed <= end else 0
        done, at = place
        if done > end:
            return 0
        async for row in self._read(consumer, partition, max(first, done - 1), done, done, 1):
            return done if row.at == at else 0
        return done

    async def _partitions(self) -> list[TopicPartition]:
        names = {self._settings.topic_prefix + name for _, _, name in parking_topics()}
        return [
            TopicPartition(state.name, partition)
            for state in await check_topics(self._settings)
            if state.name in names and (self._only is None or self._only in state.name)
            for partition in range(state.partitions or 0)
        ]

    async def _read(
        self,
        consumer: AIOKafkaConsumer,
        partition: TopicPartition,
        start: int,
        end: int,
        done: int,
        limit: int,
    ) -> AsyncIterator[Parked]:
        left = min(limit, MOST)
        if left <= 0 or start >= end:
            return
        consumer.seek(partition, start)
        while left > 0 and start < end:
            async with asyncio.timeout(DEADLINE):
                # compacted or expired offsets have no record: the position tells when the end is reached
                while not (found := await consumer.getmany(partition, timeout_ms=_WAIT_MS, max_records=left)):
                    if await consumer.position(partition) >= end:
                        return
            for record in found[partition]:
                if record.offset >= end or left <= 0:
                    return
                yield _parked(record, done)
                start, left = record.offset + 1, left - 1


def _parked(record: "ConsumerRecord[Any, Any]", done: int) -> Parked:
    own = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
    context = {
        name.removeprefix(PREFIX): _text(value)
        for name, value in record.headers
        if name.startswith(PREFIX) and value is not None
    }
    return Parked(
        parking=record.topic,
        partition=record.partition,
        offset=record.offset,
        at=record.timestamp,
        key=record.key,
        value=record.value,
        headers=own,
        context=context,
        replayed=record.offset < done,
    )


def _work(partition: TopicPartition) -> str:
    return f"replay {partition.topic}:{partition.partition}"


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
