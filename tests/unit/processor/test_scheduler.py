"""The scheduler and the reconciler: which units start, in which order, and what happens when the service stops."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from tests.unit.processor.fake_units import StoredUnits

from bucketline.clock import ManualClock
from bucketline.errors import DependencyUnavailable
from bucketline_processor.isolation import Isolation
from bucketline_processor.leases import Leases
from bucketline_processor.reconciler import UnitReconciler
from bucketline_processor.scheduler import QueueFull, UnitScheduler
from bucketline_processor.settings import ProcessorSettings


class ManualProcessor:
    """A processor whose units end when the test calls :meth:`end`."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Future[bool]] = {}
        self.order: list[str] = []
        self.stopped = False

    async def run(self, unit: Any, _trace: Mapping[str, str]) -> bool:
        self.order.append(unit["_id"])
        self.running[unit["_id"]] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[unit["_id"]]
        finally:
            del self.running[unit["_id"]]

    def end(self, unit_id: str, finished: bool | Exception = True) -> None:
        future = self.running[unit_id]
        if isinstance(finished, Exception):
            future.set_exception(finished)
        else:
            future.set_result(finished)

    def stop(self) -> None:
        self.stopped = True


class Setup:
    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.units = StoredUnits(self.clock)
        self.processor = ManualProcessor()
        own = ProcessorSettings(
            **{"max_concurrent_units": 4, "prefetch_units": 2, "shutdown_grace_seconds": 0.01, **settings}
        )
        units: Any = self.units
        processor: Any = self.processor
        self.leases = Leases(units, "me", clock=self.clock, seconds=30)
        self.scheduler = UnitScheduler(
            units, self.leases, Isolation(units, self.leases), processor, clock=self.clock, settings=own
        )
        self.reconciler = UnitReconciler(units, self.scheduler, clock=self.clock, settings=own)

    async def submit(self, *unit_ids: str) -> None:
        await self.scheduler.submit({unit_id: {} for unit_id in unit_ids})
        await settled()

    def state(self, unit_id: str) -> tuple[str, int]:
        return self.units.rows[unit_id]["state"], self.units.rows[unit_id]["attempts"]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    made = Setup()
    yield made
    await made.scheduler.stop()


async def test_submit_returns_when_the_unit_is_scheduled_not_when_it_ends(setup: Setup) -> None:
    await setup.submit(setup.units.add("u1"))
    assert setup.state("u1") == ("leased", 1)
    assert list(setup.processor.running) == ["u1"]


async def test_single_batch_leaves_slots_for_the_next(setup: Setup) -> None:
    await setup.submit(*(setup.units.add(f"big{n}", "big") for n in range(4)))
    assert sorted(setup.processor.running) == ["big0", "big1"]
    setup.processor.end("big0")
    await settled()
    await setup.submit(setup.units.add("small", "small"))
    assert "small" in setup.processor.running


@pytest.mark.parametrize(("groups", "each"), [(1, [4]), (2, [3, 2]), (3, [2, 2, 2]), (4, [2, 2, 1, 1]), (9, [1] * 8)])
async def test_batches_share_the_slots_evenly(groups: int, each: list[int]) -> None:
    """One leaves half of the slots free, two a third, three a quarter, four a fifth."""
    setup = Setup(max_concurrent_units=8, prefetch_units=400)
    await setup.submit(*(setup.units.add(f"{n}-{g}", f"batch{g}") for n in range(40) for g in range(groups)))
    for place in range(20):
        # whoever came first took more before the others were known
        setup.processor.end(sorted(setup.processor.running)[place % len(setup.processor.running)])
        await settled()
    running = Counter(unit_id.partition("-")[2] for unit_id in setup.processor.running)
    assert sorted(running.values(), reverse=True) == each
    await setup.scheduler.stop()


async def test_second_batch_gets_slots_before_the_first_releases_any() -> None:
    setup = Setup(max_concurrent_units=8, prefetch_units=100)
    await setup.submit(*(setup.units.add(f"big{n}", "big") for n in range(10)))
    assert len(setup.processor.running) == 4
    await setup.submit(*(setup.units.add(f"small{n}", "small") for n in range(4)))
    assert len([unit_id for unit_id in setup.processor.running if unit_id.startswith("small")]) == 2
    await setup.scheduler.stop()


