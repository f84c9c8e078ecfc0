"""Dead letters on a real broker: listed, shown, replayed once, discarded."""

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
from bucketline.events.cloudevents import encode_event
from bucketline.events.models import ObjectUpdated
from bucketline.events.topics import OBJECTS
from bucketline.kafka.admin import ensure_topics
from bucketline.kafka.dead_letters import INCOMPLETE, DeadLetterStore, FailureContext, KafkaDeadLetters
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.settings import KafkaSettings

pytestmark = pytest.mark.stack


@pytest.fixture
async def settings(stack: LocalStack) -> KafkaSettings:
    """Return settings with topics that no other test uses."""
    own = kafka_settings(
        stack, topic_prefix=f"t{secrets.token_hex(4)}.", group_prefix=f"g{secrets.token_hex(4)}.", fetch_max_wait_ms=5
    )
    await ensure_topics(own)
    return own


@pytest.fixture
async def dead_letters(settings: KafkaSettings) -> list[str]:
    """Write three dead letters and return the ids of their events."""
    clock = SystemClock()
    ids = []
    async with KafkaPublisher(settings) as publisher:
        dead_letters = KafkaDeadLetters(publisher, "dedup")
        for number in range(3):
            event = ObjectUpdated(
                object_id=f"obj_{number}", bucket_id="b", namespace_id="n", revision=1, updated_at=clock.now()
            )
            envelope = encode_event(event, id=f"evt_{number}", source="/bucketline/dedup", at=clock.now())
            reason = FailureContext(
                error=ValueError(f"number {number}"), attempts=6, group="g", first_at=clock.now(), at=clock.now()
            )
            await dead_letters.send_event(settings.topic_prefix + OBJECTS.name, envelope, reason)
            ids.append(envelope.id)
    return ids


async def sent(settings: KafkaSettings) -> list[tuple[bytes | None, dict[str, bytes | None], bytes | None]]:
    """Return all records of the objects topic."""
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
def cursors(database: Database) -> JobCursors:
    return JobCursors(database)


async def test_list_returns_the_records_that_were_not_replayed(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str]
) -> None:
    rows = await DeadLetterStore(settings, cursors).list(limit=10)
    assert [row.context["exception-message"] for row in rows] == ["number 0", "number 1", "number 2"]
    assert {row.topic for row in rows} == {settings.topic_prefix + OBJECTS.name}
    assert {row.type for row in rows} == {ObjectUpdated.type}
    assert len(await DeadLetterStore(settings, cursors).list(limit=2)) == 2
    assert await DeadLetterStore(settings, cursors, topic_filter="batches").list(limit=2) == []


async def test_replay_publishes_each_record_once_unchanged(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str]
) -> None:
    admin = DeadLetterStore(settings, cursors)
    assert await admin.count() == 3
    assert (await admin.replay(limit=2)).count == 2
    assert await admin.count() == 1
    assert [row.replayed for row in await admin.list(limit=10, include_all=True)] == [True, True, False]
    assert (await admin.replay(limit=10)).topics == {settings.topic_prefix + OBJECTS.name: 1}
    assert (await admin.replay(limit=10)).count == 0
    assert await admin.list(limit=10) == []
    assert await admin.count() == 0
    rows = await sent(settings)
    assert sorted(headers["ce_id"] for _, headers, _ in rows) == [b"evt_0", b"evt_1", b"evt_2"]  # type: ignore[type-var]
    assert not [name for _, headers, _ in rows for name in headers if name.startswith("dlq-")]
    assert all(orjson.loads(value or b"")["object_id"].encode() == key for key, _, value in rows)


async def test_replay_one_publishes_a_single_record(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str]
) -> None:
    admin = DeadLetterStore(settings, cursors)
    row = await admin.get(topic_name(settings), 0, 1)
    assert row is not None
    await admin.replay_one(row)
    assert [headers["ce_id"] for _, headers, _ in await sent(settings)] == [b"evt_1"]
    assert len(await admin.list(limit=10)) == 3
    assert await admin.get(topic_name(settings), 0, 99) is None
    assert await admin.get("no.such.topic", 0, 0) is None


async def test_replay_position_does_not_depend_on_committed_offsets(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str]
) -> None:
    assert (await DeadLetterStore(settings, cursors).replay(limit=2)).count == 2
    forgotten = settings.model_copy(update={"group_prefix": f"g{secrets.token_hex(4)}."})
    assert [row.offset for row in await DeadLetterStore(forgotten, cursors).list(limit=10)] == [2]


