"""The subscribers of the four services, called through FastStream's test broker with events as they are on the wire."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

from faststream.kafka import KafkaRouter, TestKafkaBroker
from tests.unit.bucketline.kafka.fakes import FakeDeadLetters

from bucketline.clock import ManualClock
from bucketline.domain.status import RANK_FINAL, RANK_PROCESSING, Status
from bucketline.events.cloudevents import encode_event
from bucketline.events.models import (
    BatchCanceled,
    BatchCompleted,
    BatchSubmitted,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMirrored,
    ObjectStatusChanged,
    ObjectUpdated,
    WorkUnitReady,
)
from bucketline.kafka.broker import Broker
from bucketline.settings import KafkaSettings, ServiceName
from bucketline_batcher import subscribers as batcher_subscribers
from bucketline_batcher.service import BatcherService
from bucketline_dedup import subscribers as dedup_subscribers
from bucketline_ingest_api import subscribers as ingest_api_subscribers
from bucketline_processor import subscribers as processor_subscribers

AT = ManualClock().now()
OBJECT = {"bucket_id": "bkt_1", "namespace_id": "ns_1", "revision": 1}
BATCH = {"bucket_id": "bkt_1", "namespace_id": "ns_1"}


class Calls:
    """Records the calls of any asynchronous method; ``answers`` maps names to results."""

    def __init__(self, **answers: object) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **_: object) -> object:
            self.made.append((name, arguments))
            return self.answers.get(name)

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.made if called == name]


class Service:
    """A service's subscribers in a broker of their own; what cannot be handled fails the test."""

    def __init__(self, name: ServiceName, router: KafkaRouter, dependencies: Mapping[str, object]) -> None:
        self.dead_letters = FakeDeadLetters()
        self.broker = Broker(KafkaSettings(), name, self.dead_letters, clock=ManualClock())
        self.broker.include(router, dependencies)
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> "Service":
        await self._opened.enter_async_context(TestKafkaBroker(self.broker))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()
        assert self.dead_letters.sent == []

    async def publish(self, event: Event, *, source: str = "/test") -> None:
        envelope = encode_event(event, id=f"evt_{event.subject}", source=source, at=AT)
        headers = {name: value.decode() for name, value in envelope.headers()}
        await self.broker.publish(envelope.data, f"bucketline.{envelope.topic}", key=b"k", headers=headers)


def status(object_id: str, rank: int, status: Status) -> ObjectStatusChanged:
    return ObjectStatusChanged(object_id=object_id, **OBJECT, run_id=1, sequence=rank, status=status, occurred_at=AT)


async def test_processor_schedules_units() -> None:
    scheduler = Calls()
    async with Service("processor", processor_subscribers.router, {"scheduler": scheduler}) as service:
        await service.publish(WorkUnitReady(unit_id="unit_1", size=3))
    assert scheduler.made == [("submit", ({"unit_1": {}},))]


async def test_dedup_mirrors_created_and_changed_objects_only() -> None:
    mirroring = Calls(load={})
    async with Service("dedup", dedup_subscribers.router, {"mirroring": mirroring}) as service:
        await service.publish(ObjectCreated(object_id="new", **OBJECT, created_at=AT))
        await service.publish(ObjectUpdated(object_id="changed", **OBJECT, blobs_changed=True, updated_at=AT))
        await service.publish(ObjectUpdated(object_id="renamed", **OBJECT, updated_at=AT))
        await service.publish(ObjectDeleted(object_id="gone", **OBJECT, deleted_at=AT))
    assert mirroring.named("load") == [(["new"],), (["changed"],), ([],)]


class FakeBatcher:
    """A batcher service whose parts record their calls."""

    def __init__(self, **objects: object) -> None:
        planner: Any = Calls(plan_ready_objects=set())
        planner.objects, planner.batches = Calls(get_many=objects), Calls(get=None)
        self.planner, self.progress, self.windowing = planner, Calls(), Calls()
        parts: Any = (planner, self.progress, self.windowing, Calls())
        self.dependencies = {"service": BatcherService(*parts, clock=ManualClock())}


async def test_batcher_ignores_completed_batches_and_processing_statuses() -> None:
    batcher = FakeBatcher()
    counts = {"object_count": 2, "failed_count": 0, "documents_written": 2, "completed_at": AT}
    async with Service("batcher", batcher_subscribers.router, batcher.dependencies) as service:
        await service.publish(BatchCompleted(batch_id="own", **BATCH, status=Status.COMPLETED, **counts))
        await service.publish(status("busy", RANK_PROCESSING, Status.PROCESSING))
        assert (batcher.planner.made, batcher.planner.batches.made, batcher.progress.made) == ([], [], [])
        await service.publish(BatchSubmitted(batch_id="b1", **BATCH, object_count=2, submitted_at=AT))
        await service.publish(BatchCanceled(batch_id="b2", **BATCH, canceled_at=AT))
        await service.publish(status("done", RANK_FINAL, Status.COMPLETED))
    assert batcher.planner.made == [("plan_batch", ("b1", {}))]
    assert batcher.planner.batches.made == [("get", ("b2",))]
    assert batcher.progress.named("update") == [("b1",)]
    ((records,),) = batcher.progress.named("apply_results")
    assert [record.event.object_id for record in records] == ["done"]


async def test_batcher_plans_mirrored_objects_and_adds_other_drafts_to_windows() -> None:
    found = {"a": {"mirror": {"state": "done"}}, "b": {"mirror": {"state": "pending"}}}
    batcher = FakeBatcher(**found)
    async with Service("batcher", batcher_subscribers.router, batcher.dependencies) as service:
        await service.publish(ObjectMirrored(object_id="a", **OBJECT))
    assert batcher.planner.named("plan_auto") == [([found["a"]], {"a": {}})]
    assert batcher.windowing.named("add_drafts") == [([found["a"]],)]


async def test_ingest_api_applies_statuses_of_known_objects_and_notifies() -> None:
    known = {"a": {"status": "PROCESSING", "run": {"id": 1, "rank": 2}, "created_at": AT, "moved_at": AT}}
    objects, documents, notifier = Calls(get_many=known), Calls(), Calls()
    deps = SimpleNamespace(objects=objects, documents=documents, notifier=notifier)
    async with Service("ingest-api", ingest_api_subscribers.router, {"container": deps}) as service:
        await service.publish(status("a", RANK_FINAL, Status.COMPLETED))
        await service.publish(status("gone", RANK_FINAL, Status.COMPLETED))
    applied: list[Sequence[ObjectStatusChanged]] = [events for (events,) in objects.named("apply_statuses")]
    assert [[event.object_id for event in events] for events in applied] == [["a"], []]
    assert documents.named("delete_of_objects") == [(["gone"],)]
    assert [[record.event.object_id for record in records] for (records,) in notifier.named("notify")] == [
        ["a"],
        ["gone"],
    ]


async def test_ingest_api_notifies_of_completed_batches() -> None:
    notifier = Calls()
    counts = {"object_count": 2, "failed_count": 0, "documents_written": 2, "completed_at": AT}
    container = SimpleNamespace(notifier=notifier)
    async with Service("ingest-api", ingest_api_subscribers.router, {"container": container}) as service:
        await service.publish(BatchSubmitted(batch_id="b", **BATCH, object_count=2, submitted_at=AT))
        await service.publish(BatchCompleted(batch_id="b", **BATCH, status=Status.COMPLETED, **counts))
    assert [type(record.event) for (records,) in notifier.named("notify") for record in records] == [BatchCompleted]
