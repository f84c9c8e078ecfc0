"""Submitted batches become work units, each object in one of them, whoever plans and whoever dies."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from tests.integration.batcher.conftest import Killed, World, dying, on_batches, on_mirrored, on_status, received

from bucketline.domain.status import Status
from bucketline.events.models import BatchCanceled, BatchSubmitted, ObjectStatusChanged, WorkUnitReady

pytestmark = pytest.mark.stack


async def members(world: World, batch_id: str) -> Counter[str]:
    return Counter(item["object_id"] for unit in await world.units_of(batch_id) for item in unit["items"])


async def test_units_are_bounded_by_count_and_bytes(world: World) -> None:
    planner = world.replica(unit_max_objects=10, unit_max_bytes=100).planner
    small, large = await world.drafts(25, size=1), await world.drafts(4, size=60)
    batch_id = await world.submitted(small + large)
    await planner.plan_batch(batch_id)
    sizes = sorted(unit["size"] for unit in await world.units_of(batch_id))
    assert sum(sizes) == 29
    assert max(sizes) == 10
    assert sizes.count(1) >= 3, "two large objects do not fit into one unit"


async def test_two_planners_at_once_share_the_work(world: World) -> None:
    ids = await world.drafts(230)
    for _ in range(5):
        batch_id = await world.submitted(ids)
        replicas = [world.replica(unit_max_objects=7 + n, plan_page_size=50) for n in range(3)]
        await asyncio.gather(*(replica.planner.plan_batch(batch_id) for replica in replicas))
        assert await members(world, batch_id) == Counter(ids)
        world.clock.advance(1)


@pytest.mark.parametrize("after", [False, True])
async def test_a_planner_may_die_at_any_write(world: World, after: bool) -> None:
    ids = await world.drafts(25) + await world.drafts(5, mirrored=False)
    late = ids[25:]
    for at in range(1, 100):
        batch_id = await world.submitted(ids)
        replica = world.replica(unit_max_objects=4, plan_page_size=10)
        with dying(at, after=after) as writes:
            with suppress(Killed):
                await replica.planner.plan_batch(batch_id)
            finished = writes() < at
        heir = world.replica(unit_max_objects=5, plan_page_size=10)
        world.clock.advance(60)
        await heir.reconciler.batches()
        batch = await world.batch(batch_id)
        assert batch["status"] == Status.PROCESSING
        assert await members(world, batch_id) == Counter(ids[:25])
        await on_mirrored(await world.mirror(late), heir)
        assert await members(world, batch_id) == Counter(ids)
        await world.objects.collection.update_many({"_id": {"$in": late}}, {"$set": {"mirror.state": "pending"}})
        if finished:
            return
    raise AssertionError("the planner never got to its end")


async def test_late_objects_hold_back_only_themselves(world: World) -> None:
    replica = world.replica()
    early, late = await world.drafts(3), await world.drafts(2, mirrored=False)
    batch_id = await world.submitted(early + late)
    await replica.planner.plan_batch(batch_id)
    await world.run(replica)
    batch = await world.batch(batch_id)
    assert batch["status"] == Status.PROCESSING
    assert batch["processed"] == 3
    await on_mirrored(await world.mirror(late), replica)
    await world.run(replica)
    batch = await world.batch(batch_id)
    assert (batch["status"], batch["processed"]) == (Status.COMPLETED, 5)
    assert set(await world.statuses(early + late)) == {Status.COMPLETED}


async def test_the_last_object_to_arrive_ends_every_batch_however_fast_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.replica()
    late = await world.drafts(1, mirrored=False)
    batches = [await world.submitted(late) for _ in range(3)]
    for batch_id in batches:
        await replica.planner.plan_batch(batch_id)
    publish_ready = replica.planner._publisher.publish_ready

    async def done_at_once(*args: Any) -> None:
        await publish_ready(*args)
        await world.run(replica)

    monkeypatch.setattr(replica.planner._publisher, "publish_ready", done_at_once)
    await on_mirrored(await world.mirror(late), replica)
    assert {(await world.batch(batch_id))["status"] for batch_id in batches} == {Status.COMPLETED}


async def test_mirrored_object_without_an_event_is_found(world: World) -> None:
    replica = world.replica()
    late = await world.drafts(3, mirrored=False)
    batch_id = await world.submitted(late)
    await replica.planner.plan_batch(batch_id)
    await world.mirror(late)
    world.clock.advance(60)
    await replica.reconciler.waiting()
    await world.run(replica)
    assert (await world.batch(batch_id))["status"] == Status.COMPLETED


async def test_deleted_objects_are_missing_and_not_failed(world: World) -> None:
    replica = world.replica()
    ids, late = await world.drafts(4), await world.drafts(2, mirrored=False)
    batch_id = await world.submitted(ids + late)
    await world.objects.collection.delete_one({"_id": ids[0]})
    await replica.planner.plan_batch(batch_id)
    await world.objects.collection.delete_one({"_id": late[0]})
    await world.run(replica)
    await on_mirrored(await world.mirror(late[1:]), replica)
    await world.run(replica)
    world.clock.advance(60)
    await replica.reconciler.waiting()
    batch = await world.batch(batch_id)
    assert batch["status"] == Status.COMPLETED
    assert (batch["processed"], batch["missing"], batch["failed"]) == (4, 2, 0)


@pytest.mark.parametrize("cancel", [False, True])
async def test_objects_of_another_bucket_are_none_of_a_batchs_business(world: World, cancel: bool) -> None:
    replica = world.replica()
    ids, foreign = await world.drafts(2), await world.drafts(1, bucket_id="bkt_2")
    late = await world.drafts(1, bucket_id="bkt_2", mirrored=False)
    batch_id = await world.submitted([*ids, *foreign, *late])
    if cancel:
        await world.ask_to_cancel(batch_id)
        await replica.service.cancel(batch_id)
    else:
        await replica.planner.plan_batch(batch_id)
    await on_mirrored(await world.mirror(late), replica)
    await world.run(replica)
    batch = await world.batch(batch_id)
    ended, become = (Status.CANCELED, Status.DRAFT) if cancel else (Status.COMPLETED, Status.COMPLETED)
    assert (batch["status"], batch["missing"]) == (ended, 2)
    assert await members(world, batch_id) == Counter(ids)
    assert await world.statuses(ids) == [become] * 2
    for obj in (await world.objects.get_many([*foreign, *late])).values():
        assert (obj["status"], obj["run"], obj.get("batch_id")) == (Status.DRAFT, {"id": 0, "rank": 0}, None)


async def test_an_object_of_another_bucket_that_is_waited_for_is_left_alone(world: World) -> None:
    """Rows of an earlier release."""
    replica = world.replica()
    late = await world.drafts(1, bucket_id="bkt_2", mirrored=False)
    batch_id = await world.submitted(late, planned=True)
    await replica.planner.waiting.add(batch_id, late, world.clock.now())
    await on_mirrored(await world.mirror(late), replica)
    assert await members(world, batch_id) == Counter()
    assert not await replica.planner.waiting.exist_for(batch_id)


async def test_a_batch_of_nothing_but_deleted_objects_is_over_at_once(world: World) -> None:
    batch_id = await world.submitted(["obj_gone", "obj_too"])
    event = BatchSubmitted(
        batch_id=batch_id, bucket_id="bkt_1", namespace_id="ns_1", object_count=2, submitted_at=world.clock.now()
    )
    await on_batches([received(event)], world.replica())
    batch = await world.batch(batch_id)
    assert (batch["status"], batch["missing"]) == (Status.COMPLETED, 2)


async def test_a_large_batch_leaves_room_for_a_small_one(world: World) -> None:
    replica = world.replica(unit_max_objects=2, max_active_units=3)
    large, small = await world.submitted(await world.drafts(40)), await world.submitted(await world.drafts(1))
    await replica.planner.plan_batch(large)
    await replica.planner.plan_batch(small)
    assert len(world.bus.take(WorkUnitReady)) == 4
    taken = 0
    for _ in range(100):
        states = Counter(unit["state"] for unit in await world.units_of(large))
        assert states["ready"] + states["leased"] <= 3
        if not states["held"] and not states["ready"]:
            break
        ready = await world.units.collection.find({"batch_id": large, "state": "ready"}, limit=1)
        await on_status(world.results(ready[0]), replica)
        taken += 1
    assert taken == 20
    assert (await world.batch(large))["status"] == Status.COMPLETED


async def test_cancellations_and_small_batches_do_not_wait_for_the_plan_of_a_large_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.replica()
    large, small, given_up = [await world.submitted(await world.drafts(count)) for count in (9, 1, 5)]
    await world.ask_to_cancel(given_up)
    done: list[str] = []
    update = replica.progress.update

    async def noted(batch_id: str) -> None:
        done.append(batch_id)
        await update(batch_id)

    monkeypatch.setattr(replica.progress, "update", noted)
    about = {"bucket_id": "bkt_1", "namespace_id": "ns_1"}
    now = world.clock.now()
    submissions = [
        BatchSubmitted(batch_id=batch_id, object_count=count, submitted_at=now, **about)
        for batch_id, count in ((large, 9), (small, 1))
    ]
    cancellation = BatchCanceled(batch_id=given_up, canceled_at=now, **about)
    await on_batches([received(event) for event in (*submissions, cancellation)], replica)
    assert done == [given_up, small, large]


async def test_a_batch_that_is_being_planned_is_left_to_its_planner(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, other = world.replica(plan_page_size=10), world.replica()
    batch_id = await world.submitted(await world.drafts(50))
    insert = replica.planner._insert
    swept = []

    async def slow(*args: Any, **options: Any) -> Any:
        world.clock.advance(10)
        swept.append((await other.reconciler.batches(), await other.reconciler.units()))
        return await insert(*args, **options)

    monkeypatch.setattr(replica.planner, "_insert", slow)
    await replica.planner.plan_batch(batch_id)
    assert [batches for batches, _ in swept] == [0] * 5
    batch = await world.batch(batch_id)
    assert (batch["status"], batch["moved_at"]) == (Status.PROCESSING, world.clock.now())


async def test_planning_stops_when_the_batch_is_to_be_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = world.replica(plan_page_size=10)
    ids = await world.drafts(50)
    batch_id = await world.submitted(ids)
    insert = replica.planner._insert

    async def meanwhile(*args: Any, **options: Any) -> Any:
        await world.ask_to_cancel(batch_id)
        return await insert(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(replica.planner, "_insert", meanwhile)
        await replica.planner.plan_batch(batch_id)
    assert (await members(world, batch_id)).total() == 10
    await replica.service.cancel(batch_id)
    await world.run(replica)
    batch = await world.batch(batch_id)
    assert (batch["status"], batch["missing"]) == (Status.CANCELED, 0)
    assert await members(world, batch_id) == Counter(ids)


async def test_automatic_objects_share_units_and_have_batches_of_their_own(world: World) -> None:
    replica = world.replica(unit_max_objects=10)
    ids = await world.drafts(25, auto=True)
    records = await world.mirror(ids)
    await on_mirrored(records, replica)
    await on_mirrored(records, replica)
    assert len(world.bus.take(WorkUnitReady)) == 3
    units = await world.units.collection.find({}, limit=100)
    assert Counter(item["object_id"] for unit in units for item in unit["items"]) == Counter(ids)
    for unit in units:
        await on_status(world.results(unit), replica)
    batches = await world.batches.collection.find({}, limit=100)
    assert {batch["objects"][0] for batch in batches} == set(ids)
    assert {batch["status"] for batch in batches} == {Status.COMPLETED}
    assert all(batch["documents_written"] == 1 for batch in batches)


async def test_a_stream_of_automatic_objects_is_written_in_bulk(world: World) -> None:
    """From the mirrored objects to the ends of their batches: as many writes for hundreds as for a few."""
    writes = []
    for count in (10, 300):
        replica = world.replica(unit_max_objects=500)
        records = await world.mirror(await world.drafts(count, auto=True))
        with dying(0, after=False) as counted:
            await on_mirrored(records, replica)
            await on_status(await world.worked(), replica)
            writes.append(counted())
        done = await world.batches.collection.find({"status": "COMPLETED"}, limit=1000)
        assert len({batch["_id"] for batch in done}) == count + (len(writes) - 1) * 10
    assert writes[0] == writes[1] < 12, writes


async def test_objects_in_two_batches_at_a_time_end_in_both(world: World) -> None:
    """Whatever the clocks of those who submitted say: a later run is above the earlier one."""
    replica = world.replica()
    ids = await world.drafts(3)
    first = await world.submitted(ids)
    await replica.planner.plan_batch(first)
    await world.apply(world.bus.take(ObjectStatusChanged))
    earlier = (await world.batch(first))["run"] - 5000
    second = await world.submitted(ids, run=earlier)
    await replica.planner.plan_batch(second)
    await world.run(replica)
    for batch_id in (first, second):
        assert (await world.batch(batch_id))["status"] == Status.COMPLETED
    assert set(await world.statuses(ids)) == {Status.COMPLETED}
