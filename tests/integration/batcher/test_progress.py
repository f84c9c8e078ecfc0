"""How batches end: by what was recorded first, in whatever order it came, however often."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.batcher.conftest import GOOD, Killed, Outcome, World, dying, on_mirrored, on_status

from bucketline.domain.status import Status
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import BatchCompleted, ObjectStatusChanged, WorkUnitReady

pytestmark = pytest.mark.stack

OUTCOMES: tuple[Outcome, ...] = (
    GOOD,
    (Status.COMPLETED, 3, None),
    (Status.FAILED, 0, "transient"),
    (Status.FAILED, 0, "permanent"),
    (Status.COMPLETED_WITH_ERRORS, 2, "transient"),
    (Status.SKIPPED, 0, None),
)
FACTS = ("status", "processed", "failed", "documents_written", "missing")


def facts(batch: Any) -> dict[str, Any]:
    failed = sorted((row["object_id"], row["error"], row["error_type"]) for row in batch["failed_objects"])
    reason = batch.get("failure_reason")
    if reason is not None:
        # Failures are in the order of unit ids, which derive from the batch's id: the first differs between batches.
        first = batch["failed_objects"][0]["error"]
        assert reason.endswith(first)
        reason = reason.removesuffix(first)
    return {name: batch.get(name) for name in FACTS} | {"failure_reason": reason, "failed_objects": failed}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_the_end_does_not_depend_on_order_or_duplicates(world: World, data: st.DataObject) -> None:
    outcomes = data.draw(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=12))
    ids = await world.drafts(len(outcomes))
    by_id = dict(zip(ids, outcomes, strict=True))
    ends = []
    for shuffled in (False, True):
        world.clock.advance(1)
        replicas = [world.replica(unit_max_objects=3) for _ in range(2)]
        batch_id = await world.submitted(ids)
        await replicas[0].planner.plan_batch(batch_id)
        world.bus.take(ObjectStatusChanged)
        records = await world.worked(lambda oid: by_id[oid])
        if shuffled:
            doubled = [*records, *data.draw(st.lists(st.sampled_from(records), max_size=2 * len(records)))]
            records = data.draw(st.permutations(doubled))
        size = data.draw(st.integers(1, 8)) if shuffled else len(records)
        for number, start in enumerate(range(0, len(records), size)):
            await on_status(records[start : start + size], replicas[number % 2])
        ends.append(facts(await world.batch(batch_id)))
    expected = sum(documents for _, documents, _ in outcomes)
    assert ends[0] == ends[1]
    assert ends[0]["processed"] == len(outcomes)
    assert ends[0]["documents_written"] == expected
    assert ends[0]["failed"] == sum(1 for status, _, _ in outcomes if status in ("FAILED", "COMPLETED_WITH_ERRORS"))


async def test_the_first_end_of_an_object_counts(world: World) -> None:
    replica = world.replica()
    ids = await world.drafts(2)
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    [unit] = await world.units_of(batch_id)
    bad = world.results(unit, lambda _: (Status.FAILED, 0, "transient"))
    await on_status(bad + world.results(unit), replica)
    assert (await world.batch(batch_id))["failed"] == 2


@pytest.mark.parametrize("auto", [False, True])
async def test_documents_count_that_the_batch_wrote_and_not_those_that_were_there(world: World, auto: bool) -> None:
    replica = world.replica()
    ids = await world.drafts(3, auto=auto)
    if auto:
        await replica.planner.plan_auto(list((await world.objects.get_many(ids)).values()), {})
        batch_ids = [str(obj.get("batch_id")) for obj in (await world.objects.get_many(ids)).values()]
    else:
        batch_ids = [await world.submitted(ids)]
        await replica.planner.plan_batch(batch_ids[0])
    says = {ids[0]: 0, ids[1]: 2, ids[2]: None}  # the last by a processor of an older release
    records = [
        replace(record, event=record.event.model_copy(update={"documents_written": says[record.event.object_id]}))
        for record in await world.worked(lambda _: (Status.COMPLETED, 5, None))
        if isinstance(record.event, ObjectStatusChanged)
    ]
    await on_status(records, replica)
    batches = [await world.batch(batch_id) for batch_id in batch_ids]
    assert sum(batch["documents_written"] for batch in batches) == 0 + 2 + 5
    told = [record.event.documents_written for record in world.bus.take(BatchCompleted)]  # type: ignore[attr-defined]
    assert sum(told) == 7
    [unit] = await world.units_of(batch_ids[0])
    assert {row["documents"] for row in unit["results"].values()} == {5}, "what the object has is not forgotten"


@pytest.mark.parametrize("after", [False, True])
async def test_a_batcher_may_die_while_it_finishes(world: World, after: bool) -> None:
    for at in range(1, 50):
        ids, replica = await world.drafts(4), world.replica(unit_max_objects=2)
        batch_id = await world.submitted(ids)
        await replica.planner.plan_batch(batch_id)
        world.bus.take(ObjectStatusChanged)
        records = await world.worked()
        with dying(at, after=after) as writes:
            with suppress(Killed):
                await on_status(records, replica)
            finished = writes() < at
        # its offsets were not committed
        await on_status(records, world.replica())
        batch = await world.batch(batch_id)
        assert (batch["status"], batch["processed"]) == (Status.COMPLETED, 4)
        assert len(batch.get("pending", [])) <= 1
        if finished:
            return
        world.clock.advance(1)
    raise AssertionError("it never got to its end")


async def test_concurrent_completions_publish_one_event(world: World) -> None:
    ids = await world.drafts(20)
    batch_id = await world.submitted(ids)
    replicas = [world.replica(unit_max_objects=5) for _ in range(4)]
    await replicas[0].planner.plan_batch(batch_id)
    records = await world.worked()
    await asyncio.gather(*(on_status(records, replica) for replica in replicas))
    world.clock.advance(60)
    for replica in replicas:
        await replica.reconciler.batches()
    batch = await world.batch(batch_id)
    owed = {row["id"] for row in batch.get("pending", []) if row["type"] == BatchCompleted.type}
    said = {record.id for record in world.bus.take(BatchCompleted)}
    assert batch["status"] == Status.COMPLETED
    assert len(owed | said) == 1, "it may be said twice, but it is one event"


async def test_an_object_that_arrives_while_its_batch_is_counted_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.replica()
    early, late = await world.drafts(3), await world.drafts(1, mirrored=False)
    batch_id = await world.submitted(early + late)
    await replica.planner.plan_batch(batch_id)
    world.bus.take(ObjectStatusChanged)
    records = await world.worked()
    tally = replica.planner.units.tally

    async def overtaken(*args: Any) -> Any:
        found = await tally(*args)
        monkeypatch.undo()
        await on_mirrored(await world.mirror(late), replica)
        return found

    monkeypatch.setattr(replica.planner.units, "tally", overtaken)
    await on_status(records, replica)
    assert (await world.batch(batch_id))["status"] == Status.PROCESSING
    await world.run(replica)
    batch = await world.batch(batch_id)
    assert (batch["status"], batch["processed"], batch["missing"]) == (Status.COMPLETED, 4, 0)


async def test_progress_is_reported_and_never_decreases(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bucketline_batcher.results.TALLY_SHARE", 0
    )  # on a loaded machine it would be shown at the end only
    replica = world.replica(unit_max_objects=2, progress_refresh_seconds=0.0001)
    ids = await world.drafts(20)
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    shown = []
    while records := await world.worked(most=1):
        world.bus.take(WorkUnitReady)
        await on_status(records, replica)
        await replica.progress.update(batch_id)
        shown.append((await world.batch(batch_id)).get("processed", 0))
        ready = await world.units.collection.find({"batch_id": batch_id, "state": "ready"}, limit=100)
        await replica.progress._publisher.publish_ready(ready)
    assert shown == sorted(shown)
    assert shown[-1] == 20
    assert len(set(shown)) > 2, "it is shown before the end"


async def test_first_error_is_reported_while_the_batch_runs(world: World) -> None:
    replica = world.replica(unit_max_objects=2)
    ids = await world.drafts(4)
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    bad = await world.worked(lambda _: (Status.FAILED, 0, "permanent"), most=1)
    await on_status(bad, replica)
    batch = await world.batch(batch_id)
    assert (batch["status"], batch["failed"], batch["first_error"]) == (Status.PROCESSING, 2, "broke: permanent")
    assert batch["processed"] == 2


async def test_retry_adds_to_the_earlier_totals(world: World) -> None:
    replica = world.replica(unit_max_objects=2)
    ids = await world.drafts(6)
    plan = dict.fromkeys(ids, GOOD) | {
        ids[0]: (Status.FAILED, 0, "transient"),
        ids[1]: (Status.COMPLETED_WITH_ERRORS, 1, "transient"),
        ids[2]: (Status.FAILED, 0, "permanent"),
    }
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    await world.run(replica, lambda oid: plan[oid])
    first = await world.batch(batch_id)
    assert (first["status"], first["failed"], first["documents_written"]) == (Status.COMPLETED_WITH_ERRORS, 3, 4)
    old = [record for unit in await world.units_of(batch_id) for record in world.results({**unit, "results": {}})]

    world.clock.advance(10)
    await retry(world, batch_id, kept=4, failed=1, documents=3, mode="transient_only")
    await replica.planner.plan_batch(batch_id)
    await on_status(old, replica)  # late records of the first turn
    await world.run(replica)
    batch = await world.batch(batch_id)
    assert (batch["processed"], batch["failed"], batch["documents_written"]) == (6, 1, 5)
    assert batch["status"] == Status.COMPLETED_WITH_ERRORS
    assert batch["missing"] == 0
    assert (await world.statuses(ids))[:3] == [Status.COMPLETED, Status.COMPLETED, Status.FAILED]


async def retry(world: World, batch_id: str, *, kept: int, failed: int, documents: int, mode: str) -> None:
    """What the ingest API writes."""
    batch = await world.batch(batch_id)
    base = {"finished": kept, "failed": failed, "documents": documents, "failed_objects": []}
    now = world.clock.now()
    changes = {"status": "PENDING", "run": batch["run"] + 10_000, "retry": mode, "base": base, "moved_at": now}
    shown = {"processed": kept, "failed": failed, "documents_written": documents}
    await world.batches.collection.update_one(
        {"_id": batch_id}, {"$set": {**changes, **shown}, "$unset": {"planned": "", "completed_at": ""}}
    )


async def test_an_error_that_looks_like_an_expression_is_kept_as_it_is(world: World) -> None:
    replica = world.replica()
    ids = await world.drafts(1)
    batch_id = await world.submitted(ids)
    await replica.planner.plan_batch(batch_id)
    [unit] = await world.units_of(batch_id)
    records = [with_error(record, "$total is not a number") for record in world.results(unit)]
    await on_status(records, replica)
    batch = await world.batch(batch_id)
    assert batch["failed_objects"][0]["error"] == "$total is not a number"


def with_error(record: ReceivedEvent, error: str) -> ReceivedEvent:
    event = record.event
    assert isinstance(event, ObjectStatusChanged)
    if event.status is not Status.COMPLETED:
        return record
    changed = event.model_copy(update={"status": Status.FAILED, "error": error, "error_type": "permanent"})
    return ReceivedEvent(event=changed, id=record.id, source=record.source, trace={})
