"""A batch of one behind 100,000 automatic objects: with the units where they are, and a bus on which it is the last."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pymongo import InsertOne
from tests.database import explain
from tests.integration.batcher.conftest import World
from tests.waiting import eventually

from bucketline.clock import ManualClock
from bucketline.db.mongo import Database
from bucketline.events.models import ObjectStatusChanged, WorkUnitReady
from bucketline_batcher.planner import FIELDS
from bucketline_processor.isolation import Isolation
from bucketline_processor.leases import Leases
from bucketline_processor.reconciler import UnitReconciler
from bucketline_processor.scheduler import UnitScheduler
from bucketline_processor.settings import ProcessorSettings

pytestmark = pytest.mark.stack

MANY = 100_000
UNITS = 1000


class Busy:
    """A pipeline in which automatic objects take for ever and a batch takes no time."""

    def __init__(self) -> None:
        self.groups: list[str] = []

    async def run(self, unit: Any, _trace: Mapping[str, str]) -> bool:
        self.groups.append(unit["group"])
        if unit["batch_id"] is None:
            await asyncio.Event().wait()
        return True

    def stop(self) -> None: ...


async def begun(pipeline: Busy, group: str) -> bool:
    return group in pipeline.groups


@pytest.fixture
async def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


async def plenty(world: World) -> None:
    """The units of so many automatic objects, as they are planned; one is planned, the others are like it."""
    replica = world.replica()
    ids = await world.drafts(MANY // UNITS, auto=True)
    objects = await world.objects.get_many(ids, fields=FIELDS)
    await replica.planner.plan_auto(list(objects.values()), {})
    [unit] = await world.units.collection.find({}, limit=2)
    for start in range(1, UNITS):
        items = [{**item, "object_id": f"obj_{start}_{n}"} for n, item in enumerate(unit["items"])]
        await world.units.collection.bulk([InsertOne({**unit, "_id": f"unit_{start:04}", "items": items})])


async def test_batch_of_one_behind_100_000_automatic_objects_is_reclaimed(world: World) -> None:
    await plenty(world)
    world.bus.take(WorkUnitReady)
    batch_id = await world.submitted(await world.drafts(1))
    await world.replica().planner.plan_batch(batch_id)
    [small] = await world.units_of(batch_id)
    world.bus.take(ObjectStatusChanged)

    pipeline, own = Busy(), ProcessorSettings()
    leases = Leases(world.units, "processor", clock=world.clock, seconds=own.lease_seconds)
    isolation = Isolation(world.units, leases)
    scheduler = UnitScheduler(world.units, leases, isolation, pipeline, clock=world.clock, settings=own)  # type: ignore[arg-type]  # a fake
    reconciler = UnitReconciler(world.units, scheduler, clock=world.clock, settings=own)
    found = await world.units.collection.find({"batch_id": None}, limit=UNITS, fields=["_id"])
    assert len(found) == UNITS
    consumer = asyncio.create_task(scheduler.submit({unit["_id"]: {} for unit in (*found, small)}))
    try:
        await eventually(lambda: begun(pipeline, "ns_1"))
        world.clock.advance(own.orphan_claim_delay_seconds + 0.1)
        assert await reconciler.reclaim() == 1
        await eventually(lambda: begun(pipeline, batch_id))
        assert not consumer.done(), "its record is still behind all the others"
        assert pipeline.groups.count("ns_1") == own.max_concurrent_units // 2
    finally:
        consumer.cancel()
        await scheduler.stop()


async def test_next_of_other_groups_skips_known_groups_in_the_index(world: World) -> None:
    await plenty(world)
    now = world.clock.now() + timedelta(seconds=10)
    with asked_of(world.units.collection) as asked:
        assert await world.units.next_of_other_groups(["ns_1"], now, now) is None
    [(where, sort)] = asked
    plan = await explain(world.units.collection, where, sort=sort)
    assert [stage["stage"] for stage in stages(plan)] == ["FETCH", "IXSCAN"], "no sort, and no other index"
    bounds = str(stages(plan)[-1]["indexBounds"]["group"])
    assert bounds.count("ns_1") == 2, bounds


@contextmanager
def asked_of(collection: Any) -> Iterator[list[tuple[Any, Any]]]:
    asked: list[tuple[Any, Any]] = []
    find_one = collection.find_one

    async def recording(where: Any, **options: Any) -> Any:
        asked.append((where, options.get("sort")))
        return await find_one(where, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "find_one", recording)
        yield asked


def stages(plan: Any) -> list[Any]:
    return [plan, *(stages(plan["inputStage"]) if "inputStage" in plan else [])]
