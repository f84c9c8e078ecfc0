"""Every event that was written with its fact is published: in order, at least once, under one identity."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import cast

import pytest
from prometheus_client import REGISTRY
from tests.fakes.publisher import RecordingPublisher
from tests.unit.bucketline.kafka.fakes import AT, deleted

from bucketline.clock import ManualClock
from bucketline.db.outbox_store import OutboxEntry
from bucketline.errors import DependencyUnavailable
from bucketline.events.cloudevents import CloudEvent, wrap
from bucketline.kafka.outbox import Outbox
from bucketline.kafka.publisher import NotPublished
from bucketline.settings import ReconcileSettings


class Store:
    """Documents that owe events, by id; ``failures`` is how many clears fail."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.owed: dict[str, tuple[datetime, list[CloudEvent]]] = {}
        self.failures = 0

    def write(self, document_id: str, *envelopes: CloudEvent) -> OutboxEntry:
        since, before = self.owed.get(document_id, (self.clock.now(), []))
        self.owed[document_id] = since, [*before, *envelopes]
        return OutboxEntry(document_id, tuple(self.owed[document_id][1]))

    async def overdue(self, before: datetime, *, limit: int, without: Sequence[str] = ()) -> list[OutboxEntry]:
        due = sorted((since, key) for key, (since, _) in self.owed.items() if since < before and key not in without)
        return [OutboxEntry(key, tuple(self.owed[key][1])) for _, key in due[:limit]]

    async def oldest(self) -> datetime | None:
        return min((since for since, _ in self.owed.values()), default=None)

    async def clear(self, paid: Sequence[OutboxEntry]) -> None:
        if self.failures:
            self.failures -= 1
            raise DependencyUnavailable("MongoDB")
        for one in paid:
            done = {envelope.id for envelope in one.envelopes}
            since, left = self.owed.get(one.document_id, (self.clock.now(), []))
            left = [envelope for envelope in left if envelope.id not in done]
            if left:
                self.owed[one.document_id] = since, left
            else:
                self.owed.pop(one.document_id, None)


class Bench:
    """An outbox with its surroundings."""

    def __init__(self, *, publisher: RecordingPublisher | None = None, **options: int) -> None:
        self.clock = ManualClock()
        self.store = Store(self.clock)
        self.publisher = publisher or RecordingPublisher()
        settings = ReconcileSettings(outbox_delay_seconds=3, batch_size=2)
        self.outbox = Outbox("objects", self.store, self.publisher, clock=self.clock, settings=settings, **options)  # type: ignore[arg-type]  # a fake store

    @property
    def published(self) -> list[str]:
        return [envelope.id for envelope in self.publisher.published]


def event(name: str) -> CloudEvent:
    return wrap(deleted(name.rstrip("0123456789")), id=name, source="/test", at=AT)


async def test_events_come_out_in_the_order_of_the_writes_and_are_forgotten() -> None:
    bench = Bench()
    bench.outbox.flush_soon([bench.store.write("a", event("a1"), event("a2"))])
    bench.outbox.flush_soon([bench.store.write("b", event("b1"))])
    await bench.outbox.close()
    assert bench.published == ["a1", "a2", "b1"]
    assert bench.store.owed == {}


async def test_what_arrives_while_the_last_group_is_published_goes_with_the_next() -> None:
    bench = Bench()
    bench.outbox.flush_soon([bench.store.write("a", event("a1"))])
    await asyncio.sleep(0)
    for number in range(5):
        bench.outbox.flush_soon([bench.store.write(f"{number}", event(f"x{number}"))])
    await bench.outbox.close()
    assert bench.published == ["a1", "x0", "x1", "x2", "x3", "x4"]


async def test_a_crash_between_publishing_and_forgetting_gives_a_duplicate_with_the_same_identity() -> None:
    bench = Bench()
    bench.store.failures = 1
    bench.outbox.flush_soon([bench.store.write("a", event("a1"))])
    await bench.outbox.close()
    assert bench.store.owed
    bench.clock.advance(4)
    assert await bench.outbox.sweep() == 1
    first, second = bench.publisher.published
    assert first == second
    assert (first.source, first.id) == (second.source, second.id)
    assert bench.store.owed == {}


async def test_the_sweeper_publishes_what_an_absent_broker_left_behind_oldest_first() -> None:
    bench = Bench()
    bench.publisher.failures = 3
    for name in ("c", "a", "b"):
        bench.outbox.flush_soon([bench.store.write(name, event(f"{name}1"))])
        await bench.outbox.close()
        bench.clock.advance(1)
    assert bench.published == []
    bench.clock.advance(3)
    assert await bench.outbox.sweep() == 3
    assert bench.published == ["c1", "a1", "b1"]
    assert bench.store.owed == {}


