"""No query of the batcher scans a collection, whatever it is doing."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.database import explain
from tests.integration.batcher.conftest import World, on_mirrored

from bucketline.db.mongo import Collection
from bucketline.db.work_units import items_filter

pytestmark = pytest.mark.stack

METHODS = ("find", "find_one", "count", "update_one", "update_many", "find_and_update", "delete_one", "delete_many")


def stages(plan: Mapping[str, Any]) -> Iterator[str]:
    yield str(plan["stage"])
    for stage in plan.get("inputStages") or ([plan["inputStage"]] if "inputStage" in plan else []):
        yield from stages(stage)


async def test_no_plan_scans_a_collection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any, Any]] = []

    def recording(name: str) -> Any:
        method = getattr(Collection, name)

        def wrapper(self: Collection[Any], where: Any, *args: Any, **options: Any) -> Any:
            match = where[0]["$match"] if name == "aggregate" else where
            asked.append((self._name, match, options.get("sort")))
            return method(self, where, *args, **options)

        return wrapper

    for name in (*METHODS, "stream", "aggregate"):
        monkeypatch.setattr(Collection, name, recording(name))

    replica = world.replica(unit_max_objects=2, max_active_units=2)
    bucket = await world.bucket(max_objects=2, max_bytes=1000, max_wait_seconds=1.0)
    batches = [await world.submitted(await world.drafts(5)) for _ in range(2)]
    late, automatic = await world.drafts(2, mirrored=False), await world.drafts(3, auto=True)
    batches.append(await world.submitted(late))
    for batch_id in batches:
        await replica.planner.plan_batch(batch_id)
    await world.ask_to_cancel(batches[1])
    await replica.service.cancel(batches[1])
    windowed = await world.drafts(5, bucket_id=bucket)
    await on_mirrored(await world.mirror([*late, *automatic, *windowed]), replica)
    await world.run(replica)
    world.clock.advance(100)
    for step in ("objects", "waiting", "units", "batches", "backlog"):
        await getattr(replica.reconciler, step)()
    await replica.windowing.close_due()
    await replica.drafts.step()
    await world.units.latest_results(batches[0])
    await world.batches.webhooks_due(world.clock.now(), limit=10)
    monkeypatch.undo()

    assert {name for name, *_ in asked} >= {
        "objects",
        "batches",
        "work_units",
        "batch_dependencies",
        "batching_windows",
        "buckets",
    }
    scanned = []
    for name, where, sort in asked:
        plan = await explain(world.database.collection(name), where, sort=sort)
        if "COLLSCAN" in stages(plan):
            scanned.append((name, where))
    assert scanned == []


async def test_lookup_of_objects_in_a_large_batch_reads_only_those(world: World) -> None:
    replica = world.replica(unit_max_objects=5)
    ids = await world.drafts(200)
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    wanted = ids[20:22]
    found = await world.units.collection._raw.find(items_filter([batch_id], wanted)).explain()
    assert "COLLSCAN" not in stages(found["queryPlanner"]["winningPlan"])
    assert found["executionStats"]["totalKeysExamined"] <= 2 * len(wanted) + 1
    items = [item for unit in await world.units_of(batch_id) for item in unit["items"] if item["object_id"] in wanted]
    assert {object_id for _, object_id, _ in await world.units.find_planned(items)} == set(wanted)
