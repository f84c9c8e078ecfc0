"""Tasks are driven to their end whatever happens to the process that took them."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica, World

from bucketline.clock import wire_time
from bucketline.db.tasks import TaskDocument
from bucketline.errors import BadRequest, DependencyUnavailable, ServiceUnavailable
from bucketline_ingest_api import deletion
from bucketline_ingest_api.collections import trigger
from bucketline_ingest_api.tasks import runner as running
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"name": {"type": "string"}}}
KIND = "api_buckets_delete"


async def begin(replica: Replica, **more: Any) -> TaskDocument:
    return await replica.deps.runner.create(KIND, organization_id="org_local", namespace_id=None, inputs=["x"], **more)


async def stored(replica: Replica, task: TaskDocument) -> TaskDocument:
    found = await replica.deps.tasks.get_by_id(task["_id"])
    assert found is not None
    return found


async def bucket_with(replica: Replica, objects: int) -> str:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    made = await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": SCHEMA}, namespace="demo")
    for start in range(0, objects, 100):
        rows = [{"name": str(number)} for number in range(start, min(objects, start + 100))]
        await replica.make(f"/v1/buckets/{made['bucket_id']}/objects/batch", {"objects": rows}, namespace="demo")
    return str(made["bucket_id"])


async def collection_of(replica: Replica, bucket: str) -> Any:
    """A collection that passes the bucket's objects through."""
    body = {
        "collection_name": "docs",
        "source": {"type": "bucket", "bucket_ids": [bucket]},
        "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"},
    }
    return await replica.make("/v1/collections", body, namespace="demo")


async def test_task_with_expired_lease_is_executed_by_another_replica(world: World) -> None:
    dead, alive = world.replica(), world.replica()
    done: list[str] = []

    async def step(task: TaskDocument) -> TaskOutcome:
        done.append(task["_id"])
        return TaskResult(outputs=["x"])

    for replica in (dead, alive):
        replica.deps.runner.register(KIND, step)
    task = await begin(dead)
    now = world.clock.now()
    assert await dead.deps.tasks.claim(task["_id"], "turn of the dead", now=now, until=now + running.LEASE)
    assert await alive.deps.runner.poll() == 0
    assert not await alive.deps.runner.execute(task["_id"])
    world.clock.advance(running.LEASE.total_seconds() + 1)
    assert await alive.deps.runner.poll() == 1
    await alive.settle()
    assert done == [task["_id"]]
    assert (await stored(alive, task))["status"] == "COMPLETED"
    # the dead one comes back and finds that it was overtaken
    assert not await dead.deps.tasks.end_attempt(task["_id"], "turn of the dead", {"status": "FAILED"}, due=None)
    assert (await stored(alive, task))["status"] == "COMPLETED"


async def test_concurrent_polls_execute_a_task_once(world: World) -> None:
    replicas = [world.replica() for _ in range(3)]
    turns = 0

    async def step(_: TaskDocument) -> TaskOutcome:
        nonlocal turns
        turns += 1
        await asyncio.sleep(0)
        return TaskResult()

    for replica in replicas:
        replica.deps.runner.register(KIND, step)
    tasks = [await begin(replicas[0]) for _ in range(5)]
    await asyncio.gather(*(replica.deps.runner.execute(task["_id"]) for task in tasks for replica in replicas))
    assert turns == 5


async def test_failing_step_is_retried_with_backoff_until_the_limit(world: World, replica: Replica) -> None:
    async def step(_: TaskDocument) -> TaskOutcome:
        raise RuntimeError("away")

    replica.deps.runner.register(KIND, step)
    task = await begin(replica)
    pauses = []
    for _ in range(running.MAX_ATTEMPTS):
        assert await replica.deps.runner.execute(task["_id"])
        found = await stored(replica, task)
        if (due := found.get("due_at")) is not None:
            pauses.append((due - world.clock.now()).total_seconds())
            assert not await replica.deps.runner.execute(task["_id"])
            world.clock.advance(pauses[-1])
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == running.MAX_BACKOFF_SECONDS
    assert found["status"] == "FAILED"
    answer = (await replica.call("GET", f"/v1/tasks/{task['_id']}")).body
    assert answer["error"] == answer["additional_data"]["error"]
    assert "away" not in answer["error"]