async def test_submit_to_a_full_queue_waits_and_loses_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_processor.scheduler.MAX_QUEUE_SECONDS", 0.02)
    units = [setup.units.add(f"u{n}") for n in range(6)]
    with pytest.raises(QueueFull):
        await setup.submit(*units)
    assert setup.state("u5") == ("ready", 0)
    waiting = asyncio.create_task(setup.submit(*units[:5]))
    await settled()
    setup.processor.end("u0")
    await waiting
    assert setup.processor.order == ["u0", "u1", "u2"]


async def test_repeated_submit_runs_the_unit_once(setup: Setup) -> None:
    unit = setup.units.add("u1")
    for _ in range(3):
        await setup.submit(unit)
    assert setup.processor.order == ["u1"]


@pytest.mark.parametrize("state", ["done", "canceled", "held"])
async def test_submit_of_ended_or_held_unit_does_nothing(setup: Setup, state: str) -> None:
    await setup.submit(setup.units.add("u1", state=state))
    assert setup.processor.order == []


async def test_unfinished_unit_is_released_at_once(setup: Setup) -> None:
    await setup.submit(*(setup.units.add(f"u{n}") for n in range(2)))
    setup.processor.end("u0", finished=False)
    setup.processor.end("u1", DependencyUnavailable("unavailable"))
    await settled()
    assert setup.state("u0") == setup.state("u1") == ("ready", 0)


async def test_unit_that_raises_is_released(setup: Setup) -> None:
    await setup.submit(setup.units.add("u1"))
    setup.processor.end("u1", ZeroDivisionError("ours"))
    await settled()
    assert setup.state("u1") == ("ready", 0)


