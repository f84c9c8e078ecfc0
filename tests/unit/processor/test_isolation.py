"""Isolation: an object that crashes its processor is found and fails, and everything else completes.

A crash is simulated by a processor that cannot reach MongoDB any more and hangs in the middle of an extraction.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from tests.unit.processor.fakes import Processor, RecordedResults, completed, settled

from bucketline.db.work_units import NO_ITEM, unit_attempts
from bucketline.errors import DependencyUnavailable
from bucketline_processor.extraction import ExtractionJob, ExtractionOutcome

LEASE = 31.0


class Fleet:
    """Runs processors one after the other on the same units; ``killers`` are objects that crash their processor."""

    def __init__(self, killers: Iterable[str] = (), **settings: Any) -> None:
        self.killers = set(killers)
        self.settings = settings
        self.first = Processor(owner="p0", **settings)
        self.units = self.first.units
        self.crashes = 0
        self.processors: list[Processor] = []

    def unit(self, count: int, unit_id: str = "unit_1", **more: Any) -> str:
        return self.first.unit(count, unit_id, **more)

    def next(self) -> Processor:
        owner = f"p{len(self.processors) + 1}"
        processor = Processor(
            owner=owner,
            units=self.units,
            objects=self.first.objects,
            completion=self.first.completion,
            **self.settings,
        )
        self.crashed = asyncio.Event()

        async def crash(_: ExtractionJob) -> ExtractionOutcome:
            self.units.dead.add(owner)
            self.crashed.set()
            await asyncio.Event().wait()
            raise AssertionError("a crashed processor does not continue")

        processor.extractions.behaviors = dict.fromkeys(self.killers, crash)
        self.processors.append(processor)
        return processor

    async def run_processor(self, *unit_ids: str) -> bool:
        """Run one processor on the units; return whether it finished all of them without a crash."""
        processor = self.next()
        working = [asyncio.create_task(processor.work(unit_id)) for unit_id in unit_ids or ("unit_1",)]
        crashing = asyncio.create_task(self.crashed.wait())
        everything = asyncio.gather(*working)
        futures: set[asyncio.Future[Any]] = {everything, crashing}
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        alive = everything.done()
        for task in (*working, crashing):
            task.cancel()
        await asyncio.gather(*working, crashing, everything, return_exceptions=True)
        if not alive:
            self.crashes += 1
            self.first.clock.advance(LEASE)
        return alive and everything.result() == [True] * len(working)

    async def run_until_finished(self, *unit_ids: str, most: int = 20, recording: bool = True) -> int:
        """Run processors until one has finished the units; return how many there were."""
        for number in range(1, most + 1):
            if await self.run_processor(*unit_ids):
                return number
            if recording:
                self.record()
        raise AssertionError(f"the units are unfinished after {most} processors")

    def record(self) -> None:
        """Record the published results in the units, as the batcher does."""
        for finished in self.first.completion.results:
            results = self.units.rows[finished.item.unit["_id"]]["results"]
            results.setdefault(str(finished.item.index), {"status": str(finished.outcome.status)})

    def current_item(self, unit_id: str) -> int | None:
        current: int | None = self.units.rows[unit_id]["lease"].get("current_item")
        return current

    @property
    def completion(self) -> RecordedResults:
        return self.first.completion


def failed(completion: RecordedResults) -> set[str]:
    return {object_id for object_id, status in completion.statuses().items() if status == "FAILED"}


async def test_object_that_crashes_processors_fails_and_all_others_complete() -> None:
    fleet = Fleet({"obj_3"})
    fleet.unit(8)
    assert await fleet.run_until_finished() == 5, "two crashes, two isolated crashes, and one processor that fails it"
    assert failed(fleet.completion) == {"obj_3"}
    assert len(fleet.completion.statuses()) == 8
    outcome = fleet.completion.outcomes()["obj_3"]
    assert outcome.error_type == "resource"
    assert outcome.error == "processing this object ended its processor 2 times: a file may be damaged or too large"
    assert outcome.again, "documents that were stored before the crash are counted"
    assert fleet.processors[-1].extractions.runs == {}


async def test_several_crashing_objects_are_found_one_after_the_other() -> None:
    killers = {"obj_0", "obj_4", "obj_5"}
    fleet = Fleet(killers)
    fleet.unit(7)
    await fleet.run_until_finished()
    assert failed(fleet.completion) == killers
    assert set(fleet.completion.statuses().values()) == {"FAILED", "COMPLETED"}
    assert fleet.crashes == 2 + 2 * len(killers)
    assert unit_attempts(fleet.units.rows["unit_1"]).crashes == 2, "isolated crashes do not count"  # type: ignore[arg-type]


async def test_isolated_unit_runs_items_without_crashes_first() -> None:
    fleet = Fleet({"obj_1"})
    fleet.unit(4, attempts=2)
    assert not await fleet.run_processor()
    assert fleet.processors[-1].extractions.order == ["obj_0", "obj_1"]
    assert not await fleet.run_processor()
    assert fleet.processors[-1].extractions.order == ["obj_0", "obj_2", "obj_3", "obj_1"]


async def test_unit_is_isolated_after_the_configured_number_of_crashes() -> None:
    fleet = Fleet(isolate_after_crashes=2)
    fleet.unit(5, attempts=1)
    assert await fleet.run_processor()
    assert fleet.processors[-1].extractions.most_at_once == 5
    fleet.unit(5, "unit_2", prefix="other", attempts=2)
    assert await fleet.run_processor("unit_2")
    assert fleet.processors[-1].extractions.most_at_once == 1


async def test_late_results_do_not_fail_completed_objects() -> None:
    fleet = Fleet({"obj_2"})
    fleet.unit(6)
    await fleet.run_until_finished(recording=False)
    assert failed(fleet.completion) == {"obj_2"}, "the first final status of each"


async def test_object_that_completes_when_isolated_is_not_failed() -> None:
    fleet = Fleet({"obj_2"})
    fleet.unit(4, attempts=2)
    assert not await fleet.run_processor()
    fleet.record()
    fleet.killers.clear()
    assert await fleet.run_processor()
    assert set(fleet.completion.statuses().values()) == {"COMPLETED"}


async def test_crashed_object_that_was_deleted_is_skipped() -> None:
    fleet = Fleet()
    fleet.unit(1, attempts=5, crashed_items=[0, 0])
    fleet.first.objects.rows.clear()
    assert await fleet.run_processor()
    assert fleet.completion.statuses() == {"obj_0": "SKIPPED"}


async def test_crash_of_isolated_item_is_not_counted_for_other_units() -> None:
    fleet = Fleet({"obj_0"})
    fleet.unit(3, attempts=2)
    fleet.unit(3, "unit_2", prefix="other", batch_id="btch_2")
    assert not await fleet.run_processor("unit_1", "unit_2")
    fleet.record()
    await fleet.run_until_finished("unit_1")
    unit: Any = await fleet.units.lease("unit_2", "p9", now=fleet.first.clock.now(), until=fleet.first.clock.now())
    assert (unit["attempts"], unit["crashed_items"], unit["release_count"]) == (1, [], 1)


async def test_crash_of_isolated_item_is_not_counted_for_other_isolated_units() -> None:
    fleet = Fleet({"obj_0"})
    fleet.unit(3, attempts=2)
    fleet.unit(3, "unit_2", prefix="other", attempts=2)
    while not await fleet.run_processor("unit_1", "unit_2"):
        fleet.record()
    assert failed(fleet.completion) == {"obj_0"}
    assert fleet.units.rows["unit_2"]["crashed_items"] == []
    assert unit_attempts(fleet.units.rows["unit_2"]).crashes == 2, "its current lease is marked as idle"  # type: ignore[arg-type]


class ManualExtraction:
    """An extraction that ends when the test says so."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __call__(self, task: ExtractionJob) -> ExtractionOutcome:
        await self.end.wait()
        return await completed(task)


