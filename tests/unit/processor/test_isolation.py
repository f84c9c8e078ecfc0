"""Objects that end their processor: each alone is found and fails, and nothing else does.

A processor that dies is played by one that reaches no store any more, in the middle of what it is at.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from tests.unit.processor.fakes import Ends, Processor, completed, settled

from bucketline.db.work_units import NO_ITEM, unit_attempts
from bucketline.errors import DependencyUnavailable
from bucketline_processor.extraction import ExtractionJob, ExtractionOutcome

LEASE = 31.0


class Fleet:
    """Processors one after the other on the same units; ``killers`` are objects that end whoever works on them."""

    def __init__(self, killers: Iterable[str] = (), **settings: Any) -> None:
        self.killers = set(killers)
        self.settings = settings
        self.first = Processor(owner="p0", **settings)
        self.units = self.first.units
        self.deaths = 0
        self.seen: list[Processor] = []

    def unit(self, count: int, unit_id: str = "unit_1", **more: Any) -> str:
        return self.first.unit(count, unit_id, **more)

    def next(self) -> Processor:
        owner = f"p{len(self.seen) + 1}"
        shared = {"units": self.units, "objects": self.first.objects, "ends": self.first.ends}
        processor = Processor(owner=owner, **shared, **self.settings)
        self.died = asyncio.Event()

        async def deadly(_: ExtractionJob) -> ExtractionOutcome:
            self.units.dead.add(owner)
            self.died.set()
            await asyncio.Event().wait()
            raise AssertionError("nobody wakes the dead")

        processor.extractions.told = dict.fromkeys(self.killers, deadly)
        self.seen.append(processor)
        return processor

    async def life(self, *unit_ids: str) -> bool:
        """One processor takes the units; whether it lived to finish all of them."""
        processor = self.next()
        working = [asyncio.create_task(processor.work(unit_id)) for unit_id in unit_ids or ("unit_1",)]
        dying = asyncio.create_task(self.died.wait())
        everything = asyncio.gather(*working)
        await asyncio.wait({everything, dying}, return_when=asyncio.FIRST_COMPLETED)
        alive = everything.done()
        for task in (*working, dying):
            task.cancel()
        await asyncio.gather(*working, dying, everything, return_exceptions=True)
        if not alive:
            self.deaths += 1
            self.first.clock.advance(LEASE)
        return alive and everything.result() == [True] * len(working)

    async def lives(self, *unit_ids: str, most: int = 20, recording: bool = True) -> int:
        """Processors until one has finished the units; how many there were."""
        for number in range(1, most + 1):
            if await self.life(*unit_ids):
                return number
            if recording:
                self.record()
        raise AssertionError("there is no end to it")

    def record(self) -> None:
        """What the batcher does with what was said."""
        for finished in self.first.ends.said:
            results = self.units.rows[finished.item.unit["_id"]]["results"]
            results.setdefault(str(finished.item.index), {"status": str(finished.outcome.status)})

    def trying(self, unit_id: str) -> int | None:
        return self.units.rows[unit_id]["lease"].get("current_item")

    @property
    def ends(self) -> Ends:
        return self.first.ends


def failed(ends: Ends) -> set[str]:
    return {object_id for object_id, status in ends.statuses().items() if status == "FAILED"}


async def test_an_object_that_ends_its_processors_fails_and_all_others_are_completed():
    fleet = Fleet({"obj_3"})
    fleet.unit(8)
    assert await fleet.lives() == 5, "two that nobody was careful in, two that tried it, one that says so"
    assert failed(fleet.ends) == {"obj_3"}
    assert len(fleet.ends.statuses()) == 8
    outcome = fleet.ends.outcomes()["obj_3"]
    assert outcome.error_type == "resource"
    assert outcome.error == "processing this object ended its processor 2 times: a file may be damaged or too large"
    assert outcome.again, "what was stored of it counts"
    assert fleet.seen[-1].extractions.runs == {}


async def test_several_of_them_are_found_one_after_the_other():
    killers = {"obj_0", "obj_4", "obj_5"}
    fleet = Fleet(killers)
    fleet.unit(7)
    await fleet.lives()
    assert failed(fleet.ends) == killers
    assert set(fleet.ends.statuses().values()) == {"FAILED", "COMPLETED"}
    assert fleet.deaths == 2 + 2 * len(killers)
    assert unit_attempts(fleet.units.rows["unit_1"]).crashes == 2, "a batcher gives nothing up because of them"  # type: ignore[arg-type]


async def test_what_nobody_suspects_goes_first():
    fleet = Fleet({"obj_1"})
    fleet.unit(4, attempts=2)
    assert not await fleet.life()
    assert fleet.seen[-1].extractions.order == ["obj_0", "obj_1"]
    assert not await fleet.life()
    assert fleet.seen[-1].extractions.order == ["obj_0", "obj_2", "obj_3", "obj_1"]


async def test_a_unit_is_worked_on_one_by_one_only_after_so_many_deaths():
    fleet = Fleet(isolate_after_crashes=2)
    fleet.unit(5, attempts=1)
    assert await fleet.life()
    assert fleet.seen[-1].extractions.most_at_once == 5
    fleet.unit(5, "unit_2", prefix="other", attempts=2)
    assert await fleet.life("unit_2")
    assert fleet.seen[-1].extractions.most_at_once == 1


async def test_a_batcher_that_is_late_with_results_convicts_nobody_who_is_done():
    fleet = Fleet({"obj_2"})
    fleet.unit(6)
    await fleet.lives(recording=False)
    assert failed(fleet.ends) == {"obj_2"}, "the first final status of each"


async def test_an_object_that_needs_a_processor_for_itself_is_completed():
    fleet = Fleet({"obj_2"})
    fleet.unit(4, attempts=2)
    assert not await fleet.life()
    fleet.record()
    fleet.killers.clear()
    assert await fleet.life()
    assert set(fleet.ends.statuses().values()) == {"COMPLETED"}


async def test_a_convict_that_was_deleted_meanwhile_is_skipped():
    fleet = Fleet()
    fleet.unit(1, attempts=5, crashed_items=[0, 0])
    fleet.first.objects.rows.clear()
    assert await fleet.life()
    assert fleet.ends.statuses() == {"obj_0": "SKIPPED"}


async def test_what_shares_a_processor_with_it_is_not_blamed():
    fleet = Fleet({"obj_0"})
    fleet.unit(3, attempts=2)
    fleet.unit(3, "unit_2", prefix="other", batch_id="btch_2")
    assert not await fleet.life("unit_1", "unit_2")
    fleet.record()
    await fleet.lives("unit_1")
    unit: Any = await fleet.units.lease("unit_2", "p9", now=fleet.first.clock.now(), until=fleet.first.clock.now())
    assert (unit["attempts"], unit["crashed_items"], unit["release_count"]) == (1, [], 1)


async def test_another_unit_that_is_worked_on_carefully_is_not_blamed_either():
    fleet = Fleet({"obj_0"})
    fleet.unit(3, attempts=2)
    fleet.unit(3, "unit_2", prefix="other", attempts=2)
    while not await fleet.life("unit_1", "unit_2"):
        fleet.record()
    assert failed(fleet.ends) == {"obj_0"}
    assert fleet.units.rows["unit_2"]["crashed_items"] == []
    assert unit_attempts(fleet.units.rows["unit_2"]).crashes == 2, "its present lease says that nothing is at work"  # type: ignore[arg-type]


class Hand:
    """An extraction that ends when the test says so."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __call__(self, task: ExtractionJob) -> ExtractionOutcome:
        await self.end.wait()
        return await completed(task)


