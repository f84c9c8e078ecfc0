"""Records, consumers and parking as the intake sees them, without a broker."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from bucketline.clock import ManualClock
from bucketline.errors import RetryableError
from bucketline.events.cloudevents import wrap
from bucketline.events.models import Event, ObjectDeleted
from bucketline.kafka.batch_consumer import Intake
from bucketline.kafka.dead_letters import Reason
from bucketline.kafka.retry import Handler, RetryPolicy

TOPIC = "bucketline.objects.v1"
AT = ManualClock().now()
AT_ONCE = RetryPolicy(attempts=3, budget=5, first_wait=0, longest_wait=0, pause=0)


def deleted(object_id: str) -> ObjectDeleted:
    return ObjectDeleted(object_id=object_id, bucket_id="bkt_1", namespace_id="ns_1", revision=2, deleted_at=AT)


def record(
    event: Event | None = None,
    *,
    offset: int = 0,
    partition: int = 0,
    value: bytes | None = None,
    headers: Sequence[tuple[str, bytes | None]] | None = None,
) -> "ConsumerRecord[bytes, bytes]":
    """A record of ``event``, or of any bytes at all."""
    if event is not None:
        envelope = wrap(event, id=f"evt_{offset}", source="/test", at=AT)
        value = envelope.data if value is None else value
        headers = envelope.headers() if headers is None else headers
    return ConsumerRecord(
        topic=TOPIC,
        partition=partition,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=b"k",
        value=value,
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=len(value or b""),
        headers=tuple(headers or ()),
    )


@dataclass
class FakeConsumer:
    """The part of a consumer that the intake uses. ``waiting`` is what has been fetched beside the first record,
    ``complaints`` what asking for it raises, ``broken`` what a partition's records raise, ``away`` a broker that never
    confirms a commit."""

    waiting: list["ConsumerRecord[bytes, bytes]"] = field(default_factory=list)
    owned: set[TopicPartition] = field(default_factory=lambda: {TopicPartition(TOPIC, n) for n in range(3)})
    commits: list[dict[TopicPartition, int]] = field(default_factory=list)
    seeks: dict[TopicPartition, int] = field(default_factory=dict)
    failures: int = 0
    complaints: list[KafkaError] = field(default_factory=list)
    broken: dict[TopicPartition, Exception] = field(default_factory=dict)
    away: bool = False

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list["ConsumerRecord[bytes, bytes]"]]:
        assert timeout_ms == 0, "the intake never waits for more"
        assert max_records > 0
        if self.complaints:
            raise self.complaints.pop(0)
        found: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]] = {}
        for one in self.waiting:
            place = TopicPartition(one.topic, one.partition)
            if (not partitions or place in partitions) and sum(map(len, found.values())) < max_records:
                found.setdefault(place, []).append(one)
        # as aiokafka's: what was fetched from the others goes with the error
        self.waiting = [one for one in self.waiting if not any(one in rows for rows in found.values())]
        for place in partitions or self.owned:
            if place in self.broken:
                raise self.broken[place]
        return found

    def assignment(self) -> set[TopicPartition]:
        return self.owned

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if self.away:
            await asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise KafkaError("not now")
        self.commits.append(dict(offsets))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.seeks[partition] = offset


@dataclass
class FakeParking:
    """Keeps what is parked; ``away`` is what it fails with."""

    parked: list[tuple["ConsumerRecord[bytes, bytes]", Reason]] = field(default_factory=list)
    away: RetryableError | None = None

    async def park(self, record: "ConsumerRecord[bytes, bytes]", reason: Reason) -> None:
        if self.away is not None:
            raise self.away
        self.parked.append((record, reason))


def intake(handler: Handler, parking: FakeParking, *, policy: RetryPolicy = AT_ONCE, max_records: int = 10) -> Intake:
    return Intake(
        TOPIC,
        "bucketline.dedup.objects.v1",
        handler,
        parking=parking,
        clock=ManualClock(),
        policy=policy,
        max_records=max_records,
    )


def delivery(first: "ConsumerRecord[bytes, bytes]", consumer: FakeConsumer) -> SimpleNamespace:
    return SimpleNamespace(raw_message=first, consumer=consumer)
