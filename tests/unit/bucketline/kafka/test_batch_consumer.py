"""The consumer behind FastStream's subscribers waits for records, loses none, and commits before a revoke."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from tests.unit.bucketline.kafka.fakes import TOPIC, FakeDeadLetters, Record, deleted, handle, record, router

from bucketline.clock import ManualClock
from bucketline.events.cloudevents import Events
from bucketline.events.models import ObjectDeleted
from bucketline.kafka.batch_consumer import BatchConsumer
from bucketline.kafka.broker import Broker, Provided, event_router
from bucketline.settings import KafkaSettings

router_of_its_own = event_router()
PARTITIONS = [TopicPartition(TOPIC, number) for number in range(3)]


class Fetched:
    """What aiokafka has fetched. As in aiokafka, an error in one partition discards what ``getmany`` took before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[Record] = []
        self.errors: dict[TopicPartition, Exception] = {}
        self.arrived = asyncio.Event()
        monkeypatch.setattr(AIOKafkaConsumer, "getone", lambda _: self.getone())
        monkeypatch.setattr(AIOKafkaConsumer, "getmany", lambda _, *those, **limits: self.many(*those, **limits))
        monkeypatch.setattr(AIOKafkaConsumer, "assignment", lambda _: frozenset(PARTITIONS))

    async def getone(self) -> Record:
        await self.arrived.wait()
        return self.rows.pop(0)

    async def many(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[Record]]:
        assert timeout_ms == 0, "waiting for more would delay what is there"
        found: dict[TopicPartition, list[Record]] = {}
        for one in [row for row in self.rows if TopicPartition(row.topic, row.partition) in partitions][:max_records]:
            found.setdefault(TopicPartition(one.topic, one.partition), []).append(one)
            self.rows.remove(one)
        for partition in partitions:
            if partition in self.errors:
                raise self.errors[partition]
        return found


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    return Fetched(monkeypatch)


@pytest.fixture
async def consumer() -> AsyncIterator[BatchConsumer]:
    made = BatchConsumer(group_id="g", bootstrap_servers="127.0.0.1:1", enable_auto_commit=False)
    yield made
    await made.stop()


async def test_getmany_takes_all_fetched_records_up_to_the_limit(fetched: Fetched, consumer: BatchConsumer) -> None:
    fetched.rows = [record(deleted(str(n)), offset=n // 3, partition=n % 3) for n in range(9)]
    fetched.arrived.set()
    taken = await consumer.getmany(timeout_ms=200, max_records=7)
    assert sum(map(len, taken.values())) == 7
    assert len(fetched.rows) == 2
    assert len(taken[PARTITIONS[0]]) == 3, "the partition of the first record comes first"
    for rows in taken.values():
        assert [row.offset for row in rows] == sorted(row.offset for row in rows)


async def test_getmany_without_records_waits_for_one(fetched: Fetched, consumer: BatchConsumer) -> None:
    waiting = asyncio.create_task(consumer.getmany(timeout_ms=0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert consumer.busy_since is None
    fetched.rows = [record(deleted("a"))]
    fetched.arrived.set()
    assert await waiting == {PARTITIONS[0]: [record(deleted("a"))]}
    assert consumer.busy_since is not None


@pytest.mark.parametrize("broken", PARTITIONS)
async def test_error_in_one_partition_costs_no_record_of_another(
    fetched: Fetched, consumer: BatchConsumer, broken: TopicPartition
) -> None:
    fetched.rows = [record(deleted(str(n)), offset=6 + n, partition=n) for n in range(3) if n != broken.partition]
    expected = {row.partition for row in fetched.rows}
    fetched.errors = {broken: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")}
    fetched.arrived.set()
    taken = await consumer.getmany(max_records=10)
    assert {partition.partition for partition, rows in taken.items() if rows} == expected


async def test_revoke_waits_for_the_running_micro_batch_and_its_commit(
    fetched: Fetched, consumer: BatchConsumer
) -> None:
    listener = listening(consumer)
    fetched.rows = [record(deleted("a"))]
    fetched.arrived.set()
    await consumer.getmany()
    revoking = asyncio.create_task(listener.on_partitions_revoked(set(PARTITIONS)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not revoking.done()
    fetched.arrived.clear()
    next_batch = asyncio.create_task(consumer.getmany())
    await asyncio.wait_for(revoking, 1)
    assert consumer.rebalancing
    await listener.on_partitions_assigned(set(PARTITIONS))
    assert (consumer.joined, consumer.rebalancing) == (True, False)
    next_batch.cancel()


async def test_new_consumer_has_not_joined(consumer: BatchConsumer) -> None:
    assert (consumer.joined, consumer.rebalancing, consumer.busy_since) == (False, False, None)


async def test_broker_builds_this_consumer_with_the_settings_of_the_deployment() -> None:
    """FastStream has no public way to choose the consumer class: this fails when it changes the internal one."""
    settings = KafkaSettings(group_prefix="acme.", topic_prefix="acme.", fetch_max_wait_ms=7, session_timeout_ms=9000)
    broker = Broker(settings, "dedup", FakeDeadLetters(), clock=ManualClock())
    (subscriber,) = broker.include(router, {"handler": handle})
    assert isinstance(broker, KafkaBroker)
    await broker.connect()
    built = subscriber.builder(group_id=subscriber.group_id, client_id="c", **subscriber._connection_args)
    assert isinstance(built, BatchConsumer)
    assert subscriber.topic_names == ["acme.objects.v1"]
    assert built._group_id == "acme.dedup.objects.v1"
    assert (built._session_timeout_ms, built._auto_offset_reset, built._enable_auto_commit) == (9000, "earliest", False)
    await built.stop()
    await broker.stop()


@router_of_its_own.subscriber("other.v1", group_id="g", batch=True, ack_policy=AckPolicy.MANUAL)
async def needs_more(records: Events[ObjectDeleted], missing: Annotated[object, Provided()]) -> None: ...


def test_include_without_a_dependency_is_refused() -> None:
    broker = Broker(KafkaSettings(), "dedup", FakeDeadLetters(), clock=ManualClock())
    with pytest.raises(TypeError, match="needs_more: missing is not provided"):
        broker.include(router_of_its_own, {})


def test_include_of_a_subscriber_that_acknowledges_first_is_refused() -> None:
    careless = event_router()

    @careless.subscriber("other.v1", group_id="g", batch=True)
    async def forgets(records: Events[ObjectDeleted]) -> None: ...

    broker = Broker(KafkaSettings(), "dedup", FakeDeadLetters(), clock=ManualClock())
    with pytest.raises(TypeError, match="ack_policy"):
        broker.include(careless, {})


def listening(consumer: BatchConsumer) -> ConsumerRebalanceListener:
    consumer.subscribe(topics=[TOPIC])
    return consumer._subscription.listener