async def test_stop_releases_units_after_the_grace_period_and_accepts_no_more(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bucketline_processor.scheduler.STOPPING_PAUSE", 0.0)
    await setup.submit(*(setup.units.add(f"u{n}") for n in range(4)))
    await setup.scheduler.stop()
    assert {setup.state(f"u{n}") for n in range(4)} == {("ready", 0)}
    assert setup.processor.stopped
    with pytest.raises(QueueFull):
        await setup.submit(setup.units.add("late"))
    assert setup.state("late") == ("ready", 0)


async def test_stop_lets_running_units_finish_within_the_grace_period() -> None:
    setup = Setup(shutdown_grace_seconds=10)
    await setup.submit(setup.units.add("u1"))
    stopping = asyncio.create_task(setup.scheduler.stop())
    await settled()
    setup.processor.end("u1")
    await stopping
    assert setup.state("u1")[0] == "leased", "its results finish it, not the scheduler"


async def test_unit_with_lost_lease_is_canceled_and_not_released(setup: Setup) -> None:
    await setup.submit(*(setup.units.add(f"u{n}") for n in range(2)))
    setup.units.rows["u0"]["lease"]["owner"] = "another"
    await setup.scheduler.heartbeat()
    await settled()
    assert list(setup.processor.running) == ["u1"]
    assert setup.units.rows["u0"]["lease"]["owner"] == "another"


async def test_heartbeat_keeps_the_lease_of_a_long_unit(setup: Setup) -> None:
    await setup.submit(setup.units.add("u1"))
    for _ in range(5):
        setup.clock.advance(20)
        await setup.scheduler.heartbeat()
    assert setup.units.rows["u1"]["lease"]["until"] > setup.clock.now()
    assert list(setup.processor.running) == ["u1"]


async def test_reclaim_with_free_slots_queues_units_without_a_holder(setup: Setup) -> None:
    setup.units.add("forgotten")
    setup.units.add("orphan", state="leased", lease={"owner": "dead", "until": setup.clock.now()})
    setup.units.add("over", state="canceled")
    assert await setup.reconciler.reclaim() == 0, "other processors may be about to lease it"
    setup.clock.advance(10)
    assert await setup.reconciler.reclaim() == 2
    await settled()
    assert sorted(setup.processor.running) == ["forgotten", "orphan"]


async def test_reclaim_without_free_slots_does_nothing(setup: Setup) -> None:
    await setup.submit(*(setup.units.add(f"u{n}", f"batch{n}") for n in range(4)))
    assert len(setup.processor.running) == 4
    setup.units.add("forgotten", "other")
    setup.clock.advance(10)
    await setup.scheduler.heartbeat()
    assert await setup.reconciler.reclaim() == 0


@pytest.mark.parametrize("before", [None, "large"])
async def test_unit_behind_thousands_of_records_is_reclaimed_within_seconds(setup: Setup, before: str | None) -> None:
    """A thousand units, those of 100,000 automatic objects or of a large batch, and then the unit of a batch of one."""
    many = [setup.units.add(f"u{n}", before) for n in range(1000)]
    consumer = asyncio.create_task(
        setup.scheduler.submit({unit_id: {} for unit_id in (*many, setup.units.add("small"))})
    )
    await settled()
    assert not consumer.done(), "the queue is full"
    assert "small" not in setup.processor.running
    setup.clock.advance(ProcessorSettings().orphan_claim_delay_seconds + 0.1)
    assert await setup.reconciler.reclaim() == 1
    await settled()
    assert "small" in setup.processor.running
    assert await setup.reconciler.reclaim() == 0, "groups that have units here get no more"
    consumer.cancel()


async def test_reclaim_serves_the_groups_in_turn(setup: Setup) -> None:
    await setup.submit(*(setup.units.add(f"big{n}", "big") for n in range(4)))
    for number in range(6):
        setup.units.add(f"a{number}", f"batch{number}")
    begun: list[str] = []
    for _ in range(3):
        setup.clock.advance(5)
        await setup.scheduler.heartbeat()
        await setup.reconciler.reclaim()
        await settled()
        fresh = [unit_id for unit_id in setup.processor.running if unit_id.startswith("a")]
        begun += fresh
        for unit_id in fresh:
            setup.units.rows[unit_id]["state"] = "done"
            setup.units.add(f"{unit_id}+", setup.units.rows[unit_id]["batch_id"])
            setup.processor.end(unit_id)
        await settled()
    assert len({setup.units.rows[unit_id]["batch_id"] for unit_id in begun}) == 6, begun


async def test_submit_after_a_failed_submit_runs_the_unit(setup: Setup) -> None:
    unit = setup.units.add("u1")
    setup.units.unavailable = True
    with pytest.raises(DependencyUnavailable):
        await setup.submit(unit)
    setup.units.unavailable = False
    await setup.submit(unit)
    assert list(setup.processor.running) == ["u1"]


class Gate:
    """Pause a method of the store after it has read or written, until the test opens the gate."""

    def __init__(self, setup: Setup, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.error: Exception | None = None
        self._entered, self._opened = asyncio.Event(), asyncio.Event()
        original = getattr(setup.units, method)

        async def gated(*arguments: Any, **options: Any) -> Any:
            answer = await original(*arguments, **options)
            self._entered.set()
            await self._opened.wait()
            if self.error is not None:
                raise self.error
            return answer

        monkeypatch.setattr(setup.units, method, gated)

    async def entered(self) -> None:
        async with asyncio.timeout(5):
            await self._entered.wait()

    def open(self, error: Exception | None = None) -> None:
        self.error = error
        self._opened.set()


async def every_slot_is_usable(setup: Setup) -> None:
    """Check that no ended unit still counts: four batches get the four slots, and each slot can be used again."""
    for turn in range(2):
        units = [setup.units.add(f"check{turn}-{n}", f"check{turn}-{n}") for n in range(4)]
        await setup.submit(*units)
        assert sorted(setup.processor.running) == units
        for unit_id in units:
            setup.units.rows[unit_id]["state"] = "done"
            setup.processor.end(unit_id)
        await settled()


@pytest.mark.parametrize("ends_before", [True, False], ids=["ended before the offer goes on", "still running"])
@pytest.mark.parametrize("times", [1, 3])
async def test_unit_reclaimed_while_submit_reads_it_runs_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, ends_before: bool, times: int
) -> None:
    for number in range(times):
        unit = setup.units.add(f"u{number}", "batch")
        with monkeypatch.context() as patch:
            gate = Gate(setup, patch, "get_many")
            offer = asyncio.create_task(setup.scheduler.submit({unit: {}}))
            await gate.entered()
            setup.clock.advance(10)
            await setup.scheduler.heartbeat()
            assert await setup.reconciler.reclaim() == 1
            await settled()
            if ends_before:
                setup.units.rows[unit]["state"] = "done"
                setup.processor.end(unit)
                await settled()
            gate.open()
            await offer
        await settled()
        assert setup.processor.order.count(unit) == 1
        if not ends_before:
            setup.units.rows[unit]["state"] = "done"
            setup.processor.end(unit)
            await settled()
    assert setup.processor.running == {}
    await every_slot_is_usable(setup)


async def test_unit_reclaimed_while_submit_waits_for_room_runs_once(setup: Setup) -> None:
    big = [setup.units.add(f"big{n}", "big") for n in range(4)]
    await setup.submit(*big)
    last = setup.units.add("small", "small")
    offer = asyncio.create_task(setup.scheduler.submit({setup.units.add("big4", "big"): {}, last: {}}))
    await settled()
    assert not offer.done(), "the queue is full"
    setup.clock.advance(10)
    await setup.scheduler.heartbeat()
    assert await setup.reconciler.reclaim() == 1
    for _ in range(2):
        running = next(unit_id for unit_id in setup.processor.running if unit_id.startswith("big"))
        setup.units.rows[running]["state"] = "done"
        setup.processor.end(running)
        await settled()
    await offer
    assert setup.processor.order.count(last) == 1
    while setup.processor.running:
        for unit_id in list(setup.processor.running):
            setup.units.rows[unit_id]["state"] = "done"
            setup.processor.end(unit_id)
        await settled()
    assert Counter(setup.processor.order) == dict.fromkeys((*big, "big4", last), 1)
    await every_slot_is_usable(setup)


@pytest.mark.parametrize("scans", ["find_stalled", "next_of_other_groups"])
async def test_unit_submitted_while_reclaim_reads_it_runs_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, scans: str
) -> None:
    unit = setup.units.add("u1")
    setup.clock.advance(10)
    with monkeypatch.context() as patch:
        gate = Gate(setup, patch, scans)
        scan = asyncio.create_task(setup.reconciler.reclaim())
        await gate.entered() if scans == "next_of_other_groups" else await settled()
        await setup.submit(unit)
        gate.open()
        await scan
    await settled()
    assert setup.processor.order == [unit]
    setup.units.rows[unit]["state"] = "done"
    setup.processor.end(unit)
    await settled()
    await every_slot_is_usable(setup)


