"""Parked records on a real broker: listed, shown, replayed once, and again only when asked for by place."""

import secrets
from datetime import UTC, datetime

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from tests.brokers import kafka_settings
from typer.testing import CliRunner

from bucketline.cli.dlq import app
from bucketline.clock import SystemClock
from bucketline.db.job_cursors import GcCursor, JobCursors
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.errors import NonRetryableError
from bucketline.events.cloudevents import wrap
from bucketline.events.models import ObjectUpdated
from bucketline.events.topics import OBJECTS
from bucketline.kafka.dead_letter_admin import GROUP, ParkedRecords
from bucketline.kafka.dead_letters import INCOMPLETE, KafkaParking, Reason
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.kafka.topic_admin import ensure_topics
from bucketline.settings import KafkaSettings

pytestmark = pytest.mark.stack


@pytest.fixture
async def settings(stack: LocalStack) -> KafkaSettings:
    """Topics of this test's own."""
    own = kafka_settings(
        stack, topic_prefix=f"t{secrets.token_hex(4)}.", group_prefix=f"g{secrets.token_hex(4)}.", fetch_max_wait_ms=5
    )
    await ensure_topics(own)
    return own


@pytest.fixture
async def parked(settings: KafkaSettings) -> list[str]:
    """Three parked events; their ids."""
    clock = SystemClock()
    ids = []
    async with KafkaPublisher(settings) as publisher:
        parking = KafkaParking(publisher, "dedup")
        for number in range(3):
            event = ObjectUpdated(
                object_id=f"obj_{number}", bucket_id="b", namespace_id="n", revision=1, updated_at=clock.now()
            )
            envelope = wrap(event, id=f"evt_{number}", source="/bucketline/dedup", at=clock.now())
            reason = Reason(
                error=ValueError(f"number {number}"), attempts=6, group="g", first_at=clock.now(), at=clock.now()
            )
            await parking.park_event(settings.topic_prefix + OBJECTS.name, envelope, reason)
            ids.append(envelope.id)
    return ids


