"""Cancelling gives back what has not started, lets run what runs, and accounts for every object."""

import asyncio
from collections import Counter

import pytest
from tests.integration.batcher.conftest import Killed, World, dying, on_mirrored, on_status

from bucketline.domain.status import Status
from bucketline.events.models import BatchCompleted, ObjectStatusChanged, WorkUnitReady

pytestmark = pytest.mark.stack


async def test_shutdown_finishes_running_units_and_releases_others(world: World) -> None:
    replica = world.replica(unit_max_objects=2, max_active_units=3)
    ids = await world.drafts(10)
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    running = await world.worked(most=1)
    world.bus.take(WorkUnitReady)
    await world.ask_to_cancel(batch_id)
    await replica.service.cancel(batch_id)
    assert (await world.batch(batch_id))["status"] == Status.PROCESSING

    await world.run(replica)
    assert (await world.batch(batch_id))["status"] == Status.PROCESSING
    await world.apply(running)
    await on_status(running, replica)
    batch = await world.batch(batch_id)
    assert (batch["status"], batch["processed"], batch["failed"]) == (Status.CANCELED, 2, 0)
    assert Counter(await world.statuses(ids)) == {Status.DRAFT: 8, Status.COMPLETED: 2}
    assert batch["pending"][-1]["type"] == BatchCompleted.type or world.bus.take(BatchCompleted)


async def test_unplanned_batch_is_canceled(world: World) -> None:
    replica = world.replica()
    ids = await world.drafts(5) + await world.drafts(2, mirrored=False)
    batch_id = await world.submitted(ids)
    await world.ask_to_cancel(batch_id)
    await replica.planner.plan_batch(batch_id)
    assert await world.units_of(batch_id) == []
    await replica.service.cancel(batch_id)
    await world.run(replica)
    assert (await world.batch(batch_id))["status"] == Status.CANCELED
    assert set(await world.statuses(ids)) == {Status.DRAFT}
    await on_mirrored(await world.mirror(ids[5:]), replica)
    assert not world.bus.take(WorkUnitReady)


async def test_planning_and_cancelling_at_once(world: World) -> None:
    for _ in range(5):
        ids = await world.drafts(60) + await world.drafts(10, mirrored=False)
        batch_id = await world.submitted(ids)
        replicas = [world.replica(unit_max_objects=4, plan_page_size=15) for _ in range(2)]
        await world.ask_to_cancel(batch_id)
        # the batch was read before the request came
        await world.batches.collection.update_one({"_id": batch_id}, {"$unset": {"cancel_requested_at": ""}})
        planning = asyncio.create_task(replicas[0].planner.plan_batch(batch_id))
        await asyncio.sleep(0)
        await world.ask_to_cancel(batch_id)
        await asyncio.gather(planning, replicas[1].service.cancel(batch_id))
        await on_mirrored(await world.mirror(ids[60:]), replicas[0])
        await world.run(replicas[0])
        world.clock.advance(60)
        await replicas[1].reconciler.batches()
        await world.run(replicas[1])
        batch = await world.batch(batch_id)
        assert batch["status"] == Status.CANCELED
        units = await world.units_of(batch_id)
        assert Counter(item["object_id"] for unit in units for item in unit["items"]) == Counter(ids)
        assert {unit["state"] for unit in units} == {"done"}
        states = Counter(await world.statuses(ids))
        assert states[Status.DRAFT] + states[Status.COMPLETED] == 70
        assert states[Status.COMPLETED] == batch["processed"]


@pytest.mark.parametrize("after", [False, True])
async def test_cancel_that_dies_at_any_write_is_completed(world: World, after: bool) -> None:
    for at in range(1, 60):
        ids = await world.drafts(9)
        batch_id = await world.submitted(ids)
        replica = world.replica(unit_max_objects=2, max_active_units=2)
        await replica.planner.plan_batch(batch_id)
        await world.ask_to_cancel(batch_id)
        world.bus.take(WorkUnitReady)
        with dying(at, after=after) as writes:
            try:
                await replica.service.cancel(batch_id)
                await on_status(world.bus.take(ObjectStatusChanged), replica)
            except Killed:
                pass
            finished = writes() < at
        world.bus.envelopes.clear()  # the bus forgets, too
        heir = world.replica()
        for _ in range(3):
            world.clock.advance(60)
            await heir.reconciler.batches()
            await world.run(heir)
        assert (await world.batch(batch_id))["status"] == Status.CANCELED
        if finished:
            return
    raise AssertionError("it never got to its end")


async def test_an_automatic_batch_in_a_shared_unit(world: World) -> None:
    replica = world.replica()
    ids = await world.drafts(3, auto=True)
    await on_mirrored(await world.mirror(ids), replica)
    first = (await world.objects.get_many(ids))[ids[0]]
    batch_id = str(first.get("batch_id"))
    await world.ask_to_cancel(batch_id)
    await replica.service.cancel(batch_id)
    given_back = world.bus.take(ObjectStatusChanged)
    await world.apply(given_back)
    await on_status(given_back, replica)
    await world.run(replica)
    assert (await world.batch(batch_id))["status"] == Status.CANCELED
    assert await world.statuses(ids) == [Status.DRAFT, Status.COMPLETED, Status.COMPLETED]


async def test_an_automatic_batch_before_its_object_is_mirrored(world: World) -> None:
    replica = world.replica()
    ids = await world.drafts(1, auto=True, mirrored=False)
    obj = (await world.objects.get_many(ids))[ids[0]]
    batch_id = str(obj.get("batch_id"))
    await replica.planner._with_batches([obj])
    await world.ask_to_cancel(batch_id)
    await replica.service.cancel(batch_id)
    await on_mirrored(await world.mirror(ids), replica)
    assert not world.bus.take(WorkUnitReady)
    await world.run(replica)
    assert (await world.batch(batch_id))["status"] == Status.CANCELED
    assert await world.statuses(ids) == [Status.DRAFT]
