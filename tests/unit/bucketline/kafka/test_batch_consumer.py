"""What becomes of a record: handled, ignored, parked, or tried again. Never lost, and never in the way of others."""

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import REGISTRY
from tests.unit.bucketline.kafka.fakes import (
    TOPIC,
    FakeConsumer,
    FakeParking,
    deleted,
    delivery,
    intake,
    record,
)

from bucketline.errors import DependencyUnavailable, NonRetryableError, RetryableError
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.kafka.publisher import NotPublished


class Handler:
    """Remembers what it was given; ``faults`` maps an object to the errors that it raises, one a call."""

    def __init__(self, **faults: list[Exception]) -> None:
        self.calls: list[list[str]] = []
        self.handled: list[str] = []
        self.faults = faults

    async def __call__(self, records: Sequence[ReceivedEvent]) -> None:
        ids = [received.event.subject for received in records]
        self.calls.append(ids)
        for one in ids:
            if self.faults.get(one):
                raise self.faults[one].pop(0)
        self.handled += ids


def records(*ids: str) -> list[object]:
    return [record(deleted(one), offset=place) for place, one in enumerate(ids)]


async def test_a_micro_batch_is_everything_that_was_fetched_up_to_the_limit() -> None:
    handler, consumer = Handler(), FakeConsumer(records("b", "c", "d"))
    taken = intake(handler, FakeParking(), max_records=3)
    await taken(delivery(record(deleted("a"), offset=9), consumer))
    assert handler.calls == [["a", "b", "c"]]
    assert len(consumer.waiting) == 1


async def test_the_offset_is_committed_only_after_handling() -> None:
    consumer, begun, go_on = FakeConsumer(), asyncio.Event(), asyncio.Event()

    async def slow(_: Sequence[ReceivedEvent]) -> None:
        begun.set()
        await go_on.wait()

    taken = intake(slow, FakeParking())
    running = asyncio.create_task(taken(delivery(record(deleted("a"), offset=4, partition=2), consumer)))
    await begun.wait()
    await taken.settle()
    assert consumer.commits == []
    go_on.set()
    await running
    await taken.settle()
    assert consumer.commits == [{TopicPartition(TOPIC, 2): 5}]


async def test_offsets_of_partitions_that_were_given_away_are_not_committed() -> None:
    consumer = FakeConsumer(owned={TopicPartition(TOPIC, 1)})
    taken = intake(Handler(), FakeParking())
    consumer.waiting = [record(deleted("b"), offset=7, partition=1)]
    await taken(delivery(record(deleted("a"), offset=3, partition=0), consumer))
    await taken.settle()
    assert consumer.commits == [{TopicPartition(TOPIC, 1): 8}]


async def test_a_commit_that_fails_is_made_good_by_the_next() -> None:
    consumer = FakeConsumer(failures=1)
    taken = intake(Handler(), FakeParking())
    for offset in (0, 1):
        await taken(delivery(record(deleted("a"), offset=offset), consumer))
        await taken.settle()
    assert consumer.commits == [{TopicPartition(TOPIC, 0): 2}]


async def test_a_complaint_of_the_group_does_not_cost_the_record_in_hand() -> None:
    handler, consumer = Handler(), FakeConsumer(complaints=[KafkaError("coordination")])
    taken = intake(handler, FakeParking())
    await taken(delivery(record(deleted("a"), offset=4), consumer))
    await taken.settle()
    assert handler.handled == ["a"]
    assert consumer.commits == [{TopicPartition(TOPIC, 0): 5}]


async def test_partitions_are_given_away_after_the_handler_that_runs_and_its_commit() -> None:
    consumer, begun, go_on = FakeConsumer(), asyncio.Event(), asyncio.Event()

    async def slow(_: Sequence[ReceivedEvent]) -> None:
        begun.set()
        await go_on.wait()

    taken = intake(slow, FakeParking())
    running = asyncio.create_task(taken(delivery(record(deleted("a"), offset=4), consumer)))
    await begun.wait()
    revoking = asyncio.create_task(taken.revoked())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not revoking.done()
    assert taken.rebalancing
    go_on.set()
    await revoking
    assert consumer.commits == [{TopicPartition(TOPIC, 0): 5}]
    await running


async def test_a_commit_that_never_ends_does_not_keep_the_next_consumer_from_committing() -> None:
    gone, fresh = FakeConsumer(away=True), FakeConsumer()
    taken = intake(Handler(), FakeParking())
    await taken(delivery(record(deleted("a"), offset=0), gone))
    taken.left()
    assert not taken.joined
    await taken(delivery(record(deleted("a"), offset=0), fresh))
    await taken.settle()
    assert fresh.commits == [{TopicPartition(TOPIC, 0): 1}]


async def test_at_the_end_a_micro_batch_returns_with_its_commit() -> None:
    consumer = FakeConsumer()
    taken = intake(Handler(), FakeParking())
    await taken.closing()
    await taken(delivery(record(deleted("a"), offset=0), consumer))
    assert consumer.commits == [{TopicPartition(TOPIC, 0): 1}]


async def test_an_error_that_may_pass_is_tried_again() -> None:
    handler, parking = Handler(b=[RetryableError("soon"), OSError("soon")]), FakeParking()
    await intake(handler, parking).handle(records("a", "b"))
    assert handler.calls == [["a", "b"]] * 3
    assert handler.handled == ["a", "b"]
    assert parking.parked == []