@pytest.mark.parametrize("error", [DependencyUnavailable("S3 is away"), ServiceUnavailable()])
async def test_transient_errors_are_retried_without_limit(world: World, replica: Replica, error: Exception) -> None:
    away = True

    async def step(_: TaskDocument) -> TaskOutcome:
        if away:
            raise error
        return TaskResult(outputs=["x"])

    replica.deps.runner.register(KIND, step)
    task = await begin(replica)
    for _ in range(2 * running.MAX_ATTEMPTS):
        assert await replica.deps.runner.execute(task["_id"])
        world.clock.advance(running.MAX_BACKOFF_SECONDS)
    assert (await stored(replica, task))["status"] == "IN_PROGRESS"
    away = False
    assert await replica.deps.runner.execute(task["_id"])
    assert (await stored(replica, task))["status"] == "COMPLETED"


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("what", ["bucket", "namespace"])
async def test_repeated_delete_restarts_a_failed_deletion(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch, what: str, forgotten: bool
) -> None:
    bucket = await bucket_with(replica, 3)
    path, within = (f"/v1/buckets/{bucket}", "demo") if what == "bucket" else ("/v1/namespaces/demo", None)

    async def broken(*_: Any) -> int:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(deletion, "delete_objects", broken)
        deleted = (await replica.call("DELETE", path, namespace=within)).body
        await replica.settle()
        for _ in range(running.MAX_ATTEMPTS):
            world.clock.advance(running.MAX_BACKOFF_SECONDS)
            await replica.deps.runner.poll()
            await replica.settle()
    task = f"/v1/tasks/{deleted['task_id']}"
    assert (await replica.call("GET", task)).body["status"] == "FAILED"
    if forgotten:
        assert (await replica.call("DELETE", task)).status == 200
    again = await replica.call("DELETE", path, namespace=within)
    assert again.body["task_id"] == deleted["task_id"]
    await replica.settle()
    assert (await replica.call("GET", task)).body["status"] == "COMPLETED"
    assert await replica.deps.objects.collection.count({"bucket_id": bucket}) == 0
    assert (await replica.call("GET", path, namespace=within)).status == 404


async def test_api_error_in_a_step_fails_the_task_with_its_message(replica: Replica) -> None:
    async def step(_: TaskDocument) -> TaskOutcome:
        raise BadRequest("there is nothing to delete")

    replica.deps.runner.register(KIND, step)
    task = await begin(replica)
    await replica.deps.runner.execute(task["_id"])
    found = await stored(replica, task)
    assert (found["status"], found["error"]) == ("FAILED", "there is nothing to delete")


async def test_execution_canceled_by_shutdown_is_due_at_once(world: World) -> None:
    first, second = world.replica(), world.replica()
    begun = asyncio.Event()

    async def long(_: TaskDocument) -> TaskOutcome:
        begun.set()
        await asyncio.Event().wait()
        return TaskResult()

    async def short(_: TaskDocument) -> TaskOutcome:
        return TaskResult()

    first.deps.runner.register(KIND, long)
    second.deps.runner.register(KIND, short)
    task = await begin(first)
    first.deps.runner.enqueue(task["_id"])
    await begun.wait()
    await first.deps.runner.close()
    assert await second.deps.runner.poll() == 1
    await second.settle()
    assert (await stored(second, task))["status"] == "COMPLETED"


async def test_progress_resets_the_attempt_counter(world: World, replica: Replica) -> None:
    outcomes: list[Any] = [
        DependencyUnavailable("away"),
        Reschedule(world.clock.now(), {"done": 1}),
        DependencyUnavailable("away"),
    ]

    async def step(_: TaskDocument) -> TaskOutcome:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]  # what is no exception is a turn

    replica.deps.runner.register(KIND, step)
    task = await begin(replica)
    for attempts in (1, 0, 1):
        await replica.deps.runner.execute(task["_id"])
        found = await stored(replica, task)
        assert found.get("attempts") == attempts
        world.clock.advance(5)
    assert found["data"] == {"done": 1}


