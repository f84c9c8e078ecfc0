"""Objects on a real MongoDB: what every query is bounded by, and what is finished after a crash."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from tests.database import explain
from tests.fakes.blob_store import MemoryBlobStore
from tests.waiting import present

from bucketline.clock import ManualClock
from bucketline.db.buckets import BucketDocument
from bucketline.db.mongo import Collection, Database
from bucketline.domain.status import Status
from bucketline.errors import AlreadyExists, DependencyUnavailable
from bucketline.events.cloudevents import CloudEvent, ReceivedEvent
from bucketline.events.models import ObjectStatusChanged
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext
from bucketline.settings import read_settings
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.deletion import empty_bucket
from bucketline_ingest_api.objects.create import WriteResult, create_object, create_objects
from bucketline_ingest_api.objects.deletion import delete_object
from bucketline_ingest_api.objects.schemas import CreateObject, ListObjects, PatchObject
from bucketline_ingest_api.objects.service import list_documents, list_objects
from bucketline_ingest_api.objects.update import patch_object
from bucketline_ingest_api.reconciler import ObjectReconciler, reconcile_deletions
from bucketline_ingest_api.schemas import ListQuery
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.subscribers import apply_statuses

pytestmark = pytest.mark.stack


@dataclass
class Bus:
    """Remembers what was published; ``away`` makes it refuse."""

    published: list[CloudEvent] = field(default_factory=list)
    away: bool = False

    async def publish(self, envelopes: Sequence[CloudEvent]) -> None:
        if self.away:
            raise DependencyUnavailable("the broker is away")
        self.published += envelopes

    @property
    def types(self) -> list[str]:
        return [envelope.type.removeprefix("bucketline.object.").removesuffix(".v1") for envelope in self.published]


@dataclass
class World:
    deps: Container
    bus: Bus
    clock: ManualClock
    bucket: BucketDocument

    async def create(self, policy: str | None = None, *, auto: bool = False, **body: Any) -> str:
        request = CreateObject.model_validate(body)
        written = await create_object(self.deps, self.bucket, request, policy=policy, auto_process=auto)
        return written.document["_id"]

    async def settle(self) -> None:
        for outbox in (self.deps.object_outbox, self.deps.removal_outbox):
            await outbox.close()

    async def status(self, object_id: str) -> str | None:
        found = await self.deps.objects.collection.get(object_id)
        return found["status"] if found else None


@pytest.fixture
async def world(database: Database, clock: ManualClock) -> World:
    bus = Bus()
    runtime = ServiceContext(
        settings=read_settings("ingest-api"),
        database=database,
        kafka=cast("Any", SimpleNamespace(publisher=bus)),
        blobs=MemoryBlobStore(),
        health=Health(),
        clock=clock,
    )
    bucket: BucketDocument = {
        "_id": "bkt_1",
        "namespace_id": "ns_1",
        "name": "b",
        "description": None,
        "schema": {"properties": {"note": {"type": "text"}, "sku": {"type": "string"}}},
        "unique_key": None,
        "metadata": {},
        "storage_class": "standard",
        "settings": {},
        "created_at": clock.now(),
        "updated_at": clock.now(),
    }
    return World(Container(runtime, ApiSettings(inline_staging_threshold_bytes=1000)), bus, clock, bucket)


def stages(plan: Mapping[str, Any]) -> set[str]:
    """Every stage of a plan, nested ones included."""
    found = {str(plan["stage"])}
    inner = [plan["inputStage"]] if "inputStage" in plan else plan.get("inputStages", [])
    return found.union(*(stages(stage) for stage in inner))


async def test_no_use_case_scans_a_collection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Mapping[str, object], Any]] = []

    def noting(name: str) -> None:
        original = getattr(Collection, name)

        async def noted(self: Collection[Any], where: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((self._name, where, kwargs.get("sort")))
            return await original(self, where, *args, **kwargs)

        monkeypatch.setattr(Collection, name, noted)

    for name in (
        "find",
        "find_one",
        "count",
        "find_and_update",
        "update_one",
        "update_many",
        "delete_one",
        "delete_many",
    ):
        noting(name)

    note = {"property": "note", "data": "x"}
    first = await world.create(blobs=[note], idempotency_key="k", skip_duplicates=True, sku="A")
    await world.create(idempotency_key="k")
    await world.create(blobs=[note], skip_duplicates=True)
    await create_objects(
        world.deps, world.bucket, [{"blobs": [note], "skip_duplicates": True}], auto_process=True, size=0
    )
    keyed: BucketDocument = {**world.bucket, "_id": "bkt_2", "unique_key": {"fields": ["sku"], "default_policy": None}}
    for policy in ("insert", "upsert", "update"):
        await create_object(world.deps, keyed, CreateObject(sku="A", idempotency_key=policy), policy=policy)
    await patch_object(world.deps, world.bucket, first, PatchObject(note="x", sku="B"))
    listings: list[ListObjects | None] = [None]
    for order in ("created_at", "updated_at", "status", "object_id", "qty"):
        for direction in ("asc", "desc"):
            sort = {"field": order, "direction": direction}
            listings.append(ListObjects.model_validate({"sort": sort, "include_total": True}))
    listings.append(ListObjects.model_validate({"search": "x", "filters": {"status": "DRAFT", "sku": "b"}}))
    for body in listings:
        page = await list_objects(world.deps, world.bucket, ListQuery("/", {"limit": "1"}), body)
        if cursor := page.pagination.next_cursor:
            await list_objects(world.deps, world.bucket, ListQuery("/", {"cursor": cursor, "limit": "1"}), body)
    await list_documents(world.deps, "ns_1", first, ["col_1"])
    await world.deps.objects.find_stalled(world.clock.now(), limit=10, fields=["run"], after=(world.clock.now(), "obj"))
    await ObjectReconciler(world.deps).reconcile_page()
    await delete_object(world.deps, world.bucket, first)
    await world.settle()
    world.clock.advance(60)
    await reconcile_deletions(world.deps)
    await world.deps.object_outbox.publish_overdue()

    assert len(seen) > 40
    for name, where, order in seen:
        plan = await explain(world.deps.database.collection(name), where, sort=order)
        assert "COLLSCAN" not in stages(plan), (name, where, order)
        if name == "objects" and order and order[0][0] in ("created_at", "updated_at", "status"):
            assert "SORT" not in stages(plan), ("sorted in memory", where, order)


async def test_sweep_while_events_are_in_flight_publishes_each_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, publish = asyncio.Event(), world.bus.publish

    async def held(envelopes: Sequence[CloudEvent]) -> None:
        await gate.wait()
        await publish(envelopes)

    monkeypatch.setattr(world.bus, "publish", held)
    for number in range(3):
        await world.create(sku=f"{number}")
    world.clock.advance(60)
    assert await world.deps.object_outbox.publish_overdue() == 0
    gate.set()
    await world.settle()
    assert world.bus.types == ["created"] * 3
    assert await world.deps.object_outbox.publish_overdue() == 0


async def test_a_removal_that_a_crash_left_is_finished(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    object_id = await world.create(blobs=[{"property": "note", "data": "x" * 2000}])
    await world.settle()
    store = cast("MemoryBlobStore", world.deps.blobstore)
    assert len(store.objects) == 1, "content above the limit waits in S3"

    async def crash(_: Any) -> int:
        raise DependencyUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(world.deps.objects, "delete_unchanged", crash)
        with pytest.raises(DependencyUnavailable):
            await delete_object(world.deps, world.bucket, object_id)
    assert await reconcile_deletions(world.deps) == 0, "too early: its request may still be at it"
    world.clock.advance(60)
    assert await reconcile_deletions(world.deps) == 1
    await world.settle()
    assert await world.status(object_id) is None
    assert world.bus.types == ["created", "deleted"]
    assert await world.deps.removals.collection.count({}) == 0
    assert not store.objects


async def test_large_content_is_staged_under_the_object_that_holds_it(world: World) -> None:
    keyed: BucketDocument = {**world.bucket, "unique_key": {"fields": ["sku"], "default_policy": "upsert"}}
    store = cast("MemoryBlobStore", world.deps.blobstore)

    async def send(text: str) -> str:
        body = CreateObject.model_validate({"sku": "A", "blobs": [{"property": "note", "data": text}]})
        return (await create_object(world.deps, keyed, body)).document["_id"]

    object_id = await send("x" * 2000)
    first = set(store.objects)
    assert await send("x" * 2000) == object_id
    assert set(store.objects) == first, "what an unchanged object does not need was left behind"
    assert await send("y" * 2000) == object_id
    (blob,) = present(await world.deps.objects.collection.get(object_id))["blobs"]
    key = str(present(blob["source"])["key"])
    assert key.startswith(f"staging/inline/{object_id}/")
    assert store.objects[key].data == b"y" * 2000
    body = CreateObject.model_validate({"sku": "A", "blobs": [{"property": "note", "data": "z" * 2000}]})
    with pytest.raises(AlreadyExists):
        await create_object(world.deps, keyed, body, policy="insert")
    assert {stored.data for stored in store.objects.values()} == {b"x" * 2000, b"y" * 2000}


async def test_an_object_deleted_before_it_was_announced_is_announced_first(world: World) -> None:
    world.bus.away = True
    object_id = await world.create(sku="A")
    await world.settle()
    await delete_object(world.deps, world.bucket, object_id)
    await world.settle()
    assert world.bus.types == []
    world.bus.away = False
    world.clock.advance(60)
    await world.deps.removal_outbox.publish_overdue()
    assert world.bus.types == ["created", "deleted"]
    assert {envelope.key for envelope in world.bus.published} == {object_id}
    assert await world.deps.removals.collection.count({}) == 0


def told(bus: Bus) -> list[tuple[str, int]]:
    """What was said of objects, with the revision that it was said of."""
    revisions = [int(orjson.loads(envelope.data)["revision"]) for envelope in bus.published]
    return list(zip(bus.types, revisions, strict=True))


async def test_deletion_is_published_after_a_concurrent_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    object_id = await world.create(sku="A")
    await world.settle()
    delete = world.deps.objects.delete_unchanged

    async def overtaken(objects: Any) -> int:
        if objects[0]["revision"] == 1:
            world.bus.away = True
            await patch_object(world.deps, world.bucket, object_id, PatchObject(sku="B"))
            await world.settle()
            world.bus.away = False
        return await delete(objects)

    monkeypatch.setattr(world.deps.objects, "delete_unchanged", overtaken)
    await delete_object(world.deps, world.bucket, object_id)
    await world.settle()
    assert told(world.bus) == [("created", 1), ("updated", 2), ("deleted", 3)]


@pytest.mark.parametrize("whole_bucket", [False, True])
async def test_deletion_started_before_a_change_publishes_the_change_too(
    world: World, monkeypatch: pytest.MonkeyPatch, whole_bucket: bool
) -> None:
    async def crash(_: Any) -> int:
        raise DependencyUnavailable("away")

    object_id = await world.create(sku="A")
    await world.settle()
    with monkeypatch.context() as patched:
        patched.setattr(world.deps.objects, "delete_unchanged", crash)
        with pytest.raises(DependencyUnavailable):
            await delete_object(world.deps, world.bucket, object_id)
    world.bus.away = True
    await patch_object(world.deps, world.bucket, object_id, PatchObject(sku="B"))
    await world.settle()
    world.bus.away = False
    if whole_bucket:
        await empty_bucket(world.deps, world.bucket["_id"], world.clock.now() + timedelta(seconds=1))
    else:
        await delete_object(world.deps, world.bucket, object_id)
    await world.settle()
    assert told(world.bus) == [("created", 1), ("updated", 2), ("deleted", 3)]


async def test_updates_are_announced_in_order_after_an_outage(world: World) -> None:
    world.bus.away = True
    object_id = await world.create(sku="A")
    await patch_object(world.deps, world.bucket, object_id, PatchObject(sku="B"))
    await world.settle()
    world.bus.away = False
    await patch_object(world.deps, world.bucket, object_id, PatchObject(sku="C"))
    await world.settle()
    assert world.bus.types == ["created", "updated", "updated"]


async def test_repeat_of_an_invalid_object_is_written(world: World) -> None:
    """Two bodies share an idempotency key, so the second gets the first's object; the third repeats the second."""
    bodies = [
        {"idempotency_key": "k", "blobs": [{"property": "note", "data": "one"}]},
        {"idempotency_key": "k", "blobs": [{"property": "note", "data": "two"}]},
        {"skip_duplicates": True, "blobs": [{"property": "note", "data": "two"}]},
        {"skip_duplicates": True, "blobs": [{"property": "note", "data": "two"}]},
    ]
    outcomes = await create_objects(world.deps, world.bucket, bodies, auto_process=False, size=0)
    written = [outcome for outcome in outcomes if isinstance(outcome, WriteResult)]
    assert [row.replayed_by for row in written] == [None, "idempotency_key", None, "skip_duplicates"]
    sources = [row.document["blobs"][0]["source"] or {} for row in written]
    assert [source["text"] for source in sources] == ["one", "one", "two", "two"]
    assert len({row.document["_id"] for row in written}) == 2


