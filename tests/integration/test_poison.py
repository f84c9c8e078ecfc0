"""Records that cannot be processed, on the real broker: they become dead letters and do not block the partition."""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from faststream import AckPolicy
from tests.brokers import kafka_settings
from tests.record_batches import MARK, batch, misnamed, signed
from tests.waiting import eventually

from bucketline.clock import SystemClock
from bucketline.devstack.stack import LocalStack
from bucketline.events.cloudevents import Events, ReceivedEvent, encode_event
from bucketline.events.models import ObjectDeleted
from bucketline.events.topics import OBJECTS
from bucketline.kafka.admin import ensure_topics
from bucketline.kafka.broker import KafkaRuntime, Provided, event_router
from bucketline.kafka.client_config import client_options
from bucketline.settings import KafkaSettings

pytestmark = pytest.mark.stack

DEADLINE_SECONDS = 60.0
"""Seconds, on a loaded machine. A record that stops its partition would be there for ever."""
CONTEXT = "dlq-"
GOOD = ("ce_type", ObjectDeleted.type.encode()), ("ce_id", b"evt_1"), ("ce_source", b"/test")

router = event_router()


@dataclass
class Bench:
    """A consumer of our own on topics of our own. ``refused`` are the objects that its handler never takes."""

    settings: KafkaSettings
    producer: AIOKafkaProducer
    handled: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    @property
    def topic(self) -> str:
        return self.settings.topic_prefix + OBJECTS.name

    async def handle(self, records: Sequence[ReceivedEvent]) -> None:
        for record in records:
            if record.event.subject in self.refused:
                raise ValueError(f"{record.event.subject} is never taken")
        self.handled += [record.event.subject for record in records]

    async def send(self, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = GOOD) -> int:
        """Publishes raw bytes to partition 0; returns their offset."""
        sent = await self.producer.send_and_wait(self.topic, value=value, key=b"k", headers=list(headers), partition=0)
        return int(sent.offset)

    async def send_batch(self, made: bytes) -> None:
        """Publishes a whole batch to partition 0, byte for byte."""
        node = self.producer.client.cluster.leader_for_partition(TopicPartition(self.topic, 0))
        request = ProduceRequest(None, -1, 5000, [(self.topic, [(0, made)])])
        answer = await self.producer.client.send(node, request)
        ((_, ((_, code, *_),)),) = answer.topics
        assert code == 0

    async def send_good(self, object_id: str) -> int:
        event = deleted(object_id)
        envelope = encode_event(event, id=f"evt_{object_id}", source="/test", at=event.deleted_at)
        return await self.send(envelope.data, envelope.headers())

    async def has_handled(self, *objects: str) -> None:
        async def all_handled() -> bool:
            return set(objects) <= set(self.handled)

        await eventually(all_handled, deadline=DEADLINE_SECONDS)

    async def dead_letters(self, count: int) -> list["ConsumerRecord[bytes, bytes]"]:
        """The dead_letters records, once there are so many."""
        name = f"{self.topic}.dedup.dlq"
        consumer = AIOKafkaConsumer(name, **client_options(self.settings), auto_offset_reset="earliest")
        await consumer.start()
        found: list[ConsumerRecord[bytes, bytes]] = []
        try:

            async def enough() -> bool:
                for rows in (await consumer.getmany(timeout_ms=100)).values():
                    found.extend(rows)
                return len(found) >= count

            await eventually(enough, deadline=DEADLINE_SECONDS)
        finally:
            await consumer.stop()
        return found


@router.subscriber(OBJECTS.name, group_id=OBJECTS.group("dedup"), batch=True, ack_policy=AckPolicy.MANUAL)
async def handle(records: Events[ObjectDeleted], bench: Annotated[Bench, Provided()]) -> None:
    await bench.handle(records)


def deleted(object_id: str) -> ObjectDeleted:
    return ObjectDeleted(
        object_id=object_id, bucket_id="b", namespace_id="n", revision=1, deleted_at=SystemClock().now()
    )


@pytest.fixture
async def bench(stack: LocalStack) -> AsyncIterator[Bench]:
    own = f"poison-{secrets.token_hex(4)}."
    settings = kafka_settings(
        stack,
        topic_prefix=own,
        group_prefix=own,
        fetch_max_wait_ms=5,
        session_timeout_ms=6000,
        heartbeat_interval_ms=1000,
        create_topics=True,
        retry_max_attempts=3,
    )
    await ensure_topics(settings)
    producer = AIOKafkaProducer(**client_options(settings), max_request_size=2 * 1024 * 1024)
    await producer.start()
    found = Bench(settings, producer)
    bus = KafkaRuntime(settings, "dedup", clock=SystemClock())
    bus.include(router, bench=found)
    try:
        async with bus:
            yield found
    finally:
        await producer.stop()