async def test_bucket_deletion_removes_late_writes_of_a_caching_replica(world: World) -> None:
    here, there = world.replica(), world.replica()
    bucket = await bucket_with(here, 230)
    late = await there.make(f"/v1/buckets/{bucket}/objects", {"name": "early"}, namespace="demo")
    deleted = await here.call("DELETE", f"/v1/buckets/{bucket}", namespace="demo")
    assert (await here.call("POST", f"/v1/buckets/{bucket}/objects", {}, namespace="demo")).status == 404
    await here.settle()
    assert await here.deps.objects.collection.count({"bucket_id": bucket}) == 0
    late = await there.make(f"/v1/buckets/{bucket}/objects", {"name": "late"}, namespace="demo")
    task = (await here.call("GET", f"/v1/tasks/{deleted.body['task_id']}")).body
    assert task["status"] == "IN_PROGRESS"
    world.clock.advance(deletion.cache_grace_period(here.deps).total_seconds() + 0.1)
    await there.deps.runner.poll()
    await there.settle()
    task = (await here.call("GET", f"/v1/tasks/{deleted.body['task_id']}")).body
    assert (task["status"], task["outputs"]) == ("COMPLETED", [bucket])
    assert task["additional_data"]["objects_deleted"] == 232
    assert await here.deps.objects.collection.get(late["object_id"]) is None
    assert (await there.call("GET", f"/v1/buckets/{bucket}", namespace="demo")).status == 404
    told = [envelope.type for replica in (here, there) for envelope in replica.bus.published]
    assert told.count("bucketline.object.deleted.v1") == 232


async def test_bucket_deletion_waits_for_the_configured_cache_time(world: World) -> None:
    here, there = world.replica(namespace_cache_seconds=60), world.replica(namespace_cache_seconds=60)
    bucket = await bucket_with(here, 1)
    await there.make(f"/v1/buckets/{bucket}/objects", {"name": "early"}, namespace="demo")
    deleted = await here.call("DELETE", f"/v1/buckets/{bucket}", namespace="demo")
    await here.settle()
    world.clock.advance(30)
    await here.deps.runner.poll()
    await here.settle()
    await there.make(f"/v1/buckets/{bucket}/objects", {"name": "late"}, namespace="demo")
    world.clock.advance(60)
    await here.deps.runner.poll()
    await here.settle()
    assert (await here.call("GET", f"/v1/tasks/{deleted.body['task_id']}")).body["status"] == "COMPLETED"
    assert await here.deps.objects.collection.count({}) == 0


async def test_namespace_deletion_removes_late_writes_of_a_caching_replica(world: World) -> None:
    here, there = world.replica(), world.replica(namespace_cache_seconds=600)
    bucket = await bucket_with(here, 3)
    await there.make(f"/v1/buckets/{bucket}/objects", {"name": "early"}, namespace="demo")
    deleted = await here.call("DELETE", "/v1/namespaces/demo")
    await here.settle()
    await there.make(f"/v1/buckets/{bucket}/objects", {"name": "late"}, namespace="demo")
    world.clock.advance(deletion.cache_grace_period(here.deps).total_seconds())
    await here.deps.runner.poll()
    await here.settle()
    assert (await here.call("GET", f"/v1/tasks/{deleted.body['task_id']}")).body["status"] == "COMPLETED"
    for name in ("namespaces", "buckets", "objects"):
        assert await here.deps.database.collection(name).count({}) == 0, name


async def test_final_sweep_removes_objects_written_into_a_deleted_bucket(world: World) -> None:
    here, there = world.replica(), world.replica(namespace_cache_seconds=600)
    bucket = await bucket_with(here, 1)
    await there.make(f"/v1/buckets/{bucket}/objects", {"name": "early"}, namespace="demo")
    await here.call("DELETE", f"/v1/buckets/{bucket}", namespace="demo")
    await here.settle()
    world.clock.advance(10)
    await here.deps.runner.poll()
    await here.settle()
    assert await here.deps.buckets.collection.get(bucket) is None
    await there.make(f"/v1/buckets/{bucket}/objects", {"name": "very late"}, namespace="demo")
    world.clock.advance(deletion.FINAL_SWEEP_DELAY.total_seconds())
    await here.deps.runner.poll()
    await here.settle()
    assert await here.deps.objects.collection.count({}) == 0
    shown = (await here.make("/v1/tasks/list", {}))["results"]
    assert [task["task_type"] for task in shown] == ["api_buckets_delete"]