async def test_the_age_of_the_oldest_event_is_told_above_all_while_none_can_be_published() -> None:
    bench = Bench()

    def age() -> float | None:
        return REGISTRY.get_sample_value("bucketline_outbox_oldest_event_age_seconds", {"collection": "objects"})

    bench.store.write("a", event("a1"))
    bench.publisher.failures = 1
    bench.clock.advance(90)
    with pytest.raises(NotPublished):
        await bench.outbox.sweep()
    assert age() == 90
    await bench.outbox.sweep()
    assert age() == 0


async def test_the_sweeper_leaves_alone_what_is_still_being_published() -> None:
    bench = Bench()
    bench.store.write("a", event("a1"))
    bench.clock.advance(2)
    assert await bench.outbox.sweep() == 0
    assert bench.published == []


async def test_a_queue_that_is_full_is_left_to_the_sweeper() -> None:
    bench = Bench(max_queue=1)
    bench.outbox.flush_soon([bench.store.write("a", event("a1"))])
    bench.outbox.flush_soon([bench.store.write("b", event("b1"))])
    await bench.outbox.close()
    assert bench.published == ["a1"]
    bench.clock.advance(4)
    await bench.outbox.sweep()
    assert bench.published == ["a1", "b1"]


class SlowPublisher(RecordingPublisher):
    """Holds every event back until ``gate`` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def publish(self, envelopes: Sequence[CloudEvent]) -> None:
        held = [envelope.id for envelope in envelopes if not envelope.id.startswith("left")]
        if held:
            self.entered.set()
            await self.gate.wait()
        await super().publish(envelopes)


async def test_sweep_under_overload_skips_what_its_process_has_in_flight() -> None:
    bench = Bench(max_group=200, publisher=SlowPublisher())
    publisher = cast("SlowPublisher", bench.publisher)
    for number in range(600):
        bench.outbox.flush_soon([bench.store.write(f"{number}", event(f"x{number}"))])
    direct = asyncio.create_task(bench.outbox.flush([bench.store.write("direct", event("y1"))]))
    for number in range(5):
        bench.store.write(f"left{number}", event(f"left{number}"))
    await publisher.entered.wait()
    bench.clock.advance(60)
    assert await bench.outbox.sweep() == 5
    assert bench.published == [f"left{number}" for number in range(5)], "what a crash left behind does not wait"
    publisher.gate.set()
    await bench.outbox.close()
    await direct
    assert len(bench.published) == len(set(bench.published)) == 606
    assert bench.store.owed == {}


@pytest.mark.parametrize("error", [NotPublished("away"), RuntimeError("unexpected")])
async def test_sweep_after_failed_publish_publishes_what_was_in_flight(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(max_group=1)
    publish = bench.publisher.publish
    fails = [True, True]

    async def failing(envelopes: Sequence[CloudEvent]) -> None:
        if fails:
            fails.pop()
            raise error
        await publish(envelopes)

    monkeypatch.setattr(bench.publisher, "publish", failing)
    for name in ("a", "b", "c"):
        bench.outbox.flush_soon([bench.store.write(name, event(f"{name}1"))])
    await bench.outbox.close()
    assert bench.published == ["c1"]
    bench.clock.advance(4)
    assert await bench.outbox.sweep() == 2
    assert sorted(bench.published) == ["a1", "b1", "c1"]


async def test_an_event_that_no_broker_takes_holds_up_nobody_else() -> None:
    bench = Bench()
    bench.publisher.too_large = {"bad1"}
    for name in ("a", "bad", "b", "c"):
        bench.store.write(name, event(f"{name}1"))
        bench.clock.advance(1)
    bench.clock.advance(3)
    assert await bench.outbox.sweep() == 3
    assert bench.published == ["a1", "b1", "c1"]
    assert set(bench.store.owed) == {"bad"}, "it is kept: a later release, or a broker with another limit, may take it"


async def test_a_page_full_of_events_that_no_broker_takes_ends_the_sweep() -> None:
    bench = Bench()
    bench.publisher.too_large = {"x1", "y1"}
    bench.store.write("x", event("x1"))
    bench.store.write("y", event("y1"))
    bench.clock.advance(4)
    assert await bench.outbox.sweep() == 0


def test_an_event_of_a_type_that_is_not_known_here_goes_where_its_version_said() -> None:
    stored = {**event("a1").to_document(), "type": "bucketline.object.archived.v1", "topic": "objects.v1"}
    assert CloudEvent.from_document(stored).topic == "objects.v1"


def test_an_event_that_was_stored_without_its_topic_goes_where_its_type_does() -> None:
    stored = event("a1").to_document()
    del stored["topic"]
    assert CloudEvent.from_document(stored) == event("a1")