async def test_unit_in_concurrent_submits_runs_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = setup.units.add("u1")
    with monkeypatch.context() as patch:
        gate = Gate(setup, patch, "get_many")
        offers = [asyncio.create_task(setup.scheduler.submit({unit: {}})) for _ in range(3)]
        await gate.entered()
        gate.open()
        await asyncio.gather(*offers)
    await settled()
    assert setup.processor.order == [unit]


async def test_submit_after_a_canceled_or_failed_submit_runs_the_unit(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = setup.units.add("u1")
    for error in (None, DependencyUnavailable("unavailable")):
        with monkeypatch.context() as patch:
            gate = Gate(setup, patch, "get_many")
            offer = asyncio.create_task(setup.scheduler.submit({unit: {}}))
            await gate.entered()
            if error is None:
                offer.cancel()
            gate.open(error)
            (outcome,) = await asyncio.gather(offer, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError if error is None else DependencyUnavailable)
        assert setup.processor.order == []
    await setup.submit(unit)
    assert setup.processor.order == [unit]


@pytest.mark.parametrize("error", [DependencyUnavailable("no answer"), ZeroDivisionError("ours"), None])
async def test_lease_with_lost_response_is_released_and_frees_its_slot(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """The lease is stored, and then the request fails, or the service stops (None)."""
    unit = setup.units.add("u1")
    with monkeypatch.context() as patch:
        gate = Gate(setup, patch, "lease")
        await setup.submit(unit)
        await gate.entered()
        assert setup.state(unit) == ("leased", 1)
        if error is None:
            await setup.scheduler.stop()
        gate.open(error)
        await settled()
    assert setup.state(unit) == ("ready", 0)
    assert setup.processor.order == []
    if error is not None:
        setup.units.rows[unit]["state"] = "done"
        await every_slot_is_usable(setup)


async def test_release_continues_after_a_second_cancellation(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = setup.units.add("u1")
    await setup.submit(unit)
    released = asyncio.Event()
    release = setup.units.release

    async def slow_release(*arguments: Any, **options: Any) -> None:
        await released.wait()
        await release(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(setup.units, "release", slow_release)
        task = setup.scheduler._running[unit]
        for _ in range(2):
            task.cancel()
            await settled()
        assert task.done()
        assert setup.state(unit) == ("leased", 1)
        released.set()
        await settled()
    assert setup.state(unit) == ("ready", 0)
    setup.units.rows[unit]["state"] = "done"
    await every_slot_is_usable(setup)