async def test_a_batch_lost_in_a_crash_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(_: Any) -> None:
        raise DependencyUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(world.deps.batch_writer, "submit", crash)
        object_id = await world.create(auto=True, sku="A")
    found = await world.deps.objects.collection.get(object_id)
    assert found is not None
    assert found["status"] == "QUEUED"
    assert await world.deps.batches.collection.count({}) == 0
    world.clock.advance(60)
    await ObjectReconciler(world.deps).reconcile_page()
    batch = await world.deps.batches.get(str(found.get("batch_id")))
    assert batch is not None
    assert (batch["objects"], batch["status"], batch.get("run")) == ([object_id], "PENDING", 1)


async def test_a_status_that_the_bus_lost_is_read_from_the_unit(world: World) -> None:
    ids = [await world.create(auto=True, sku=str(n)) for n in range(3)]
    found = await world.deps.objects.get_many(ids)
    now = world.clock.now()
    items = [
        {"object_id": oid, "bucket_id": "bkt_1", "namespace_id": "ns_1", "batch_id": found[oid].get("batch_id"),
         "revision": 1, "run": 1}
        for oid in ids
    ]  # fmt: skip
    results = {
        "0": {"status": "COMPLETED", "documents": 2, "error": None, "error_type": None},
        "1": {"status": "FAILED", "documents": 0, "error": "not a PDF", "error_type": "permanent"},
    }
    unit = {"_id": "unit_1", "batch_id": None, "items": items, "state": "leased", "results": results, "moved_at": now}
    await world.deps.units.collection.insert(cast("Any", unit))
    stalled = ObjectReconciler(world.deps)
    assert await stalled.reconcile_page() == 0, "too early"
    world.clock.advance(60)
    assert await stalled.reconcile_page() == 0, "their batches go on"
    for n, status in enumerate(("COMPLETED", "FAILED")):
        where = {"_id": found[ids[n]].get("batch_id")}
        await world.deps.batches.collection.update_one(where, {"$set": {"status": status}})
    assert await stalled.reconcile_page() == 2
    assert [await world.status(oid) for oid in ids] == ["COMPLETED", "FAILED", "QUEUED"]
    done = await world.deps.objects.collection.get(ids[1])
    assert done is not None
    assert done["error"] == "not a PDF"
    assert await stalled.reconcile_page() == 0


