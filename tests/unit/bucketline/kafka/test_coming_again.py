"""What comes again: everything that was not dealt with, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from structlog.testing import capture_logs
from tests.unit.bucketline.kafka.fakes import (
    AT_ONCE,
    TOPIC,
    FakeConsumer,
    FakeParking,
    deleted,
    delivery,
    intake,
    record,
)

from bucketline.errors import DependencyUnavailable
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.kafka.dead_letters import Reason

ZERO = TopicPartition(TOPIC, 0)


class Broken(FakeParking):
    """A parking that fails in a way that nobody thought of, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def park(self, record: "ConsumerRecord[bytes, bytes]", reason: Reason) -> None:
        if self.times:
            self.times -= 1
            raise AssertionError("nobody thought of this")
        await super().park(record, reason)


class Handler:
    """Never takes the objects in ``refused``; one in ``away`` finds the store away so many times, when it is alone."""

    def __init__(self, *refused: str, **away: int) -> None:
        self.handled: list[str] = []
        self.refused = set(refused)
        self.away = away

    async def __call__(self, records: Sequence[ReceivedEvent]) -> None:
        ids = [received.event.subject for received in records]
        if len(ids) == 1 and self.away.get(ids[0]):
            self.away[ids[0]] -= 1
            raise DependencyUnavailable("MongoDB")
        if self.refused & set(ids):
            raise ValueError("never")
        self.handled += ids


async def test_an_error_that_nobody_thought_of_passes_over_no_record() -> None:
    handler, parking, consumer = Handler(), Broken(times=1), FakeConsumer()
    taken = intake(handler, parking)
    bad = record(value=b"{", offset=1)
    rest = [record(deleted("b"), offset=2), record(deleted("c"), offset=3)]
    consumer.waiting = list(rest)
    with capture_logs() as logs:
        await taken(delivery(bad, consumer))
        await taken.settle()
    assert (consumer.commits, consumer.seeks) == ([], {ZERO: 1})
    assert [(row["event"], row["exc_info"]) for row in logs] == [("not handled, trying again", True)]
    consumer.waiting = list(rest)
    await taken(delivery(bad, consumer))
    await taken.settle()
    assert set(handler.handled) == {"b", "c"}
    assert [one for one, _ in parking.parked] == [bad]
    assert consumer.commits == [{ZERO: 4}]


@pytest.mark.parametrize("broken", [0, 1, 2])
async def test_an_error_in_one_partition_costs_no_record_of_another(broken: int) -> None:
    handler, consumer = Handler(), FakeConsumer()
    consumer.waiting = [record(deleted(f"p{n}"), offset=7, partition=n) for n in range(3) if n != broken]
    consumer.broken = {TopicPartition(TOPIC, broken): UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")}
    taken = intake(handler, FakeParking())
    await taken(delivery(record(deleted("in hand"), offset=6), consumer))
    await taken.settle()
    fetched = {received for received in handler.handled if received != "in hand"}
    assert "in hand" in handler.handled
    # what was not taken is still there
    assert {f"p{n}" for n in range(3) if n != broken} == fetched | {f"p{one.partition}" for one in consumer.waiting}
    assert consumer.seeks == {}


async def test_one_by_one_has_a_time_limit_and_what_is_left_comes_again() -> None:
    handler, parking, consumer = Handler("a", "b"), FakeParking(), FakeConsumer()
    unreadable, other = record(value=b"{", offset=3), record(value=b"[", offset=8, partition=1)
    batch = [record(deleted("a"), offset=1), record(deleted("b"), offset=2), unreadable, other]
    consumer.waiting = batch[1:]
    taken = intake(handler, parking, policy=replace(AT_ONCE, one_by_one=0))
    await taken(delivery(batch[0], consumer))
    await taken.settle()
    assert {one.offset for one, _ in parking.parked} == {1, 8}, "what comes again is not parked twice"
    assert consumer.commits == [{ZERO: 2, TopicPartition(TOPIC, 1): 9}]
    assert consumer.seeks == {ZERO: 2}
    consumer.waiting = [unreadable]
    await taken(delivery(batch[1], consumer))
    await taken.settle()
    assert sorted(one.offset for one, _ in parking.parked) == [1, 2, 3, 8]
    assert consumer.commits[-1] == {ZERO: 4}


async def test_a_store_that_goes_away_in_the_middle_costs_no_second_parking() -> None:
    handler, parking, consumer = Handler("a", b=2), FakeParking(), FakeConsumer()
    batch = [record(deleted(one), offset=place) for place, one in enumerate("abc")]
    consumer.waiting = batch[1:]
    taken = intake(handler, parking)
    await taken(delivery(batch[0], consumer))
    await taken.settle()
    assert consumer.seeks == {ZERO: 1}
    assert consumer.commits == [{ZERO: 1}]
    consumer.waiting = batch[2:]
    await taken(delivery(batch[1], consumer))
    await taken.settle()
    assert handler.handled == ["b", "c"]
    assert consumer.commits[-1] == {ZERO: 3}
    assert [one.offset for one, _ in parking.parked] == [0]


async def test_while_a_store_is_away_unreadable_records_are_not_parked_over_and_over() -> None:
    handler, parking, consumer = Handler(a=3), FakeParking(), FakeConsumer()
    taken = intake(handler, parking)
    for _ in range(2):
        consumer.waiting = [record(value=b"{", offset=2)]
        await taken(delivery(record(deleted("a"), offset=1), consumer))
    await taken.settle()
    assert [one.offset for one, _ in parking.parked] == [2]
    assert handler.handled == ["a"]