async def test_isolated_item_runs_alone_and_other_units_continue_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_processor.isolation.EXCLUSIVE_SECONDS", 0.0)
    processor = Processor()
    processor.unit(2, attempts=2)
    processor.unit(2, "unit_2", prefix="other", batch_id="btch_2")
    running = {name: ManualExtraction() for name in ("other_0", "obj_0", "obj_1")}
    processor.extractions.behaviors = dict(running)
    usual = asyncio.create_task(processor.work("unit_2"))
    await settled()
    assert processor.extractions.running == {"other_0"}
    isolated = asyncio.create_task(processor.work("unit_1"))
    await settled()
    assert processor.extractions.running == {"other_0"}, "it waits for running objects"
    running["other_0"].end.set()
    await settled()
    assert processor.extractions.running == {"obj_0"}
    assert await usual

    processor.unit(2, "unit_3", prefix="late", batch_id="btch_3")
    late = asyncio.create_task(processor.work("unit_3"))
    await settled()
    assert processor.units.rows["unit_3"]["state"] == "ready", "another processor may lease it"
    running["obj_0"].end.set()
    await settled()
    assert processor.units.rows["unit_3"]["state"] == "leased", "waiting units proceed between two items"
    assert processor.extractions.running == {"obj_1"}
    running["obj_1"].end.set()
    assert all(await asyncio.gather(isolated, late))