async def test_a_lost_cancel_gives_the_object_back(world: World) -> None:
    object_id = await world.create(auto=True, sku="A")
    found = await world.deps.objects.collection.get(object_id)
    assert found is not None
    world.clock.advance(60)
    await ObjectReconciler(world.deps).reconcile_page()
    assert await world.status(object_id) == "QUEUED"
    await world.deps.batches.collection.update_one({"_id": found.get("batch_id")}, {"$set": {"status": "CANCELED"}})
    await ObjectReconciler(world.deps).reconcile_page()
    assert await world.status(object_id) == "DRAFT"


async def test_objects_of_a_deleted_batch_come_to_rest(world: World) -> None:
    """The bus lost what was said of them, and then the user deleted the batch."""
    ids = [await world.create(sku=str(n)) for n in range(4)]
    taken = {"status": "PROCESSING", "batch_id": "btch_gone", "run": {"id": 20, "rank": 2}}
    await world.deps.objects.collection.update_many({}, {"$set": {**taken, "moved_at": world.clock.now()}})
    result = {"status": "COMPLETED", "documents": 2, "error": None, "error_type": None}
    units = [("unit_1", ids[0], 20, "done"), ("unit_2", ids[1], 10, "done"), ("unit_3", ids[2], 20, "leased")]
    for unit_id, object_id, run, state in units:
        shared = {"bucket_id": "bkt_1", "namespace_id": "ns_1", "batch_id": "btch_gone", "revision": 1}
        item = {"object_id": object_id, **shared, "run": run, "turn": run}
        results = {"0": result} if state == "done" else {}
        unit = {"_id": unit_id, "items": [item], "state": state, "results": results, "moved_at": world.clock.now()}
        await world.deps.units.collection.insert(cast("Any", {"batch_id": "btch_gone", **unit}))
    world.clock.advance(60)
    assert await ObjectReconciler(world.deps).reconcile_page() == 3
    assert [await world.status(oid) for oid in ids] == ["COMPLETED", "DRAFT", "PROCESSING", "DRAFT"]