async def sent(settings: KafkaSettings) -> list[tuple[bytes | None, dict[str, bytes | None], bytes | None]]:
    """Everything in the topic of objects."""
    topic = settings.topic_prefix + OBJECTS.name
    partitions = [TopicPartition(topic, number) for number in range(OBJECTS.partitions)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers, auto_offset_reset="earliest", fetch_max_wait_ms=5
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        wanted = sum((await consumer.end_offsets(partitions)).values())
        rows: list[tuple[bytes | None, dict[str, bytes | None], bytes | None]] = []
        while len(rows) < wanted:
            for found in (await consumer.getmany(timeout_ms=500)).values():
                rows += [(record.key, dict(record.headers), record.value) for record in found]
        return rows
    finally:
        await consumer.stop()


@pytest.fixture
def places(database: Database) -> JobCursors:
    return JobCursors(database)


async def test_list_tells_what_waits(settings: KafkaSettings, places: JobCursors, parked: list[str]) -> None:
    rows = await ParkedRecords(settings, places).waiting(limit=10)
    assert [row.context["error"] for row in rows] == ["number 0", "number 1", "number 2"]
    assert {row.topic for row in rows} == {settings.topic_prefix + OBJECTS.name}
    assert {row.type for row in rows} == {ObjectUpdated.type}
    assert len(await ParkedRecords(settings, places).waiting(limit=2)) == 2
    assert await ParkedRecords(settings, places, only="batches").waiting(limit=2) == []


async def test_a_replay_sends_each_record_once_as_it_was(
    settings: KafkaSettings, places: JobCursors, parked: list[str]
) -> None:
    records = ParkedRecords(settings, places)
    assert (await records.replay(limit=2)).count == 2
    assert [row.replayed for row in await records.waiting(limit=10, replayed=True)] == [True, True, False]
    assert (await records.replay(limit=10)).topics == {settings.topic_prefix + OBJECTS.name: 1}
    assert (await records.replay(limit=10)).count == 0
    assert await records.waiting(limit=10) == []
    rows = await sent(settings)
    assert sorted(headers["ce_id"] for _, headers, _ in rows) == [b"evt_0", b"evt_1", b"evt_2"]  # type: ignore[type-var]
    assert not [name for _, headers, _ in rows for name in headers if name.startswith("bucketline-parked")]
    assert all(orjson.loads(value or b"")["object_id"].encode() == key for key, _, value in rows)


async def test_one_record_by_its_place(settings: KafkaSettings, places: JobCursors, parked: list[str]) -> None:
    records = ParkedRecords(settings, places)
    row = await records.get(parking(settings), 0, 1)
    assert row is not None
    await records.replay_one(row)
    assert [headers["ce_id"] for _, headers, _ in await sent(settings)] == [b"evt_1"]
    assert len(await records.waiting(limit=10)) == 3
    assert await records.get(parking(settings), 0, 99) is None
    assert await records.get("no.such.topic", 0, 0) is None


async def test_the_place_of_the_replays_outlives_what_the_broker_remembers_of_a_group(
    settings: KafkaSettings, places: JobCursors, parked: list[str]
) -> None:
    assert (await ParkedRecords(settings, places).replay(limit=2)).count == 2
    forgotten = settings.model_copy(update={"group_prefix": f"g{secrets.token_hex(4)}."})
    assert [row.offset for row in await ParkedRecords(forgotten, places).waiting(limit=10)] == [2]


async def test_a_place_that_a_release_before_left_with_the_broker_counts(
    settings: KafkaSettings, places: JobCursors, parked: list[str]
) -> None:
    partition = TopicPartition(parking(settings), 0)
    group = f"{settings.group_prefix}{GROUP}"
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap_servers, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([partition])
    await consumer.commit({partition: 2})
    await consumer.stop()
    assert [row.offset for row in await ParkedRecords(settings, places).waiting(limit=10)] == [2]
    assert (await ParkedRecords(settings, places).replay(limit=10)).count == 1
    assert await ParkedRecords(settings, places).waiting(limit=10) == []


@pytest.mark.parametrize("place", [(2, 1), (99, 1)], ids=["another record is there", "beyond the end"])
async def test_a_place_in_a_log_that_the_broker_lost_does_not_count(
    settings: KafkaSettings, places: JobCursors, parked: list[str], place: tuple[int, int]
) -> None:
    await places.put(f"replay {parking(settings)}:0", GcCursor(logged=place))
    assert len(await ParkedRecords(settings, places).waiting(limit=10)) == 3


async def test_what_was_not_parked_whole_is_told_of_and_not_sent(
    settings: KafkaSettings, places: JobCursors, parked: list[str]
) -> None:
    row = (parking(settings), b"k", b"{", [(INCOMPLETE, b"cut, the value had 3000000 bytes")])
    async with KafkaPublisher(settings) as publisher:
        await publisher.publish_raw([row])
    records = ParkedRecords(settings, places)
    (cut,) = [row for row in await records.waiting(limit=10) if row.incomplete]
    with pytest.raises(NonRetryableError):
        await records.replay_one(cut)
    outcome = await records.replay(limit=10)
    assert (outcome.count, outcome.passed) == (3, 1)
    assert len(await sent(settings)) == 3
    assert await records.waiting(limit=10) == []


def parking(settings: KafkaSettings) -> str:
    return f"{settings.topic_prefix}{OBJECTS.name}.parked.dedup"


def test_the_command(stack: LocalStack, settings: KafkaSettings, parked: list[str]) -> None:
    environment = {
        **stack.environment(),
        "BUCKETLINE_KAFKA_TOPIC_PREFIX": settings.topic_prefix,
        "BUCKETLINE_KAFKA_GROUP_PREFIX": settings.group_prefix,
        "COLUMNS": "250",
    }
    runner = CliRunner(env=environment)
    place = f"{parking(settings)}:0:1"
    listed = runner.invoke(app, ["list"])
    assert listed.exit_code == 0, listed.output
    assert place in listed.output
    assert "ValueError: number 1" in listed.output
    shown = runner.invoke(app, ["show", place])
    assert orjson.loads(shown.output)["value"]["object_id"] == "obj_1"
    assert "3 records replayed" in runner.invoke(app, ["replay"]).output
    assert "nothing waits" in runner.invoke(app, ["list"]).output
    assert runner.invoke(app, ["show", "nonsense"]).exit_code == 2
    assert runner.invoke(app, ["show", "no:0:0"]).exit_code == 1
    assert datetime.fromisoformat(orjson.loads(shown.output)["parked"]["at"]) <= datetime.now(UTC)