async def test_poison_is_dead_lettered_and_later_records_are_handled(bench: Bench) -> None:
    bench.refused = {"guilty"}
    good = deleted("x")
    nearly = b'{"object_id": "' + b"x" * (1024 * 1024 - 4096) + b'"'
    await bench.send_good("before")
    poison: dict[int, bytes | None] = {}
    for value, headers in (
        (b"{not JSON", GOOD),
        (b'{"object_id": 7}', GOOD),
        (good.model_dump_json().encode(), [("ce_type", b"\xff\xfe"), *GOOD[1:]]),
        (good.model_dump_json().encode(), [("ce_type", None), *GOOD[1:]]),
        (b"", GOOD),
        (None, GOOD),
        (nearly, [*GOOD, ("mine", b"\x00\xff")]),
    ):
        poison[await bench.send(value, headers)] = value
        await bench.send_good(f"behind-{len(poison)}")
    refused = await bench.send_good("guilty")
    await bench.send_good("last")

    dead_letters = await bench.dead_letters(len(poison) + 1)
    contexts = {int(context(row)["original-offset"]): context(row) for row in dead_letters}
    assert contexts.keys() == {*poison, refused}
    for row in dead_letters:
        about = context(row)
        assert about["original-topic"] == bench.topic
        assert about["original-partition"] == "0"
        assert about["consumer-group"] == f"{bench.settings.group_prefix}dedup.objects.v1"
        assert about["exception-message"]
        assert about["failed-at"] >= about["first-failed-at"]
        if int(about["original-offset"]) in poison:
            # The broker of the local stack keeps an empty value as none.
            assert (row.value or None) == (poison[int(about["original-offset"])] or None)
            assert about["exception-class"] == "NonRetryableError"
            assert about["attempts"] == "1"
    assert contexts[refused]["exception-class"] == "ValueError"
    assert int(contexts[refused]["attempts"]) > 1
    (largest,) = [row for row in dead_letters if len(row.value or b"") > 1024 * 1024 - 8192]
    assert ("mine", b"\x00\xff") in largest.headers

    expected = {"before", "last", *(f"behind-{n + 1}" for n in range(len(poison)))}
    await bench.has_handled(*expected)
    assert "guilty" not in bench.handled


async def test_an_event_of_a_newer_version_is_passed_over_and_not_dead_lettered(bench: Bench) -> None:
    newer = ("ce_type", b"bucketline.object.archived.v1"), *GOOD[1:]
    for _ in range(50):
        await bench.send(b'{"object_id": "o", "what": "a later version knows"}', newer)
    extra = deleted("o").model_dump_json().replace("{", '{"added_later": [1], ', 1)
    await bench.send(extra.encode())
    await bench.send(b"{", GOOD)

    dead_letters = await bench.dead_letters(1)
    assert [context(row)["exception-class"] for row in dead_letters] == ["NonRetryableError"]
    assert [row.value for row in dead_letters] == [b"{"]
    assert bench.handled == ["o"]


async def test_a_record_with_neither_key_nor_value_is_dead_lettered(bench: Bench) -> None:
    await bench.send_good("before")
    await bench.send_batch(signed(batch([(None, None, ())])))
    await bench.send_good("behind")
    await bench.has_handled("before", "behind")
    (dead_letters,) = await bench.dead_letters(1)
    assert context(dead_letters)["original-offset"] == "1"


async def test_header_name_that_is_not_utf8_does_not_block_the_partition(bench: Bench) -> None:
    await bench.send_good("before")
    good = deleted("odd").model_dump_json().encode()
    await bench.send_batch(misnamed(batch([(b"k", good, [*GOOD, (MARK.decode(), b"1")]), (b"k", b"{", ())]), 0))
    await bench.send_good("behind")
    await bench.has_handled("before", "odd", "behind")
    (dead_letters,) = await bench.dead_letters(1)
    assert context(dead_letters)["original-offset"] == "2"


async def test_poison_that_is_too_large_to_be_stored_whole_leaves_its_place(bench: Bench) -> None:
    huge = AIOKafkaProducer(**client_options(bench.settings), compression_type="gzip", max_request_size=4 * 1024 * 1024)
    async with huge:
        await huge.send_and_wait(bench.topic, value=b"{" + b"x" * 3 * 1024 * 1024, key=b"k", partition=0)
    await bench.send_good("behind")
    await bench.has_handled("behind")
    (dead_letters,) = await bench.dead_letters(1)
    assert (dead_letters.value or b"").startswith(b"{xxx")
    assert context(dead_letters)["original-offset"] == "0"
    assert "truncated" in context(dead_letters)["incomplete"]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_a_producer_may_compress_as_it_likes(bench: Bench, codec: str) -> None:
    event = deleted(codec)
    envelope = encode_event(event, id="evt_1", source="/test", at=event.deleted_at)
    async with AIOKafkaProducer(**client_options(bench.settings), compression_type=codec) as producer:
        headers = list(envelope.headers())
        await producer.send_and_wait(bench.topic, value=envelope.data, key=b"k", headers=headers, partition=0)
    await bench.has_handled(codec)


def context(row: "ConsumerRecord[bytes, bytes]") -> dict[str, str]:
    return {name.removeprefix(CONTEXT): value.decode() for name, value in row.headers if name.startswith(CONTEXT)}
