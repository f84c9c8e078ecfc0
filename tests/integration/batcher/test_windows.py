"""Drafts group themselves: each in exactly one batch, whoever does it, whatever the clocks say, whoever dies."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import pytest
from tests.database import explain
from tests.integration.batcher.conftest import MORTAL, Killed, World, dying, on_mirrored

from bucketline.db.objects import ObjectDocument
from bucketline.domain.status import RANK_FINAL, Status
from bucketline.errors import DependencyUnavailable
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import BatchSubmitted
from bucketline_batcher.app import Batcher
from bucketline_batcher.windows import ScanCursor

pytestmark = pytest.mark.stack

LIMITS = {"max_objects": 10, "max_bytes": 1000, "max_wait_seconds": 30.0}


async def batched(world: World, bucket_id: str) -> list[list[str]]:
    rows = await world.batches.collection.find({"bucket_id": bucket_id}, limit=1000, sort=[("created_at", 1)])
    assert {row["status"] for row in rows} <= {Status.PENDING}
    assert all(row["total"] == len(row["objects"]) for row in rows)
    return [row["objects"] for row in rows]


def spread(batches: Sequence[Sequence[str]]) -> Counter[str]:
    return Counter(object_id for batch in batches for object_id in batch)


async def test_off_by_default(world: World) -> None:
    bucket_id = await world.bucket()
    replica = world.replica()
    await on_mirrored(await world.mirror(await world.drafts(20, bucket_id=bucket_id)), replica)
    world.clock.advance(3600)
    await replica.drafts.step()
    await replica.windowing.close_due()
    assert await batched(world, bucket_id) == []


async def test_a_deployment_may_switch_it_on_for_all(world: World) -> None:
    bucket_id = await world.bucket()
    replica = world.replica(window_enabled=True, window_max_objects=4)
    ids = await world.drafts(9, bucket_id=bucket_id)
    await on_mirrored(await world.mirror(ids), replica)
    batches = await batched(world, bucket_id)
    assert [len(batch) for batch in batches] == [4, 4]
    world.clock.advance(60)
    await replica.windowing.close_due()
    assert spread(await batched(world, bucket_id)) == Counter(ids)


async def test_whichever_limit_comes_first(world: World) -> None:
    replica = world.replica()
    by_count, by_bytes = await world.bucket(**LIMITS), await world.bucket(**LIMITS)
    await on_mirrored(await world.mirror(await world.drafts(23, bucket_id=by_count, size=1)), replica)
    await on_mirrored(await world.mirror(await world.drafts(5, bucket_id=by_bytes, size=400)), replica)
    large = await world.drafts(1, bucket_id=by_bytes, size=5000)
    await on_mirrored(await world.mirror(large), replica)
    assert [len(batch) for batch in await batched(world, by_count)] == [10, 10]
    sizes = [len(batch) for batch in await batched(world, by_bytes)]
    assert sorted(sizes) == [1, 1, 2, 2], "one too large by itself is a batch of its own"
    world.clock.advance(29)
    await replica.windowing.close_due()
    assert len(await batched(world, by_count)) == 2
    world.clock.advance(2)
    await replica.windowing.close_due()
    assert [len(batch) for batch in await batched(world, by_count)] == [10, 10, 3]


async def test_two_replicas_with_clocks_apart(world: World) -> None:
    """Records go to both, some twice; both close what is due by their own clock."""
    bucket_id = await world.bucket(**LIMITS)
    replicas = [world.replica(skew=5.0), world.replica(skew=-5.0)]
    rolls = random.Random(7)  # noqa: S311 - the same test each time
    ids: list[str] = []
    for _ in range(25):
        fresh = await world.drafts(rolls.randint(1, 9), bucket_id=bucket_id, size=rolls.choice([1, 300]))
        ids += fresh
        records = await world.mirror(fresh)
        again = await world.mirror(rolls.sample(ids, min(len(ids), 5)))
        await asyncio.gather(
            on_mirrored([*records, *again], replicas[0]),
            on_mirrored(list(reversed(records)), replicas[1]),
            replicas[0].windowing.close_due(),
            replicas[1].windowing.close_due(),
        )
        world.clock.advance(rolls.uniform(0, 12))
    world.clock.advance(60)
    await asyncio.gather(*(replica.windowing.close_due() for replica in replicas))
    batches = await batched(world, bucket_id)
    assert spread(batches) == Counter(ids)
    assert max(len(batch) for batch in batches) <= 10


async def test_many_at_one_window_never_overfill_it(world: World) -> None:
    bucket_id = await world.bucket(**{**LIMITS, "max_objects": 5})
    replicas = [world.replica() for _ in range(6)]
    ids: list[str] = []
    for _ in range(10):
        fresh = [await world.drafts(2, bucket_id=bucket_id) for _ in replicas]
        ids += [object_id for pair in fresh for object_id in pair]
        twice = [*fresh, fresh[0]]
        records = [await world.mirror(pair) for pair in twice]
        takers = [*replicas, world.replica()]
        await asyncio.gather(*(on_mirrored(mine, taker) for taker, mine in zip(takers, records, strict=True)))
    windows = await world.database.collection("batching_windows").find({"bucket_id": bucket_id}, limit=1000)
    members = [member for window in windows for member in window["members"]]
    assert sorted(members) == sorted(f"{object_id}:0" for object_id in ids)
    assert all(window["count"] == len(window["members"]) <= 5 for window in windows)


@pytest.mark.parametrize("after", [False, True])
async def test_a_replica_may_die_at_any_write(world: World, after: bool) -> None:
    for at in range(1, 60):
        bucket_id = await world.bucket(**LIMITS)
        ids = await world.drafts(14, bucket_id=bucket_id)
        records = await world.mirror(ids)
        replica = world.replica()
        with dying(at, after=after) as writes:
            try:
                await on_mirrored(records[:7], replica)
                await on_mirrored(records[7:], replica)
                world.clock.advance(31)
                await replica.windowing.close_due()
            except Killed:
                pass
            finished = writes() < at
        heir = world.replica(skew=3.0)
        # The bus lost the records: the state alone says what is missing.
        world.clock.advance(31)
        for _ in range(3):
            await heir.drafts.step()
        world.clock.advance(31)
        await heir.windowing.close_due()
        assert spread(await batched(world, bucket_id)) == Counter(ids)
        await world.database.collection("buckets").delete_one({"_id": bucket_id})
        if finished:
            return
    raise AssertionError("it never got to its end")


@pytest.mark.parametrize("after", [False, True])
async def test_one_of_two_replicas_dies_at_any_write_with_clocks_apart(world: World, after: bool) -> None:
    """Both get records at the same time, some of them both; by the clock of the one the windows are over."""
    for at in range(1, 60):
        bucket_id = await world.bucket(**LIMITS)
        ids = await world.drafts(24, bucket_id=bucket_id)
        records = await world.mirror(ids)
        victim, survivor = world.replica(skew=5.0), world.replica(skew=-5.0)

        async def dies(victim: Batcher = victim, records: Sequence[ReceivedEvent] = records) -> None:
            with suppress(Killed):
                await on_mirrored(records[:14], victim)
                world.clock.advance(27)
                await victim.windowing.close_due()
                await on_mirrored(records[14:], victim)
                await victim.drafts.step()

        async def lives(survivor: Batcher = survivor, records: Sequence[ReceivedEvent] = records) -> None:
            MORTAL.set(False)
            await on_mirrored(records[7:20], survivor)
            await survivor.windowing.close_due()

        with dying(at, after=after) as writes:
            await asyncio.gather(dies(), lives())
            finished = writes() < at
        for _ in range(3):
            world.clock.advance(31)
            await survivor.drafts.step()
        world.clock.advance(36)
        await survivor.windowing.close_due()
        assert spread(await batched(world, bucket_id)) == Counter(ids)
        await world.database.collection("buckets").delete_one({"_id": bucket_id})
        if finished:
            return
    raise AssertionError("it never got to its end")


async def test_canceled_unit_does_not_start_again(world: World) -> None:
    bucket_id = await world.bucket(**LIMITS)
    replica = world.replica()
    ids = await world.drafts(3, bucket_id=bucket_id)
    records = await world.mirror(ids)
    await on_mirrored(records, replica)
    world.clock.advance(31)
    await replica.windowing.close_due()
    [batch] = await world.batches.collection.find({"bucket_id": bucket_id}, limit=2)
    assert [row["type"] for row in batch["pending"]] == [BatchSubmitted.type] or world.bus.take(BatchSubmitted)
    await world.ask_to_cancel(batch["_id"])
    await replica.service.cancel(batch["_id"])
    await world.run(replica)
    assert set(await world.statuses(ids)) == {Status.DRAFT}
    world.clock.advance(100)
    await on_mirrored(records, replica)
    for _ in range(3):
        await replica.drafts.step()
    await replica.windowing.close_due()
    assert len(await world.batches.collection.find({"bucket_id": bucket_id}, limit=5)) == 1


async def test_a_changed_draft_is_a_new_one(world: World) -> None:
    bucket_id = await world.bucket(**LIMITS)
    replica = world.replica()
    ids = await world.drafts(1, bucket_id=bucket_id)
    await on_mirrored(await world.mirror(ids), replica)
    world.clock.advance(31)
    await replica.windowing.close_due()
    await world.objects.collection.update_one({"_id": ids[0]}, {"$set": {"run": {"id": 7, "rank": 0}}})
    await on_mirrored(await world.mirror(ids), replica)
    world.clock.advance(31)
    await replica.windowing.close_due()
    assert await batched(world, bucket_id) == [ids, ids]


async def test_a_draft_that_was_submitted_by_name_is_not_submitted_again(world: World) -> None:
    bucket_id = await world.bucket(**LIMITS)
    replica = world.replica()
    ids = await world.drafts(4, bucket_id=bucket_id)
    named, changed, deleted, left = ids
    await on_mirrored(await world.mirror(ids), replica)
    batch_id = await world.submitted([named], bucket_id=bucket_id)
    await replica.planner.plan_batch(batch_id)
    await world.run(replica)
    await world.objects.collection.update_one({"_id": changed}, {"$set": {"run": {"id": 1, "rank": 0}}})
    await world.objects.collection.delete_one({"_id": deleted})
    world.clock.advance(31)
    await replica.windowing.close_due()
    [batch] = await world.batches.collection.find({"bucket_id": bucket_id, "_id": {"$ne": batch_id}}, limit=5)
    assert (batch["objects"], batch["total"]) == ([left], 1)
    assert await world.statuses([named]) == [Status.COMPLETED]


async def test_a_window_of_which_nothing_is_left_makes_no_batch(world: World) -> None:
    bucket_id = await world.bucket(**LIMITS)
    replica = world.replica()
    ids = await world.drafts(2, bucket_id=bucket_id)
    await on_mirrored(await world.mirror(ids), replica)
    batch_id = await world.submitted(ids, bucket_id=bucket_id)
    await replica.planner.plan_batch(batch_id)
    await world.run(replica)
    world.clock.advance(31)
    await replica.windowing.close_due()
    assert await world.batches.collection.count({"bucket_id": bucket_id}) == 1
    assert await replica.windowing.close_due() == 0, "the window is closed for good"


async def test_an_object_for_which_a_batch_waited_joins_no_window(world: World) -> None:
    """Its QUEUED is still on the bus, so that it looks like a draft, and the window is full at once."""
    bucket_id = await world.bucket(**{**LIMITS, "max_objects": 1})
    replica = world.replica()
    ids = await world.drafts(1, bucket_id=bucket_id, mirrored=False)
    batch_id = await world.submitted(ids, bucket_id=bucket_id)
    await replica.planner.plan_batch(batch_id)
    await on_mirrored(await world.mirror(ids), replica)
    assert [row["_id"] for row in await world.batches.collection.find({}, limit=5)] == [batch_id]


async def test_replicas_that_saw_different_drafts_make_the_batch_once(world: World) -> None:
    bucket_id = await world.bucket(**LIMITS)
    replicas = [world.replica() for _ in range(2)]
    ids = await world.drafts(3, bucket_id=bucket_id)
    await on_mirrored(await world.mirror(ids), replicas[0])
    world.clock.advance(31)
    with dying(3, after=False), suppress(Killed):  # closed, made, and then not finished
        await replicas[0].windowing.close_due()
    await world.objects.collection.update_one({"_id": ids[0]}, {"$set": {"run": {"id": 1, "rank": 0}}})
    await replicas[1].windowing.close_due()
    assert spread(await batched(world, bucket_id)) == Counter(ids)
    [batch] = await world.batches.collection.find({"bucket_id": bucket_id}, limit=2)
    assert len(batch["pending"]) == 1
    assert not world.bus.take(BatchSubmitted), "the outbox says what was made"


async def test_buckets_take_turns_when_their_drafts_are_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = sorted([await world.bucket(**LIMITS), await world.bucket(**LIMITS)])
    ids = await world.drafts(22, bucket_id=large) + await world.drafts(3, bucket_id=small)
    replica = world.replica()
    replica.drafts._limit = 5
    seen: list[str] = []
    add_drafts = replica.windowing.add_drafts

    async def noted(objects: Sequence[ObjectDocument]) -> int:
        seen.extend({obj["bucket_id"] for obj in objects})
        return await add_drafts(objects)

    monkeypatch.setattr(replica.windowing, "add_drafts", noted)
    world.clock.advance(31)
    assert await replica.drafts.step() == 25, "all within the time of one step"
    assert seen == [large, small, large, large, large, large]
    assert await replica.drafts.step() == 0
    world.clock.advance(31)
    await replica.windowing.close_due()
    assert spread([*await batched(world, large), *await batched(world, small)]) == Counter(ids)


async def test_a_bucket_that_cannot_be_looked_at_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = sorted([await world.bucket(**LIMITS), await world.bucket(**LIMITS)])
    for bucket_id in (bad, good):
        await world.drafts(1, bucket_id=bucket_id)
    replica = world.replica()
    world.clock.advance(31)
    drafts = replica.drafts._drafts

    async def away(place: ScanCursor) -> list[ObjectDocument]:
        if place.bucket_id == bad:
            raise DependencyUnavailable("it took too long")
        return await drafts(place)

    with monkeypatch.context() as patched:
        patched.setattr(replica.drafts, "_drafts", away)
        for _ in range(2):
            with pytest.raises(DependencyUnavailable):
                await replica.drafts.step()
    windows = world.database.collection("batching_windows")
    assert [window["bucket_id"] for window in await windows.find({}, limit=5)] == [good]
    assert await replica.drafts.step() == 1, "and it is looked at again"


async def test_released_unit_is_not_read_repeatedly(world: World) -> None:
    bucket_id = await world.bucket(**LIMITS)
    ids = await world.drafts(5, bucket_id=bucket_id)
    where = {"_id": {"$in": ids[:4]}}
    await world.objects.collection.update_many(where, {"$set": {"run": {"id": 9, "rank": RANK_FINAL}}})
    replica = world.replica()
    world.clock.advance(31)
    assert [obj["_id"] for obj in await replica.drafts._drafts(ScanCursor(bucket_id))] == ids[4:]
    asked = {"bucket_id": bucket_id, "status": "DRAFT", "run.rank": 0, "created_at": {"$lt": world.clock.now()}}
    plan = await explain(world.objects.collection, asked, sort=[("created_at", 1), ("_id", 1)])
    assert "'new_drafts'" in str(plan), plan
    assert "SORT" not in str(plan)