@pytest.mark.parametrize("place", [(2, 1), (99, 1)], ids=["another record is there", "beyond the end"])
async def test_replay_position_in_a_lost_log_is_ignored(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str], place: tuple[int, int]
) -> None:
    await cursors.save(f"replay {topic_name(settings)}:0", GcCursor(logged=place))
    assert len(await DeadLetterStore(settings, cursors).list(limit=10)) == 3


async def test_replay_with_an_incomplete_record_skips_it(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str]
) -> None:
    row = (topic_name(settings), b"k", b"{", [(INCOMPLETE, b"truncated, the value had 3000000 bytes")])
    async with KafkaPublisher(settings) as publisher:
        await publisher.publish_raw([row])
    admin = DeadLetterStore(settings, cursors)
    (cut,) = [row for row in await admin.list(limit=10) if row.incomplete]
    with pytest.raises(NonRetryableError):
        await admin.replay_one(cut)
    report = await admin.replay(limit=10)
    assert (report.count, report.incomplete) == (3, 1)
    assert len(await sent(settings)) == 3
    assert await admin.list(limit=10) == []


async def test_discarded_record_is_neither_listed_nor_replayed(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str]
) -> None:
    admin = DeadLetterStore(settings, cursors)
    row = await admin.get(topic_name(settings), 0, 1)
    assert row is not None
    await admin.discard(row)
    assert [row.offset for row in await admin.list(limit=10)] == [0, 2]
    assert await admin.count() == 2
    assert [row.state for row in await admin.list(limit=10, include_all=True)] == [
        "to replay",
        "discarded",
        "to replay",
    ]
    assert len(await admin.list(limit=2)) == 2, "a discarded record does not count"
    assert (await admin.replay(limit=2)).count == 2
    assert {headers["ce_id"] for _, headers, _ in await sent(settings)} == {b"evt_0", b"evt_2"}
    discarded = await admin.get(topic_name(settings), 0, 1)
    assert discarded is not None
    assert discarded.discarded


async def test_discard_in_a_lost_log_is_ignored(
    settings: KafkaSettings, cursors: JobCursors, dead_letters: list[str]
) -> None:
    """The broker has lost its data, and another record has the address of the discarded one."""
    await cursors.save(f"discard {topic_name(settings)}:0:1", GcCursor(logged=(1, 1)))
    assert [row.offset for row in await DeadLetterStore(settings, cursors).list(limit=10)] == [0, 1, 2]


def topic_name(settings: KafkaSettings) -> str:
    return f"{settings.topic_prefix}{OBJECTS.name}.dedup.dlq"


def test_dlq_commands_list_show_replay_and_discard(
    stack: LocalStack, settings: KafkaSettings, dead_letters: list[str]
) -> None:
    environment = {
        **stack.environment(),
        "BUCKETLINE_KAFKA_TOPIC_PREFIX": settings.topic_prefix,
        "BUCKETLINE_KAFKA_GROUP_PREFIX": settings.group_prefix,
        "COLUMNS": "250",
    }
    runner = CliRunner(env=environment)
    address = f"{topic_name(settings)}:0:1"
    listed = runner.invoke(app, ["list"])
    assert listed.exit_code == 0, listed.output
    assert address in listed.output
    assert "ValueError: number 1" in listed.output
    shown = runner.invoke(app, ["show", address])
    assert orjson.loads(shown.output)["value"]["object_id"] == "obj_1"
    unconfirmed = runner.invoke(app, ["discard", address], input="n\n")
    assert unconfirmed.exit_code == 1
    assert address in runner.invoke(app, ["list"]).output
    assert "discarded" in runner.invoke(app, ["discard", address, "--yes"]).output
    assert address not in runner.invoke(app, ["list"]).output
    assert "2 records replayed" in runner.invoke(app, ["replay"]).output
    assert "no dead letters to replay" in runner.invoke(app, ["list"]).output
    assert runner.invoke(app, ["show", "nonsense"]).exit_code == 2
    assert runner.invoke(app, ["show", "no:0:0"]).exit_code == 1
    assert datetime.fromisoformat(orjson.loads(shown.output)["failure"]["failed-at"]) <= datetime.now(UTC)
