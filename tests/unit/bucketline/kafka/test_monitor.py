"""A consumer that does not get on is noticed, started anew, and in the end reported."""

from dataclasses import dataclass, field

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError
from prometheus_client import REGISTRY
from structlog.contextvars import get_contextvars
from tests.unit.bucketline.kafka.fakes import TOPIC

from bucketline.kafka.monitor import MAX_POLL_SECONDS, ConsumerMonitor, ConsumerStalled
from bucketline.kafka.publisher import NotPublished
from bucketline.settings import KafkaSettings

PARTITION = TopicPartition(TOPIC, 0)


@dataclass
class Consumer:
    """A position in a log that has an end, as the last fetch told it; ``asked`` is what the broker says about it."""

    at: int = 0
    end: int | None = 0
    asked: int | None = None
    assigned: set[TopicPartition] = field(default_factory=lambda: {PARTITION})
    away: bool = False
    rewound: int = 0
    joined: bool = True
    rebalancing: bool = False
    busy_since: float | None = None

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    async def position(self, _: TopicPartition) -> int:
        if self.away:
            raise KafkaConnectionError("away")
        return self.at

    def highwater(self, _: TopicPartition) -> int | None:
        return self.end

    async def end_offsets(self, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
        if self.asked is None:
            raise KafkaTimeoutError
        return dict.fromkeys(partitions, self.asked)

    async def seek_to_beginning(self, _: TopicPartition) -> None:
        self.rewound += 1
        self.at = 0


@dataclass
class Subscriber:
    """A start makes a consumer, or fails with one of ``failures`` and leaves one behind that has joined nothing."""

    consumer: Consumer | None
    topic_names: list[str] = field(default_factory=lambda: [TOPIC])
    starts: int = 0
    failures: list[Exception] = field(default_factory=list)
    logged: dict[str, object] = field(default_factory=dict)

    async def start(self) -> None:
        self.starts += 1
        self.logged = get_contextvars()
        if self.failures:
            self.consumer = Consumer(assigned=set(), joined=False)
            raise self.failures.pop(0)

    async def stop(self) -> None:
        if self.failures or (self.starts and self.consumer and not self.consumer.joined):
            self.consumer = None


class Bench:
    """A monitor with one consumer, and its clock in our hands."""

    def __init__(self, consumer: Consumer) -> None:
        self.now = 1000.0
        self.away = False
        self.consumer = consumer
        self.subscriber = Subscriber(consumer)
        settings = KafkaSettings(create_topics=False, session_timeout_ms=30_000)
        self.monitor = ConsumerMonitor(settings, self.answers, stall_seconds=10, clock=lambda: self.now)
        self.monitor.watch(self.subscriber)  # type: ignore[arg-type]  # a fake consumer

    async def answers(self) -> None:
        if self.away:
            raise NotPublished("away")

    async def pass_time(self, seconds: float, step: float = 2.0) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            await self.monitor.step()


async def test_an_idle_consumer_is_left_alone() -> None:
    bench = Bench(Consumer(at=5, end=5))
    await bench.pass_time(300)
    assert bench.subscriber.starts == 0
    await bench.monitor.live()


async def test_a_consumer_that_moves_is_left_alone_and_its_lag_is_shown() -> None:
    bench = Bench(Consumer(at=0, end=1000))
    for _ in range(100):
        bench.consumer.at += 1
        await bench.pass_time(2)
    assert bench.subscriber.starts == 0
    assert REGISTRY.get_sample_value("bucketline_consumer_lag", {"topic": TOPIC}) == 900


async def test_stalled_consumer_with_waiting_records_is_restarted() -> None:
    bench = Bench(Consumer(at=3, end=9))
    await bench.pass_time(8)
    assert bench.subscriber.starts == 0
    await bench.pass_time(6)
    assert bench.subscriber.starts == 1
    await bench.monitor.live()


async def test_log_lines_of_a_consumer_name_its_topic() -> None:
    bench = Bench(Consumer())
    await bench.monitor.start()
    assert bench.subscriber.logged == {"consumes": TOPIC}
    assert get_contextvars() == {}


async def test_a_long_handler_is_not_standing_still() -> None:
    bench = Bench(Consumer(at=3, end=9))
    bench.consumer.busy_since = bench.now
    await bench.pass_time(200)
    assert bench.subscriber.starts == 0
    await bench.monitor.live()


async def test_a_handler_that_never_returns_makes_the_service_not_live() -> None:
    bench = Bench(Consumer(at=3, end=9))
    bench.consumer.busy_since = bench.now
    await bench.pass_time(MAX_POLL_SECONDS)
    await bench.monitor.live()
    await bench.pass_time(4)
    with pytest.raises(ConsumerStalled):
        await bench.monitor.live()
    assert joined() == 0


async def test_group_membership_is_exported() -> None:
    bench = Bench(Consumer(assigned=set()))
    bench.consumer.joined = False
    await bench.pass_time(2)
    assert joined() == 0
    bench.consumer.joined, bench.consumer.rebalancing = True, False
    await bench.pass_time(2)
    assert joined() == 1, "more members than partitions is fine"
    bench.away = True
    await bench.pass_time(2)
    assert joined() == 0
    bench.away = False
    await bench.pass_time(2)
    assert joined() == 1
    bench.consumer.rebalancing = True
    await bench.pass_time(2)
    assert joined() == 0, "it has no share while the group shares out"


async def test_a_consumer_that_no_start_helps_makes_the_service_not_live() -> None:
    bench = Bench(Consumer(away=True))
    await bench.pass_time(50)
    await bench.monitor.live()
    await bench.pass_time(50)
    assert bench.subscriber.starts >= 2
    with pytest.raises(ConsumerStalled):
        await bench.monitor.live()


async def test_consumer_starts_from_the_beginning_after_the_broker_lost_its_log() -> None:
    bench = Bench(Consumer(at=50, end=4))
    await bench.pass_time(2)
    assert bench.consumer.rewound == 1
    assert bench.consumer.at == 0


async def test_more_members_than_partitions_is_fine() -> None:
    bench = Bench(Consumer(assigned=set()))
    await bench.pass_time(300)
    assert bench.subscriber.starts == 0
    await bench.monitor.ready()
    assert REGISTRY.get_sample_value("bucketline_consumer_lag", {"topic": TOPIC}) == 0


async def test_a_member_that_never_joined_is_not_ready() -> None:
    bench = Bench(Consumer(assigned=set()))
    bench.consumer.joined = False
    with pytest.raises(ConsumerStalled):
        await bench.monitor.ready()
    await bench.pass_time(38)
    assert bench.subscriber.starts == 0
    await bench.pass_time(6)
    assert bench.subscriber.starts == 1


async def test_a_consumer_that_fetches_nothing_any_more_is_noticed_although_it_knows_of_no_record() -> None:
    bench = Bench(Consumer(at=5, end=5, asked=8))
    await bench.pass_time(2)
    assert REGISTRY.get_sample_value("bucketline_consumer_lag", {"topic": TOPIC}) == 3
    await bench.pass_time(12)
    assert bench.subscriber.starts == 1


async def test_an_answer_that_is_older_than_the_position_is_no_reason_for_anything() -> None:
    bench = Bench(Consumer(at=5, end=5, asked=2))
    await bench.pass_time(300)
    assert (bench.subscriber.starts, bench.consumer.rewound) == (0, 0)
    assert REGISTRY.get_sample_value("bucketline_consumer_lag", {"topic": TOPIC}) == 0


async def test_unreachable_broker_restarts_no_consumer_and_keeps_the_service_live() -> None:
    bench = Bench(Consumer(at=3, end=9))
    bench.away = True
    await bench.pass_time(600)
    assert bench.subscriber.starts == 0
    await bench.monitor.live()
    bench.away = False
    await bench.pass_time(8)
    assert bench.subscriber.starts == 0, "it has its patience when the broker is back"
    await bench.pass_time(6)
    assert bench.subscriber.starts == 1


async def test_a_group_that_waits_for_a_dead_member_is_left_alone_for_a_session() -> None:
    bench = Bench(Consumer(at=3, end=9))
    bench.consumer.rebalancing = True
    await bench.pass_time(38)
    assert bench.subscriber.starts == 0
    bench.consumer.joined, bench.consumer.rebalancing = True, False
    bench.consumer.at = 9
    await bench.pass_time(100)
    assert bench.subscriber.starts == 0


async def test_a_consumer_that_did_not_start_is_not_taken_for_one_without_partitions() -> None:
    bench = Bench(Consumer(at=3, end=9))
    bench.subscriber.failures = [KafkaConnectionError("away"), KafkaConnectionError("away")]
    await bench.pass_time(14)
    assert bench.subscriber.starts == 1
    with pytest.raises(ConsumerStalled):
        await bench.monitor.ready()
    await bench.pass_time(300)
    assert bench.subscriber.starts >= 3


def joined() -> float | None:
    return REGISTRY.get_sample_value("bucketline_consumer_joined", {"topic": TOPIC})
