"""What becomes of a record: handled, ignored, dead-lettered or redelivered. Never lost, never blocking others."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from tests.unit.bucketline.kafka.fakes import AT, NO_WAIT, TOPIC, Record, deleted, record, subscribed

from bucketline.errors import DependencyUnavailable, NonRetryableError, RetryableError
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import ObjectUpdated
from bucketline.kafka.publisher import NotPublished

ZERO, ONE = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


class Handler:
    """Remembers its calls; ``faults`` maps an object to the errors that it raises, one per call."""

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


class Refusing(Handler):
    """Never takes ``refused``; an object in ``away`` finds the store unavailable so many times when it is alone."""

    def __init__(self, *refused: str, **away: int) -> None:
        super().__init__()
        self.refused, self.away = set(refused), away

    async def __call__(self, records: Sequence[ReceivedEvent]) -> None:
        ids = [received.event.subject for received in records]
        if len(ids) == 1 and self.away.get(ids[0]):
            self.away[ids[0]] -= 1
            raise DependencyUnavailable("MongoDB")
        if self.refused & set(ids):
            raise ValueError("never")
        self.handled += ids


def batch(*ids: str) -> list[Record]:
    return [record(deleted(one), offset=offset) for offset, one in enumerate(ids)]


async def test_micro_batch_when_handled_is_committed_once_afterwards() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Sequence[ReceivedEvent]) -> None:
        begun.set()
        await go_on.wait()

    async with subscribed(slow) as one:
        rows = record(deleted("a"), offset=4, partition=2), record(deleted("b"), offset=9, partition=1)
        running = asyncio.create_task(one.deliver(*rows))
        await begun.wait()
        assert one.consumer.commits == []
        go_on.set()
        await running
        assert one.consumer.commits == [{TopicPartition(TOPIC, 2): 5, ONE: 10}]


async def test_failed_commit_is_covered_by_the_next() -> None:
    async with subscribed(Handler()) as one:
        one.consumer.failures = 1
        for offset in (0, 1):
            await one.deliver(record(deleted("a"), offset=offset))
        assert one.consumer.commits == [{ZERO: 2}]


async def test_transient_error_is_retried() -> None:
    handler = Handler(b=[RetryableError("soon"), OSError("soon")])
    async with subscribed(handler) as one:
        await one.deliver(*batch("a", "b"))
        assert handler.calls == [["a", "b"]] * 3
        assert handler.handled == ["a", "b"]
        assert one.dead_letters.sent == []


async def test_exhausted_retries_dead_letter_only_the_event_at_fault() -> None:
    handler = Handler(b=[ValueError("no")] * 99)
    async with subscribed(handler) as one:
        await one.deliver(*batch("a", "b", "c"))
        assert handler.handled == ["a", "c"]
        ((dead_letter, reason),) = one.dead_letters.sent
        assert dead_letter.offset == 1
        assert reason.attempts == 3 + 2
        assert isinstance(reason.error, ValueError)
        assert reason.group == "bucketline.dedup.objects.v1"
        assert reason.first_at <= reason.at
        assert one.consumer.commits == [{ZERO: 3}]


async def test_poison_is_not_retried() -> None:
    handler = Handler(a=[NonRetryableError("never")] * 9)
    async with subscribed(handler) as one:
        await one.deliver(*batch("a"))
        assert handler.calls == [["a"]]
        assert one.dead_letters.sent[0][1].attempts == 1


@pytest.mark.parametrize(
    "bad",
    [
        record(value=b"{", headers=[("ce_type", b"bucketline.object.deleted.v1")]),
        record(deleted("x"), value=b"[1]"),
        record(deleted("x"), headers=[("ce_type", b"\xff\xfe"), ("ce_id", b"1"), ("ce_source", b"/x")]),
        record(deleted("x"), headers=[("ce_type", None)]),
        record(deleted("x"), headers=[]),
        record(deleted("x"), headers=[("ce_type", b"com.example.x"), ("ce_id", b"1"), ("ce_source", b"/x")]),
        replace(record(), key=None),
        record(value=b""),
    ],
    ids=[
        "not JSON",
        "wrong schema",
        "type not UTF-8",
        "type null",
        "no headers",
        "foreign type",
        "no key or value",
        "empty value",
    ],
)
async def test_unreadable_record_is_dead_lettered_and_others_are_handled(bad: Record) -> None:
    handler = Handler()
    async with subscribed(handler) as one:
        await one.deliver(record(deleted("a")), bad, record(deleted("b")))
        assert handler.handled == ["a", "b"]
        assert [dead_letter for dead_letter, _ in one.dead_letters.sent] == [bad]
        await one.deliver(bad)
        assert [dead_letter for dead_letter, _ in one.dead_letters.sent] == [bad, bad], "also when it comes alone"


async def test_events_of_a_newer_release_are_ignored_and_counted() -> None:
    handler = Handler()
    headers = [("ce_type", b"bucketline.object.archived.v1"), ("ce_id", b"1"), ("ce_source", b"/x")]
    newer = [record(value=b"{}", headers=headers, offset=offset) for offset in range(1000)]
    before = ignored()
    async with subscribed(handler) as one:
        await one.deliver(*newer, record(deleted("b"), offset=1000))
        assert handler.handled == ["b"]
        assert one.dead_letters.sent == []
        assert ignored() - before == 1000
        assert one.consumer.commits == [{ZERO: 1001}]


async def test_event_types_that_the_subscriber_does_not_name_are_not_delivered() -> None:
    handler = Handler()
    updated = ObjectUpdated(object_id="u", bucket_id="b", namespace_id="n", revision=1, updated_at=AT)
    async with subscribed(handler) as one:
        await one.deliver(record(updated, offset=0), record(deleted("a"), offset=1))
        await one.deliver(record(updated, offset=2))
        assert handler.calls == [["a"]]
        assert one.dead_letters.sent == []
        assert one.consumer.commits == [{ZERO: 2}, {ZERO: 3}]


@pytest.mark.parametrize("away", [DependencyUnavailable("MongoDB"), NotPublished("the broker")])
async def test_unavailable_store_dead_letters_nothing_and_rewinds_every_partition(away: Exception) -> None:
    async with subscribed(Handler(b=[away] * 99)) as one:
        await one.deliver(
            record(deleted("a"), offset=5), record(deleted("b"), offset=6), record(deleted("c"), offset=2, partition=1)
        )
        assert one.dead_letters.sent == []
        assert one.consumer.commits == []
        assert one.consumer.seeks == {ZERO: 5, ONE: 2}


async def test_unavailable_store_takes_precedence_in_an_exception_group() -> None:
    async def handler(_: Sequence[ReceivedEvent]) -> None:
        raise ExceptionGroup("tasks", [ValueError("no"), ExceptionGroup("more", [DependencyUnavailable("MongoDB")])])

    async with subscribed(handler) as one:
        await one.deliver(*batch("a"))
        assert one.dead_letters.sent == []
        assert one.consumer.seeks == {ZERO: 0}


async def test_record_that_cannot_be_dead_lettered_is_redelivered() -> None:
    async with subscribed(Handler()) as one:
        one.dead_letters.errors = [NotPublished("the broker")]
        await one.deliver(record(value=b"{", offset=3))
        assert one.consumer.commits == []
        assert one.consumer.seeks == {ZERO: 3}


async def test_cancellation_commits_and_dead_letters_nothing() -> None:
    async def handler(_: Sequence[ReceivedEvent]) -> None:
        raise asyncio.CancelledError

    async with subscribed(handler) as one:
        with pytest.raises(asyncio.CancelledError):
            await one.deliver(*batch("a"))
        assert one.dead_letters.sent == []
        assert one.consumer.commits == []


async def test_unexpected_error_passes_over_no_record() -> None:
    handler = Handler()
    rows = record(value=b"{", offset=1), record(deleted("b"), offset=2), record(deleted("c"), offset=3)
    async with subscribed(handler) as one:
        one.dead_letters.errors = [AssertionError("unexpected")]
        with capture_logs() as logs:
            await one.deliver(*rows)
        assert (one.consumer.commits, one.consumer.seeks) == ([], {ZERO: 1})
        assert [(row["event"], row["exc_info"]) for row in logs] == [("micro-batch failed", True)]
        await one.deliver(*rows)
        assert set(handler.handled) == {"b", "c"}
        assert [dead_letter for dead_letter, _ in one.dead_letters.sent] == [rows[0]]
        assert one.consumer.commits == [{ZERO: 4}]


async def test_single_events_that_exceed_the_time_limit_are_redelivered() -> None:
    rows = (
        record(deleted("a"), offset=1),
        record(deleted("b"), offset=2),
        record(value=b"{", offset=3),
        record(value=b"[", offset=8, partition=1),
    )
    async with subscribed(Refusing("a", "b"), policy=replace(NO_WAIT, one_by_one=0)) as one:
        await one.deliver(*rows)
        assert {record.offset for record, _ in one.dead_letters.sent} == {1, 8}, "what is redelivered is not sent twice"
        assert one.consumer.commits == [{ZERO: 2, ONE: 9}]
        assert one.consumer.seeks == {ZERO: 2}
        await one.deliver(*rows[1:3])
        assert sorted(record.offset for record, _ in one.dead_letters.sent) == [1, 2, 3, 8]
        assert one.consumer.commits[-1] == {ZERO: 4, ONE: 9}


async def test_store_that_becomes_unavailable_half_way_dead_letters_nothing_twice() -> None:
    handler = Refusing("a", b=2)
    rows = batch("a", "b", "c")
    async with subscribed(handler) as one:
        await one.deliver(*rows)
        assert one.consumer.seeks == {ZERO: 1}
        assert one.consumer.commits == [{ZERO: 1}]
        await one.deliver(*rows[1:])
        assert handler.handled == ["b", "c"]
        assert one.consumer.commits[-1] == {ZERO: 3}
        assert [record.offset for record, _ in one.dead_letters.sent] == [0]


async def test_unreadable_record_behind_a_postponed_one_is_dead_lettered_once() -> None:
    handler = Refusing(a=3)
    rows = record(deleted("a"), offset=1), record(value=b"{", offset=2)
    async with subscribed(handler) as one:
        for _ in range(2):
            await one.deliver(*rows)
        assert [record.offset for record, _ in one.dead_letters.sent] == [2]
        assert handler.handled == ["a"]


async def test_partition_that_was_revoked_is_not_rewound() -> None:
    async with subscribed(Handler(a=[DependencyUnavailable("MongoDB")] * 9)) as one:
        one.consumer.owned = {ONE}
        await one.deliver(record(deleted("a"), offset=3), record(deleted("b"), offset=7, partition=1))
        assert one.consumer.seeks == {ONE: 7}


def ignored() -> float:
    return REGISTRY.get_sample_value("bucketline_records_total", {"topic": TOPIC, "outcome": "ignored"}) or 0.0