async def test_tries_have_a_limit_and_only_the_guilty_record_is_parked() -> None:
    handler, parking = Handler(b=[ValueError("no")] * 99), FakeParking()
    await intake(handler, parking).handle(records("a", "b", "c"))
    assert handler.handled == ["a", "c"]
    ((parked, reason),) = parking.parked
    assert parked.offset == 1
    assert reason.attempts == 3 + 2
    assert isinstance(reason.error, ValueError)
    assert reason.group == "bucketline.dedup.objects.v1"
    assert reason.first_at <= reason.at


async def test_poison_is_not_tried_again() -> None:
    handler, parking = Handler(a=[NonRetryableError("never")] * 9), FakeParking()
    await intake(handler, parking).handle(records("a"))
    assert handler.calls == [["a"]]
    assert parking.parked[0][1].attempts == 1


@pytest.mark.parametrize(
    "bad",
    [
        record(value=b"{", headers=[("ce_type", b"bucketline.object.deleted.v1")]),
        record(deleted("x"), value=b"[1]"),
        record(deleted("x"), headers=[("ce_type", b"\xff\xfe"), ("ce_id", b"1"), ("ce_source", b"/x")]),
        record(deleted("x"), headers=[("ce_type", None)]),
        record(deleted("x"), headers=[]),
        record(value=None),
        record(value=b""),
    ],
    ids=["not JSON", "wrong schema", "type not UTF-8", "type null", "no headers", "no value", "empty value"],
)
async def test_what_cannot_be_read_is_parked_and_the_rest_is_handled(bad: object) -> None:
    handler, parking = Handler(), FakeParking()
    await intake(handler, parking).handle([record(deleted("a")), bad, record(deleted("b"))])
    assert handler.handled == ["a", "b"]
    assert [one for one, _ in parking.parked] == [bad]


async def test_events_of_a_newer_version_are_ignored_and_counted() -> None:
    handler, parking, consumer = Handler(), FakeParking(), FakeConsumer()
    newer = [
        record(
            value=b'{"object_id": "x"}',
            headers=[("ce_type", b"bucketline.object.archived.v1"), ("ce_id", b"1"), ("ce_source", b"/x")],
            offset=offset,
        )
        for offset in range(1000)
    ]
    before = ignored()
    taken = intake(handler, parking, max_records=2000)
    consumer.waiting = [*newer, record(deleted("b"), offset=1000)]
    await taken(delivery(newer[0], consumer))
    await taken.settle()
    assert handler.handled == ["b"]
    assert parking.parked == []
    assert ignored() - before == 1001
    assert consumer.commits == [{TopicPartition(TOPIC, 0): 1001}]


async def test_a_type_of_somebody_else_is_parked() -> None:
    parking = FakeParking()
    foreign = record(deleted("x"), headers=[("ce_type", b"com.example.x"), ("ce_id", b"1"), ("ce_source", b"/x")])
    await intake(Handler(), parking).handle([foreign])
    assert len(parking.parked) == 1


@pytest.mark.parametrize("away", [DependencyUnavailable("MongoDB"), NotPublished("the broker")])
async def test_while_a_store_or_the_broker_is_away_nothing_is_parked(away: Exception) -> None:
    handler, parking, consumer = Handler(b=[away] * 99), FakeParking(), FakeConsumer()
    consumer.waiting = [record(deleted("b"), offset=6), record(deleted("c"), offset=2, partition=1)]
    taken = intake(handler, parking)
    await taken(delivery(record(deleted("a"), offset=5), consumer))
    await taken.settle()
    assert parking.parked == []
    assert consumer.commits == []
    assert consumer.seeks == {TopicPartition(TOPIC, 0): 5, TopicPartition(TOPIC, 1): 2}


async def test_a_store_that_is_away_counts_before_what_else_went_wrong_beside_it() -> None:
    async def handler(_: Sequence[ReceivedEvent]) -> None:
        raise ExceptionGroup("tasks", [ValueError("no"), ExceptionGroup("more", [DependencyUnavailable("MongoDB")])])

    parking = FakeParking()
    with pytest.raises(DependencyUnavailable):
        await intake(handler, parking).handle(records("a"))
    assert parking.parked == []


async def test_a_record_that_cannot_be_parked_stays_where_it_is() -> None:
    parking, consumer = FakeParking(away=NotPublished("the broker")), FakeConsumer()
    taken = intake(Handler(), parking)
    await taken(delivery(record(value=b"{", offset=3), consumer))
    await taken.settle()
    assert consumer.commits == []
    assert consumer.seeks == {TopicPartition(TOPIC, 0): 3}


async def test_a_stop_in_the_middle_parks_nothing() -> None:
    async def handler(_: Sequence[ReceivedEvent]) -> None:
        raise asyncio.CancelledError

    parking, consumer = FakeParking(), FakeConsumer()
    with pytest.raises(asyncio.CancelledError):
        await intake(handler, parking)(delivery(record(deleted("a")), consumer))
    assert parking.parked == []
    assert consumer.commits == []


def ignored() -> float:
    return REGISTRY.get_sample_value("bucketline_records_total", {"topic": TOPIC, "outcome": "ignored"}) or 0.0