async def test_it_is_tried_alone_and_the_others_go_on_afterwards(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bucketline_processor.isolation.EXCLUSIVE_SECONDS", 0.0)
    processor = Processor()
    processor.unit(2, attempts=2)
    processor.unit(2, "unit_2", prefix="other", batch_id="btch_2")
    running = {name: Hand() for name in ("other_0", "obj_0", "obj_1")}
    processor.extractions.told = dict(running)
    usual = asyncio.create_task(processor.work("unit_2"))
    await settled()
    assert processor.extractions.running == {"other_0"}
    careful = asyncio.create_task(processor.work("unit_1"))
    await settled()
    assert processor.extractions.running == {"other_0"}, "it waits for what has begun"
    running["other_0"].end.set()
    await settled()
    assert processor.extractions.running == {"obj_0"}
    assert await usual

    processor.unit(2, "unit_3", prefix="late", batch_id="btch_3")
    late = asyncio.create_task(processor.work("unit_3"))
    await settled()
    assert processor.units.rows["unit_3"]["state"] == "ready", "another processor may take it meanwhile"
    running["obj_0"].end.set()
    await settled()
    assert processor.units.rows["unit_3"]["state"] == "leased", "who waited has a turn"
    assert processor.extractions.running == {"obj_1"}
    running["obj_1"].end.set()
    assert await asyncio.gather(careful, late) == [True, True]


async def test_leases_say_who_is_tried_and_who_is_not_worked_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bucketline_processor.isolation.EXCLUSIVE_SECONDS", 0.0)
    fleet = Fleet()
    fleet.unit(2, attempts=2)
    fleet.unit(1, "unit_2", prefix="other")
    fleet.unit(1, "unit_3", prefix="also", attempts=2)
    processor = fleet.next()
    processor.extractions.told = hands = {name: Hand() for name in ("obj_0", "obj_1", "other_0", "also_0")}
    for unit_id in ("unit_2", "unit_1", "unit_3"):
        await processor.leases.acquire(unit_id)
    async with asyncio.TaskGroup() as group:
        for unit_id in ("unit_1", "unit_3"):
            row: Any = dict(fleet.units.rows[unit_id])
            group.create_task(processor.processor.run(row, {}))
        await settled()
        assert [fleet.trying(f"unit_{n}") for n in (1, 2, 3)] == [0, NO_ITEM, NO_ITEM]
        hands["obj_0"].end.set()
        await settled()
        assert [fleet.trying(f"unit_{n}") for n in (1, 2, 3)] == [NO_ITEM, NO_ITEM, 0], "the next has its turn"
        hands["also_0"].end.set()
        await settled()
        assert [fleet.trying(f"unit_{n}") for n in (1, 2, 3)] == [1, NO_ITEM, NO_ITEM]
        hands["obj_1"].end.set()
    assert [fleet.trying(f"unit_{n}") for n in (1, 2)] == [NO_ITEM, None]


@pytest.mark.parametrize("how", ["stopped", "store away"])
async def test_what_was_given_back_is_no_suspect(how: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 1)
    processor = Processor()
    processor.unit(3, attempts=2)

    async def interrupted(_: ExtractionJob) -> ExtractionOutcome:
        if how == "stopped":
            processor.processor.stop()
        raise DependencyUnavailable("away")

    processor.extractions.told["obj_0"] = interrupted
    assert not await processor.work()
    await processor.leases.release("unit_1")
    row = processor.units.rows["unit_1"]
    assert (row["state"], row["attempts"], row["crashed_items"]) == ("ready", 2, [])
    assert processor.ends.statuses() == ({} if how == "stopped" else {"obj_1": "COMPLETED", "obj_2": "COMPLETED"})


async def test_stores_that_are_away_for_several_objects_leave_the_rest_for_later(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 1)
    processor = Processor()
    processor.unit(20, attempts=2)

    async def away(_: ExtractionJob) -> ExtractionOutcome:
        raise DependencyUnavailable("away")

    processor.extractions.told = dict.fromkeys(processor.objects.rows, away)
    assert not await processor.work()
    assert len(processor.extractions.order) == 3


async def test_a_processor_that_lost_its_lease_tries_nothing_more():
    processor = Processor()
    processor.unit(3, attempts=2)

    async def paused(task: ExtractionJob) -> ExtractionOutcome:
        processor.clock.advance(LEASE)
        later = processor.clock.now()
        assert await processor.units.lease("unit_1", "another", now=later, until=later)
        return await completed(task)

    processor.extractions.told["obj_0"] = paused
    assert not await processor.work()
    assert processor.extractions.order == ["obj_0"]
    row = processor.units.rows["unit_1"]
    assert row["lease"]["owner"] == "another"
    assert "current_item" not in row["lease"], "it writes nothing into another's lease"
    assert row["crashed_items"] == [0], "nobody can tell a pause from a death"
    assert processor.ends.statuses() == {"obj_0": "COMPLETED"}


async def test_a_store_that_goes_away_between_two_objects_gives_the_unit_back():
    processor = Processor()
    processor.unit(2, attempts=2)

    async def last(task: ExtractionJob) -> ExtractionOutcome:
        processor.units.away = True
        return await completed(task)

    processor.extractions.told["obj_0"] = last
    with pytest.raises(DependencyUnavailable):
        await processor.work()
    processor.units.away = False
    processor.extractions.told.clear()
    await processor.leases.release("unit_1")
    assert processor.units.rows["unit_1"]["crashed_items"] == []
    assert await processor.work()