async def test_every_stalled_object_is_looked_at(world: World) -> None:
    ids = [await world.create(auto=True, sku=str(n)) for n in range(7)]
    small = world.deps.reconcile.model_copy(update={"batch_size": 2})
    deps = cast("Container", SimpleNamespace(**{**vars(world.deps), "reconcile": small}))
    world.clock.advance(60)
    looked: set[str] = set()
    page = world.deps.objects.find_stalled

    async def noted(*args: Any, **kwargs: Any) -> Any:
        found = await page(*args, **kwargs)
        looked.update(obj["_id"] for obj in found)
        assert not any("custom" in obj or "blobs" in obj for obj in found), "whole objects may be large"
        return found

    world.deps.objects.find_stalled = noted  # type: ignore[method-assign]
    stalled = ObjectReconciler(deps)
    for _ in range(4):
        await stalled.reconcile_page()
    assert looked == set(ids)


async def test_statuses_are_applied_once_and_only_forward(world: World) -> None:
    object_id = await world.create(auto=True, sku="A")
    gone = ("obj_gone", "obj_uncounted")
    for place, oid in enumerate(gone):
        document = {"_id": f"doc_{place}", "object_id": oid, "collection_id": "col_1", "run": 1}
        await world.deps.documents.collection.insert(cast("Any", document))

    def event(
        status: Status, rank: int, *, run: int = 1, oid: str = object_id, count: int = 1
    ) -> ReceivedEvent[ObjectStatusChanged]:
        changed = ObjectStatusChanged(
            object_id=oid, bucket_id="bkt_1", namespace_id="ns_1", revision=1, run_id=run, sequence=rank, status=status,
            documents_total=count, occurred_at=world.clock.now() + timedelta(seconds=rank),
        )  # fmt: skip
        return ReceivedEvent(event=changed, id=f"evt_{run}{rank}", source="/test", trace={})

    await apply_statuses([event(Status.COMPLETED, 3), event(Status.PROCESSING, 2)], world.deps)
    assert await world.status(object_id) == "COMPLETED"
    await apply_statuses([event(Status.FAILED, 3), event(Status.PROCESSING, 2), event(Status.COMPLETED, 3)], world.deps)
    assert await world.status(object_id) == "COMPLETED", "the first final status of a run wins"
    await apply_statuses([event(Status.QUEUED, 1, run=2)], world.deps)
    assert await world.status(object_id) == "QUEUED"
    counted, uncounted = gone
    await apply_statuses([event(Status.COMPLETED, 3, oid=counted)], world.deps)
    assert await world.deps.documents.collection.count({}) == 1
    # whoever wrote them died, and the next processor found no object and counted nothing
    await apply_statuses([event(Status.SKIPPED, 3, oid=uncounted, count=0)], world.deps)
    assert await world.deps.documents.collection.count({}) == 0, "documents of an object that is gone"