async def test_leases_name_the_current_item_and_mark_other_units_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_processor.isolation.EXCLUSIVE_SECONDS", 0.0)
    fleet = Fleet()
    fleet.unit(2, attempts=2)
    fleet.unit(1, "unit_2", prefix="other")
    fleet.unit(1, "unit_3", prefix="also", attempts=2)
    processor = fleet.next()
    extractions = {name: ManualExtraction() for name in ("obj_0", "obj_1", "other_0", "also_0")}
    processor.extractions.behaviors = dict(extractions)
    for unit_id in ("unit_2", "unit_1", "unit_3"):
        await processor.leases.acquire(unit_id)
    async with asyncio.TaskGroup() as group:
        for unit_id in ("unit_1", "unit_3"):
            row: Any = dict(fleet.units.rows[unit_id])
            group.create_task(processor.service.run(row, {}))
        await settled()
        assert [fleet.current_item(f"unit_{n}") for n in (1, 2, 3)] == [0, NO_ITEM, NO_ITEM]
        extractions["obj_0"].end.set()
        await settled()
        assert [fleet.current_item(f"unit_{n}") for n in (1, 2, 3)] == [NO_ITEM, NO_ITEM, 0], "the other unit proceeds"
        extractions["also_0"].end.set()
        await settled()
        assert [fleet.current_item(f"unit_{n}") for n in (1, 2, 3)] == [1, NO_ITEM, NO_ITEM]
        extractions["obj_1"].end.set()
    assert [fleet.current_item(f"unit_{n}") for n in (1, 2)] == [NO_ITEM, None]


@pytest.mark.parametrize("how", ["stopped", "store unavailable"])
async def test_released_unit_has_no_crashed_item(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 1)
    processor = Processor()
    processor.unit(3, attempts=2)

    async def interrupted(_: ExtractionJob) -> ExtractionOutcome:
        if how == "stopped":
            processor.service.stop()
        raise DependencyUnavailable("unavailable")

    processor.extractions.behaviors["obj_0"] = interrupted
    assert not await processor.work()
    await processor.leases.release("unit_1")
    row = processor.units.rows["unit_1"]
    assert (row["state"], row["attempts"], row["crashed_items"]) == ("ready", 2, [])
    assert processor.completion.statuses() == ({} if how == "stopped" else {"obj_1": "COMPLETED", "obj_2": "COMPLETED"})


async def test_isolated_unit_with_several_unfinished_items_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 1)
    processor = Processor()
    processor.unit(20, attempts=2)

    async def unavailable(_: ExtractionJob) -> ExtractionOutcome:
        raise DependencyUnavailable("unavailable")

    processor.extractions.behaviors = dict.fromkeys(processor.objects.rows, unavailable)
    assert not await processor.work()
    assert len(processor.extractions.order) == 3


async def test_isolated_unit_with_lost_lease_starts_no_more_items() -> None:
    processor = Processor()
    processor.unit(3, attempts=2)

    async def paused(task: ExtractionJob) -> ExtractionOutcome:
        processor.clock.advance(LEASE)
        later = processor.clock.now()
        assert await processor.units.lease("unit_1", "another", now=later, until=later)
        return await completed(task)

    processor.extractions.behaviors["obj_0"] = paused
    assert not await processor.work()
    assert processor.extractions.order == ["obj_0"]
    row = processor.units.rows["unit_1"]
    assert row["lease"]["owner"] == "another"
    assert "current_item" not in row["lease"], "it does not write into the lease of another processor"
    assert row["crashed_items"] == [0], "a suspended processor counts as crashed"
    assert processor.completion.statuses() == {"obj_0": "COMPLETED"}


async def test_isolated_unit_is_released_when_mongodb_fails_between_items() -> None:
    processor = Processor()
    processor.unit(2, attempts=2)

    async def last(task: ExtractionJob) -> ExtractionOutcome:
        processor.units.unavailable = True
        return await completed(task)

    processor.extractions.behaviors["obj_0"] = last
    with pytest.raises(DependencyUnavailable):
        await processor.work()
    processor.units.unavailable = False
    processor.extractions.behaviors.clear()
    await processor.leases.release("unit_1")
    assert processor.units.rows["unit_1"]["crashed_items"] == []
    assert await processor.work()