async def test_deletion_whose_request_died_is_completed(world: World, replica: Replica) -> None:
    bucket = await bucket_with(replica, 3)
    task = await replica.deps.runner.create(
        KIND, organization_id="org_local", namespace_id=None, inputs=[bucket], data={}
    )
    for _ in range(3):
        await replica.deps.runner.execute(task["_id"])
        world.clock.advance(10)
    assert (await stored(replica, task))["status"] == "COMPLETED"
    assert await replica.deps.buckets.collection.get(bucket) is None


async def test_interrupted_large_trigger_creates_each_batch_once(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = await bucket_with(replica, 25)
    collection = await collection_of(replica, bucket)
    monkeypatch.setattr(trigger, "MAX_OBJECTS", 10)
    submit: Any = vars(trigger)["submit_batch"]
    fails = [False, True, False, True, False]

    async def failing(*args: Any) -> Any:
        if fails and fails.pop(0):
            raise DependencyUnavailable("away")
        return await submit(*args)

    monkeypatch.setattr(trigger, "submit_batch", failing)
    made = await replica.make(f"/v1/collections/{collection['collection_id']}/trigger", None, namespace="demo")
    assert made["batch_id"] is None
    await replica.settle()
    for _ in range(4):
        world.clock.advance(5)
        await replica.deps.runner.poll()
        await replica.settle()
    task = (await replica.call("GET", f"/v1/tasks/{made['task_id']}")).body
    assert task["status"] == "COMPLETED"
    batches = await replica.deps.batches.collection.find({"bucket_id": bucket}, limit=10)
    assert sorted(batch["total"] for batch in batches) == [5, 10, 10]
    assert {batch["status"] for batch in batches} == {"PENDING"}
    members = [object_id for batch in batches for object_id in batch["objects"]]
    assert len(members) == len(set(members)) == 25
    assert sorted(task["outputs"]) == sorted(batch["_id"] for batch in batches)


async def test_interrupted_large_trigger_keeps_objects_that_no_longer_match(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = await bucket_with(replica, 25)
    collection = await collection_of(replica, bucket)
    monkeypatch.setattr(trigger, "MAX_OBJECTS", 10)
    note, cut = replica.deps.tasks.save_progress, [True, False, True, False, True]

    async def noting(*args: Any) -> None:
        """The objects of the batches that were submitted are on their way, and no longer drafts."""
        for batch in await replica.deps.batches.collection.find({"status": "PENDING"}, limit=10):
            await replica.deps.objects.collection.update_many(
                {"_id": {"$in": batch["objects"]}}, {"$set": {"status": "QUEUED"}}
            )
        if cut and cut.pop(0):
            raise DependencyUnavailable("away")
        await note(*args)

    monkeypatch.setattr(replica.deps.tasks, "save_progress", noting)
    drafts = {"source_filters": {"AND": [{"field": "status", "operator": "eq", "value": "DRAFT"}]}}
    made = await replica.make(f"/v1/collections/{collection['collection_id']}/trigger", drafts, namespace="demo")
    await replica.settle()
    for _ in range(4):
        world.clock.advance(5)
        await replica.deps.runner.poll()
        await replica.settle()
    task = (await replica.call("GET", f"/v1/tasks/{made['task_id']}")).body
    assert task["status"] == "COMPLETED"
    batches = await replica.deps.batches.collection.find({"bucket_id": bucket}, limit=10)
    assert sorted(batch["total"] for batch in batches) == [5, 10, 10]
    assert len({object_id for batch in batches for object_id in batch["objects"]}) == 25
    assert sorted(task["outputs"]) == sorted(batch["_id"] for batch in batches)


async def test_stats_of_a_large_bucket_are_counted_in_the_background(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bucketline_ingest_api.buckets import stats

    monkeypatch.setattr(stats, "SMALL_BUCKET", 20)
    monkeypatch.setattr(stats, "CHUNK_SIZE", 7)
    bucket = await bucket_with(replica, 50)
    path = f"/v1/buckets/{bucket}"
    first = (await replica.call("GET", path, namespace="demo")).body
    assert (first["object_count"], first["stats_updated_at"] is not None) == (50, True)
    await replica.make(f"{path}/objects", {"name": "one more"}, namespace="demo")
    assert (await replica.call("GET", path, namespace="demo")).body["object_count"] == 50
    world.clock.advance(stats.MIN_LIFETIME_SECONDS + 1)
    later = (await replica.call("GET", path, namespace="demo")).body
    assert later["object_count"] == 51
    assert later["stats_updated_at"] > first["stats_updated_at"]
    [listed] = (await replica.call("GET", "/v1/buckets", namespace="demo")).body["results"]
    assert listed == later


async def test_delete_namespace_with_running_batches_returns_409(world: World, replica: Replica) -> None:
    bucket = await bucket_with(replica, 1)
    [obj] = await replica.deps.objects.collection.find({"bucket_id": bucket}, limit=1)
    batch = await replica.make(f"/v1/buckets/{bucket}/batches", {"object_ids": [obj["_id"]]}, namespace="demo")
    await replica.make(f"/v1/buckets/{bucket}/batches/{batch['batch_id']}/submit", None, namespace="demo")
    refused = await replica.call("DELETE", "/v1/namespaces/demo")
    assert (refused.status, refused.body["error"]["code"]) == (409, "namespace_busy")
    assert refused.body["error"]["details"]["batch_ids"] == [batch["batch_id"]]
    forced = await replica.call("DELETE", "/v1/namespaces/demo?force=true")
    assert forced.status == 200
    assert (await replica.call("DELETE", "/v1/namespaces/demo")).body["task_id"] == forced.body["task_id"]
    await replica.settle()
    world.clock.advance(timedelta(seconds=10).total_seconds())
    await replica.deps.runner.poll()
    await replica.settle()
    assert (await replica.call("GET", "/v1/namespaces/demo")).status == 404
    for name in ("namespaces", "buckets", "objects", "batches", "documents", "collections"):
        assert await replica.deps.database.collection(name).count({}) == 0, name


async def test_namespace_with_ttl_is_not_stored_without_its_expiry_task(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise DependencyUnavailable("away")

    await replica.make("/v1/namespaces", {"namespace_name": "lasting"})
    with monkeypatch.context() as patched:
        patched.setattr(replica.deps.runner, "create", away)
        made = await replica.call("POST", "/v1/namespaces", {"namespace_name": "brief", "ttl_seconds": 3600})
        changed = await replica.call("PATCH", "/v1/namespaces/lasting", {"ttl_seconds": 3600})
    assert (made.status, changed.status) == (503, 503)
    assert (await replica.call("GET", "/v1/namespaces/brief")).status == 404
    assert (await replica.call("GET", "/v1/namespaces/lasting")).body["expires_at"] is None


async def test_expired_namespace_is_deleted(world: World, replica: Replica) -> None:
    now = world.clock.now()
    made = await replica.make("/v1/namespaces", {"namespace_name": "brief", "ttl_seconds": 3600})
    assert made["expires_at"] == wire_time(now + timedelta(hours=1))
    await replica.make("/v1/namespaces", {"namespace_name": "saved", "ttl_seconds": 3600})
    await replica.call("PATCH", "/v1/namespaces/saved", {"ttl_seconds": None})
    prolonged = (await replica.call("PATCH", "/v1/namespaces/brief", {"ttl_seconds": 3 * 24 * 3600})).body
    assert prolonged["expires_at"] == wire_time(now + timedelta(days=3))
    assert (await replica.make("/v1/tasks/list", {}))["results"] == []
    statuses = []
    for _ in range(5):
        statuses.append((await replica.call("GET", "/v1/namespaces/brief")).status)
        world.clock.advance(20 * 3600)
        for _ in range(3):
            await replica.deps.runner.poll()
            await replica.settle()
            world.clock.advance(10)
    assert statuses == [200, 200, 200, 200, 404]
    assert (await replica.call("GET", "/v1/namespaces/saved")).status == 200
    [task] = (await replica.make("/v1/tasks/list", {}))["results"]
    assert (task["task_type"], task["status"]) == ("api_namespaces_delete", "COMPLETED")
