"""Records, a consumer and a dead-letter sink for subscribers, without a broker."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import TestKafkaBroker

from bucketline.clock import ManualClock
from bucketline.events.cloudevents import Events, ReceivedEvent, encode_event
from bucketline.events.models import Event, ObjectCreated, ObjectDeleted
from bucketline.events.topics import OBJECTS
from bucketline.kafka.broker import Broker, Provided, event_router
from bucketline.kafka.dead_letters import FailureContext
from bucketline.kafka.middleware import RetryPolicy
from bucketline.settings import KafkaSettings

TOPIC = "bucketline.objects.v1"
AT = ManualClock().now()
NO_WAIT = RetryPolicy(attempts=3, budget=5, first_wait=0, longest_wait=0, pause=0)

Handler = Callable[[Sequence[ReceivedEvent]], Awaitable[None]]
Record: TypeAlias = "ConsumerRecord[bytes, bytes]"

router = event_router()


@router.subscriber(OBJECTS.name, group_id=OBJECTS.group("dedup"), batch=True, ack_policy=AckPolicy.MANUAL)
async def handle(records: Events[ObjectCreated | ObjectDeleted], handler: Annotated[Handler, Provided()]) -> None:
    await handler(records)


def deleted(object_id: str) -> ObjectDeleted:
    return ObjectDeleted(object_id=object_id, bucket_id="bkt_1", namespace_id="ns_1", revision=2, deleted_at=AT)


def record(
    event: Event | None = None,
    *,
    offset: int = 0,
    partition: int = 0,
    value: bytes | None = None,
    headers: Sequence[tuple[str, bytes | None]] | None = None,
) -> Record:
    """A record of ``event``, or of any bytes at all."""
    if event is not None:
        envelope = encode_event(event, id=f"evt_{offset}", source="/test", at=AT)
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
    """Keeps positions and commits as a consumer does. ``failures`` is how many commits fail."""

    owned: set[TopicPartition] = field(default_factory=lambda: {TopicPartition(TOPIC, n) for n in range(3)})
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    commits: list[dict[TopicPartition, int]] = field(default_factory=list)
    seeks: dict[TopicPartition, int] = field(default_factory=dict)
    failures: int = 0

    def fetch(self, records: Sequence[Record]) -> None:
        for one in records:
            partition = TopicPartition(one.topic, one.partition)
            if partition in self.owned:
                self.positions[partition] = one.offset + 1

    async def commit(self) -> None:
        if self.failures:
            self.failures -= 1
            raise KafkaError("not now")
        self.commits.append(dict(self.positions))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self.owned:
            raise IllegalStateError(f"No current assignment for partition {partition}")
        self.seeks[partition] = self.positions[partition] = offset


@dataclass
class FakeDeadLetters:
    """Keeps what is dead-lettered; ``errors`` are raised instead, one per call."""

    sent: list[tuple[Record, FailureContext]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    async def send_record(self, record: Record, reason: FailureContext) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append((record, reason))


@dataclass
class Subscriber:
    """The subscriber of ``OBJECTS`` under test, in a broker with all middlewares."""

    deliver_records: Callable[[Sequence[Record]], Awaitable[object]]
    consumer: FakeConsumer
    dead_letters: FakeDeadLetters

    async def deliver(self, *records: Record) -> None:
        """Hand over one micro-batch, as FastStream does."""
        self.consumer.fetch(records)
        await self.deliver_records(records)


@asynccontextmanager
async def subscribed(handler: Handler, *, policy: RetryPolicy = NO_WAIT) -> AsyncIterator[Subscriber]:
    dead_letters, consumer = FakeDeadLetters(), FakeConsumer()
    broker = Broker(KafkaSettings(), "dedup", dead_letters, clock=ManualClock(), policy=policy)
    (subscriber,) = broker.include(router, {"handler": handler})
    async with TestKafkaBroker(broker):
        subscriber.parser._setup(consumer)
        yield Subscriber(subscriber.process_message, consumer, dead_letters)
