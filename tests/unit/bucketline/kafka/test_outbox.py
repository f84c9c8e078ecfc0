"""Every stored event is published in order, at least once, with one identity."""

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
from bucketline.events.cloudevents import CloudEvent, encode_event
from bucketline.kafka.outbox import Outbox
from bucketline.kafka.publisher import NotPublished
from bucketline.settings import ReconcileSettings


class Store:
    """Outbox entries by document id; the next ``failures`` clears fail."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.entries: dict[str, tuple[datetime, list[CloudEvent]]] = {}
        self.failures = 0

    def write(self, document_id: str, *envelopes: CloudEvent) -> OutboxEntry:
        since, before = self.entries.get(document_id, (self.clock.now(), []))
        self.entries[document_id] = since, [*before, *envelopes]
        return OutboxEntry(document_id, tuple(self.entries[document_id][1]))

    async def find_overdue(self, before: datetime, *, limit: int, without: Sequence[str] = ()) -> list[OutboxEntry]:
        due = sorted((since, key) for key, (since, _) in self.entries.items() if since < before and key not in without)
        return [OutboxEntry(key, tuple(self.entries[key][1])) for _, key in due[:limit]]

    async def oldest_pending_since(self) -> datetime | None:
        return min((since for since, _ in self.entries.values()), default=None)

    async def clear(self, entries: Sequence[OutboxEntry]) -> None:
        if self.failures:
            self.failures -= 1
            raise DependencyUnavailable("MongoDB")
        for entry in entries:
            done = {envelope.id for envelope in entry.events}
            since, left = self.entries.get(entry.document_id, (self.clock.now(), []))
            left = [envelope for envelope in left if envelope.id not in done]
            if left:
                self.entries[entry.document_id] = since, left
            else:
                self.entries.pop(entry.document_id, None)


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
    return encode_event(deleted(name.rstrip("0123456789")), id=name, source="/test", at=AT)


async def test_enqueue_publishes_in_the_order_of_the_calls_and_clears_the_entries() -> None:
    bench = Bench()
    bench.outbox.enqueue([bench.store.write("a", event("a1"), event("a2"))])
    bench.outbox.enqueue([bench.store.write("b", event("b1"))])
    await bench.outbox.close()
    assert bench.published == ["a1", "a2", "b1"]
    assert bench.store.entries == {}


async def test_enqueue_during_publishing_publishes_with_the_next_group() -> None:
    bench = Bench()
    bench.outbox.enqueue([bench.store.write("a", event("a1"))])
    await asyncio.sleep(0)
    for number in range(5):
        bench.outbox.enqueue([bench.store.write(f"{number}", event(f"x{number}"))])
    await bench.outbox.close()
    assert bench.published == ["a1", "x0", "x1", "x2", "x3", "x4"]


async def test_failed_clear_after_publishing_leads_to_a_duplicate_with_the_same_identity() -> None:
    bench = Bench()
    bench.store.failures = 1
    bench.outbox.enqueue([bench.store.write("a", event("a1"))])
    await bench.outbox.close()
    assert bench.store.entries
    bench.clock.advance(4)
    assert await bench.outbox.publish_overdue() == 1
    first, second = bench.publisher.published
    assert first == second
    assert (first.source, first.id) == (second.source, second.id)
    assert bench.store.entries == {}


async def test_publish_overdue_after_broker_outage_publishes_oldest_first() -> None:
    bench = Bench()
    bench.publisher.failures = 3
    for name in ("c", "a", "b"):
        bench.outbox.enqueue([bench.store.write(name, event(f"{name}1"))])
        await bench.outbox.close()
        bench.clock.advance(1)
    assert bench.published == []
    bench.clock.advance(3)
    assert await bench.outbox.publish_overdue() == 3
    assert bench.published == ["c1", "a1", "b1"]
    assert bench.store.entries == {}


async def test_publish_overdue_during_broker_outage_updates_the_age_metric() -> None:
    bench = Bench()

    def age() -> float | None:
        return REGISTRY.get_sample_value("bucketline_outbox_oldest_event_age_seconds", {"collection": "objects"})

    bench.store.write("a", event("a1"))
    bench.publisher.failures = 1
    bench.clock.advance(90)
    with pytest.raises(NotPublished):
        await bench.outbox.publish_overdue()
    assert age() == 90
    await bench.outbox.publish_overdue()
    assert age() == 0


async def test_publish_overdue_with_recent_entry_publishes_nothing() -> None:
    bench = Bench()
    bench.store.write("a", event("a1"))
    bench.clock.advance(2)
    assert await bench.outbox.publish_overdue() == 0
    assert bench.published == []


async def test_enqueue_with_full_queue_leaves_the_entry_to_publish_overdue() -> None:
    bench = Bench(max_queue=1)
    bench.outbox.enqueue([bench.store.write("a", event("a1"))])
    bench.outbox.enqueue([bench.store.write("b", event("b1"))])
    await bench.outbox.close()
    assert bench.published == ["a1"]
    bench.clock.advance(4)
    await bench.outbox.publish_overdue()
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


async def test_publish_overdue_under_overload_skips_entries_in_flight() -> None:
    bench = Bench(max_group=200, publisher=SlowPublisher())
    publisher = cast("SlowPublisher", bench.publisher)
    for number in range(600):
        bench.outbox.enqueue([bench.store.write(f"{number}", event(f"x{number}"))])
    direct = asyncio.create_task(bench.outbox.publish([bench.store.write("direct", event("y1"))]))
    for number in range(5):
        bench.store.write(f"left{number}", event(f"left{number}"))
    await publisher.entered.wait()
    bench.clock.advance(60)
    assert await bench.outbox.publish_overdue() == 5
    assert bench.published == [f"left{number}" for number in range(5)], "what a crash left behind does not wait"
    publisher.gate.set()
    await bench.outbox.close()
    await direct
    assert len(bench.published) == len(set(bench.published)) == 606
    assert bench.store.entries == {}


@pytest.mark.parametrize("error", [NotPublished("away"), RuntimeError("unexpected")])
async def test_publish_overdue_after_failed_publish_publishes_the_entries(
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
        bench.outbox.enqueue([bench.store.write(name, event(f"{name}1"))])
    await bench.outbox.close()
    assert bench.published == ["c1"]
    bench.clock.advance(4)
    assert await bench.outbox.publish_overdue() == 2
    assert sorted(bench.published) == ["a1", "b1", "c1"]


async def test_publish_overdue_with_rejected_event_publishes_the_others() -> None:
    bench = Bench()
    bench.publisher.too_large = {"bad1"}
    for name in ("a", "bad", "b", "c"):
        bench.store.write(name, event(f"{name}1"))
        bench.clock.advance(1)
    bench.clock.advance(3)
    assert await bench.outbox.publish_overdue() == 3
    assert bench.published == ["a1", "b1", "c1"]
    assert set(bench.store.entries) == {"bad"}, "the rejected entry is kept"


async def test_publish_overdue_with_only_rejected_events_ends() -> None:
    bench = Bench()
    bench.publisher.too_large = {"x1", "y1"}
    bench.store.write("x", event("x1"))
    bench.store.write("y", event("y1"))
    bench.clock.advance(4)
    assert await bench.outbox.publish_overdue() == 0


def test_stored_event_of_unknown_type_keeps_its_topic() -> None:
    stored = {**event("a1").to_document(), "type": "bucketline.object.archived.v1", "topic": "objects.v1"}
    assert CloudEvent.from_document(stored).topic == "objects.v1"
