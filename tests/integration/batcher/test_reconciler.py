"""What stands still moves again: after lost events, dead processors, and objects that went another way."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.integration.batcher.conftest import World, on_status

from bucketline.db.mongo import Collection
from bucketline.db.work_units import NO_ITEM, Result, UnitAttempts, unit_attempts
from bucketline.domain.status import Status
from bucketline.events.models import ObjectStatusChanged, WorkUnitReady

pytestmark = pytest.mark.stack

DONE: Result = {"status": str(Status.COMPLETED), "documents": 1, "error": None, "error_type": None}


async def test_a_unit_that_kills_every_processor_is_given_up(world: World) -> None:
    replica = world.replica(unit_max_crashes=3)
    ids = await world.drafts(3)
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    world.bus.take(ObjectStatusChanged)
    [unit] = await world.units_of(batch_id)
    for attempt in range(3):
        assert len(world.bus.take(WorkUnitReady)) == 1, attempt
        now = world.clock.now()
        assert await world.units.lease(unit["_id"], f"p{attempt}", now=now, until=now + timedelta(seconds=30))
        if attempt == 1:
            await on_status(world.results(unit)[:2], replica)
        world.clock.advance(300)
        await replica.reconciler.units()
    assert not world.bus.take(WorkUnitReady)
    await world.run(replica)
    batch = await world.batch(batch_id)
    assert batch["status"] == Status.COMPLETED_WITH_ERRORS
    assert batch["failed"] == 2
    assert {row["error_type"] for row in batch["failed_objects"]} == {"resource"}
    now = world.clock.now()
    assert await world.units.lease(unit["_id"], "p9", now=now, until=now) is None


async def died(world: World, unit_id: str, trying: int | None = None) -> bool:
    """A processor takes the unit and is heard of no more, the last time when it tried this item."""
    now = world.clock.now()
    taken = await world.units.lease(unit_id, "p", now=now, until=now + timedelta(seconds=30))
    if trying is not None:
        await world.units.set_current_item(unit_id, "p", trying)
    world.clock.advance(300)
    return taken is not None


async def test_crashes_of_one_object_do_not_fail_its_unit_up_to_a_limit(world: World) -> None:
    replica = world.replica(unit_max_crashes=3, unit_max_isolated_crashes=4)
    batch_id = await world.submitted(await world.drafts(3))
    await replica.planner.plan_batch(batch_id)
    [unit] = await world.units_of(batch_id)
    for trying in (None, None, 0, 2, NO_ITEM, NO_ITEM, 0):
        assert await died(world, unit["_id"], trying)
        await replica.reconciler.units()
    [unit] = await world.units_of(batch_id)
    assert unit["state"] == "leased", "three objects were suspects in turn, and others had the processor"
    assert unit_attempts(unit) == UnitAttempts(crashes=2, isolated_crashes=3, releases=2)
    assert unit["attempts"] == 5, "as many as have been at work on it"

    assert await died(world, unit["_id"], 2)
    await replica.reconciler.units()
    await world.run(replica)
    batch = await world.batch(batch_id)
    assert batch["status"] == Status.FAILED
    assert {row["error"] for row in batch["failed_objects"]} == {"processing was given up: its processor ended 6 times"}


async def test_processors_that_ended_for_another_reason_still_count(world: World) -> None:
    replica = world.replica(unit_max_crashes=3)
    batch_id = await world.submitted(await world.drafts(2))
    await replica.planner.plan_batch(batch_id)
    [unit] = await world.units_of(batch_id)
    for trying in (None, None, 1, None):
        assert await died(world, unit["_id"], trying)
        await replica.reconciler.units()
    assert not await died(world, unit["_id"]), "given up"


async def test_released_lease_counts_no_crash_of_an_item(world: World) -> None:
    replica = world.replica()
    batch_id = await world.submitted(await world.drafts(2))
    await replica.planner.plan_batch(batch_id)
    [unit] = await world.units_of(batch_id)
    now = world.clock.now()
    assert await world.units.lease(unit["_id"], "p1", now=now, until=now + timedelta(seconds=30))
    assert await world.units.set_current_item(unit["_id"], "p1", 1)
    assert not await world.units.set_current_item(unit["_id"], "p2", 0), "only its owner says so"
    await world.units.release(unit["_id"], "p1", now=now)
    taken = await world.units.lease(unit["_id"], "p2", now=now, until=now + timedelta(seconds=30))
    assert taken is not None
    assert unit_attempts(taken) == UnitAttempts(crashes=1, isolated_crashes=0, releases=1)
    assert "current_item" not in taken["lease"]


async def test_crash_of_an_idle_unit_counts_as_release_until_it_resumes(world: World) -> None:
    replica = world.replica(unit_max_objects=1)
    batch_id = await world.submitted(await world.drafts(2))
    await replica.planner.plan_batch(batch_id)
    mine, others = await world.units_of(batch_id)
    now = world.clock.now()
    for unit, owner in ((mine, "p1"), (others, "p2")):
        assert await world.units.lease(unit["_id"], owner, now=now, until=now + timedelta(seconds=30))
    both = [mine["_id"], others["_id"]]
    await world.units.mark_idle(both, "p1", idle=True)
    assert await world.units.renew_leases([mine["_id"]], "p1", until=now + timedelta(seconds=60)) == {mine["_id"]}
    found = await world.units.get_many(both)
    assert [unit_attempts(found[unit_id]) for unit_id in both] == [UnitAttempts(0, 0, 1), UnitAttempts(1, 0, 0)]
    await world.units.mark_idle(both, "p1", idle=False)
    found = await world.units.get_many(both)
    assert [unit_attempts(found[unit_id]) for unit_id in both] == [UnitAttempts(1, 0, 0), UnitAttempts(1, 0, 0)]


async def test_released_unit_counts_no_attempt(world: World) -> None:
    replica = world.replica(unit_max_crashes=2, unit_max_releases=5)
    batch_id = await world.submitted(await world.drafts(1))
    await replica.planner.plan_batch(batch_id)
    [unit] = await world.units_of(batch_id)
    for returned in range(6):
        now = world.clock.now()
        taken = await world.units.lease(unit["_id"], "p", now=now, until=now + timedelta(seconds=30))
        assert (taken is not None) == (returned < 5)
        await world.units.release(unit["_id"], "p", now=now)
        world.clock.advance(300)
        await replica.reconciler.units()
    await world.run(replica)
    assert (await world.batch(batch_id))["status"] == Status.FAILED


async def test_unclaimed_units_are_announced_with_backoff(world: World) -> None:
    replica = world.replica()
    batch_id = await world.submitted(await world.drafts(1))
    await replica.planner.plan_batch(batch_id)
    world.bus.take(WorkUnitReady)
    told = []
    for second in range(600):
        world.clock.advance(1)
        await replica.reconciler.units()
        if world.bus.take(WorkUnitReady):
            told.append(second)
    assert 5 <= len(told) <= 15
    assert told[0] < 20
    assert told[-1] > 500


async def test_a_bus_that_forgot_everything_costs_time_only(world: World) -> None:
    replica = world.replica(unit_max_objects=2)
    ids, automatic = await world.drafts(5), await world.drafts(3, auto=True)
    batch_id = await world.submitted(ids)
    for _ in range(12):
        world.bus.envelopes.clear()
        world.clock.advance(100)
        for step in ("objects", "waiting", "units", "batches"):
            await getattr(replica.reconciler, step)()
        said = await world.worked()
        await world.apply(said)
        await on_status(said, replica)
    assert (await world.batch(batch_id))["status"] == Status.COMPLETED
    assert set(await world.statuses(ids + automatic)) == {Status.COMPLETED}


async def test_of_stalled_objects_no_more_is_read_than_their_plan_needs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.replica()
    await world.drafts(3, auto=True)
    seen: list[Mapping[str, object]] = []
    find = Collection.find

    async def noted(self: Collection[Any], *args: Any, **options: Any) -> Any:
        found = await find(self, *args, **options)
        seen.extend(found if self._name == "objects" else [])
        return found

    monkeypatch.setattr(Collection, "find", noted)
    world.clock.advance(60)
    assert await replica.reconciler.objects() == 3
    assert len(seen) == 3
    assert not any("custom" in obj for obj in seen), "whole objects may be large"


@pytest.mark.parametrize("deleted", [True, False])
async def test_automatic_batch_whose_object_was_changed_is_finished(world: World, deleted: bool) -> None:
    replica = world.replica()
    ids = await world.drafts(1, auto=True, mirrored=False)
    obj = (await world.objects.get_many(ids))[ids[0]]
    await replica.planner._with_batches([obj])
    if deleted:
        await world.objects.collection.delete_one({"_id": ids[0]})
    else:
        await world.objects.collection.update_one({"_id": ids[0]}, {"$set": {"batch_id": "btch_other"}})
    world.clock.advance(60)
    await replica.reconciler.batches()
    batch = await world.batch(str(obj.get("batch_id")))
    assert batch["status"] == Status.CANCELED
    assert batch["failure_reason"]


async def test_backlog_counts_ready_and_leased_units(world: World) -> None:
    replica = world.replica(unit_max_objects=1, max_active_units=4)
    batch_id = await world.submitted(await world.drafts(7))
    await replica.planner.plan_batch(batch_id)
    units = await world.units_of(batch_id)
    now = world.clock.now()
    ready = [unit for unit in units if unit["state"] == "ready"]
    assert await world.units.lease(ready[0]["_id"], "p1", now=now, until=now + timedelta(seconds=30))
    world.bus.take(WorkUnitReady)  # every record of it was acknowledged
    assert await replica.reconciler.backlog() == 4
    assert REGISTRY.get_sample_value("bucketline_work_units_pending") == 4, "three held ones are nobody's to take"
    await on_status(world.results(ready[0]), replica)
    assert await replica.reconciler.backlog() == 4, "one was let go"


def swept(what: str) -> float:
    return REGISTRY.get_sample_value("bucketline_reconciled_total", {"what": what}) or 0.0


async def test_waiting_units_do_not_count_as_stalled(world: World) -> None:
    replica = world.replica(unit_max_objects=1, max_active_units=2)
    batch_id = await world.submitted(await world.drafts(4))
    await replica.planner.plan_batch(batch_id)
    dead, waiting = [unit for unit in await world.units_of(batch_id) if unit["state"] == "ready"]
    units, batches = swept("unit"), swept("batch")
    for _ in range(3):  # nobody has room for them, for minutes
        world.clock.advance(100)
        assert await replica.reconciler.units() == 2
        assert await replica.reconciler.batches() == 1
    assert (swept("unit"), swept("batch")) == (units, batches)
    assert await died(world, dead["_id"])
    await replica.reconciler.units()
    assert swept("unit") == units + 1
    assert await world.units.get_many([waiting["_id"]])


async def test_unplanned_and_unfinished_batches_count_as_stalled(world: World) -> None:
    replica = world.replica()
    unplanned, unended = await world.submitted(await world.drafts(1)), await world.submitted(await world.drafts(1))
    await replica.planner.plan_batch(unended)
    [unit] = await world.units_of(unended)
    await world.units.record({unit["_id"]: {0: DONE}}, now=world.clock.now())
    before = swept("batch")
    world.clock.advance(100)
    await replica.reconciler.batches()
    assert (await world.batch(unended))["status"] == Status.COMPLETED
    assert (await world.batch(unplanned))["planned"]
    assert swept("batch") == before + 2


@pytest.mark.parametrize("how", ["given up", "cancelled"])
async def test_events_of_an_object_are_in_the_trace_of_its_request(world: World, how: str) -> None:
    replica = world.replica(unit_max_crashes=1)
    ids, own, batchs = await world.drafts(2), {"traceparent": "00-own"}, {"traceparent": "00-batch"}
    await world.objects.collection.update_one({"_id": ids[0]}, {"$set": {"trace": own}})
    batch_id = await world.submitted(ids, trace=batchs)
    await replica.planner.plan_batch(batch_id, batchs)
    [unit] = await world.units_of(batch_id)
    if how == "given up":
        assert await died(world, unit["_id"])
        await replica.reconciler.units()
    else:
        await world.ask_to_cancel(batch_id)
        await replica.service.cancel(batch_id)
    said = [(row.event.object_id, row.trace) for row in world.bus.take(ObjectStatusChanged)]  # type: ignore[attr-defined]
    assert sorted(said, key=str) == sorted([(ids[0], own), (ids[1], batchs)] * 2, key=str), "QUEUED, and the end"
