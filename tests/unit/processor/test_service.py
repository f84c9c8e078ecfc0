"""A unit on its way: what is read, what is tried again, what is left, and what becomes of every object."""

import asyncio
from typing import Any

import pytest
from tests.unit.processor.fakes import Processor, completed, settled

from bucketline.domain.status import RANK_FINAL, RANK_PROCESSING, RANK_QUEUED, Status
from bucketline.errors import DependencyUnavailable
from bucketline_processor.completion import UnitItem
from bucketline_processor.extraction import ExtractionJob, ExtractionOutcome
from bucketline_processor.service import PAGE_BYTES, PAGE_OBJECTS, split_pages


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_processor.service.MAX_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("bucketline_processor.service.MIRROR_POLL_SECONDS", 0.0)


@pytest.fixture
async def processor() -> Processor:
    return Processor()


class Away:
    """A store that is away for the first ``times`` calls, or for ever."""

    def __init__(self, times: int | None = None) -> None:
        self.times = times
        self.calls = 0

    async def __call__(self, _: ExtractionJob) -> ExtractionOutcome:
        self.calls += 1
        if self.times is None or self.calls <= self.times:
            raise DependencyUnavailable("away")
        return ExtractionOutcome(Status.COMPLETED)


class Held:
    """An extraction that ends when the test says so."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __call__(self, task: ExtractionJob) -> ExtractionOutcome:
        await self.end.wait()
        return await completed(task)


async def test_every_object_is_said_to_be_started_and_then_to_be_over(processor: Processor):
    processor.unit(5)
    assert await processor.work()
    assert processor.started() == [f"obj_{n}" for n in range(5)]
    assert processor.ends.statuses() == {f"obj_{n}": "COMPLETED" for n in range(5)}


async def test_what_has_a_result_is_not_done_again(processor: Processor):
    processor.unit(3, results={"1": {"status": "COMPLETED"}})
    assert await processor.work()
    assert sorted(processor.ends.statuses()) == sorted(processor.started()) == ["obj_0", "obj_2"]


async def test_a_unit_is_read_in_pages_of_bounded_count(processor: Processor):
    processor.unit(2 * PAGE_OBJECTS + 50)
    assert await processor.work()
    assert [len(page) for page in processor.objects.reads] == [PAGE_OBJECTS, PAGE_OBJECTS, 50]
    assert len(processor.ends.said) == 2 * PAGE_OBJECTS + 50


async def test_objects_of_all_units_together_take_bounded_memory():
    processor = Processor(max_inflight_bytes=3_000_000)
    processor.unit(4, "unit_1", prefix="first")
    processor.unit(4, "unit_2", prefix="second", batch_id="btch_2")
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 1_500_000)
    held = Held()
    processor.extractions.told = dict.fromkeys(processor.objects.rows, held)
    running = asyncio.gather(processor.work("unit_1"), processor.work("unit_2"))
    await settled()
    assert processor.extractions.running == {"first_0", "first_1"}, "4 MiB are a page, and there is room for one"
    held.end.set()
    assert await running == [True, True]
    assert len(processor.ends.said) == 8


async def test_a_batch_that_hangs_leaves_memory_to_the_next():
    processor = Processor(max_inflight_bytes=10_000_000)
    processor.unit(8, "unit_1", prefix="hanging")
    processor.unit(1, "unit_2", prefix="quick", batch_id="btch_2")
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 3_000_000)
    hanging = [name for name in processor.objects.rows if name.startswith("hanging")]
    processor.extractions.told = dict.fromkeys(hanging, Held())
    dropped = asyncio.create_task(processor.work("unit_1"))
    await settled()
    assert await asyncio.wait_for(processor.work("unit_2"), 5)
    assert processor.ends.statuses() == {"quick_0": "COMPLETED"}
    dropped.cancel()
    await asyncio.gather(dropped, return_exceptions=True)


async def test_a_page_that_cannot_be_read_is_left_and_what_was_read_ends():
    processor = Processor(max_inflight_bytes=3_000_000)
    processor.unit(4)
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 3_000_000)
    processor.objects.failing = {"obj_2"}
    assert not await processor.work()
    assert sorted(processor.ends.statuses()) == ["obj_0", "obj_1"]

    processor.objects.failing.clear()
    await processor.leases.release("unit_1")
    assert await processor.work(), "the memory of what was not read was given back"


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "changed"])
async def test_an_object_that_was_deleted_or_runs_anew_is_skipped(processor: Processor, gone: bool):
    processor.unit(2)
    if gone:
        del processor.objects.rows["obj_0"]
    else:
        processor.objects.rows["obj_0"] |= {"run": {"id": 2, "rank": 1}, "revision": 2}
    assert await processor.work()
    assert processor.ends.statuses() == {"obj_0": "SKIPPED", "obj_1": "COMPLETED"}
    assert processor.started() == ["obj_1"]
    assert "obj_0" not in processor.extractions.runs


@pytest.mark.parametrize(
    ("later", "rank"),
    [("QUEUED", RANK_QUEUED), ("PROCESSING", RANK_PROCESSING), ("COMPLETED", RANK_FINAL), ("DRAFT", RANK_FINAL)],
)
async def test_an_object_that_another_batch_took_up_as_well_is_processed_in_both(
    processor: Processor, later: str, rank: int
):
    processor.unit(2)
    status = {"status": later, "batch_id": "btch_2", "run": {"id": 2, "rank": rank}}
    processor.objects.rows["obj_0"] |= status
    assert await processor.work()
    assert processor.ends.statuses() == {"obj_0": "COMPLETED", "obj_1": "COMPLETED"}
    assert processor.started() == ["obj_0", "obj_1"]


async def test_a_change_without_a_new_run_is_processed_as_it_is_now(processor: Processor):
    processor.unit(1)
    processor.objects.rows["obj_0"]["revision"] = 2
    assert await processor.work()
    assert processor.ends.statuses() == {"obj_0": "COMPLETED"}


MIRRORS = [
    ({"state": "failed", "error": "404"}, "FAILED", "permanent", "404"),
    ({"state": "failed"}, "FAILED", "permanent", "a blob failed"),
    ({"state": "failed", "error": "503", "parked": True}, "FAILED", "transient", "503"),
    (
        {"state": "done", "duplicate_of": "obj_9"},
        "SKIPPED",
        None,
        "skipped: obj_9 of this bucket has the same content",
    ),
]


@pytest.mark.parametrize(("mirror", "status", "kind", "error"), MIRRORS)
async def test_what_became_of_its_blobs_is_what_becomes_of_the_object(
    processor: Processor, mirror: dict[str, Any], status: str, kind: str | None, error: str
):
    processor.unit(2)
    processor.objects.rows["obj_0"]["mirror"] |= mirror
    assert await processor.work()
    outcome = processor.ends.outcomes()["obj_0"]
    assert (str(outcome.status), outcome.error_type, outcome.error) == (status, kind, error)
    assert processor.ends.statuses()["obj_1"] == "COMPLETED"
    assert "obj_0" not in processor.extractions.runs


async def test_a_failed_object_keeps_and_counts_the_documents_of_an_earlier_run(processor: Processor):
    processor.unit(2)
    for row in processor.objects.rows.values():
        row["mirror"] |= {"state": "failed"}
    processor.objects.rows["obj_0"]["document_count"] = 3
    assert await processor.work()
    assert {oid: outcome.again for oid, outcome in processor.ends.outcomes().items()} == {
        "obj_0": True,
        "obj_1": False,
    }


async def test_blobs_that_are_being_replaced_are_waited_for(processor: Processor):
    processor.unit(1)
    processor.objects.rows["obj_0"]["mirror"]["state"] = "pending"
    working = asyncio.create_task(processor.work())
    await settled()
    assert not processor.extractions.runs
    processor.objects.rows["obj_0"]["mirror"]["state"] = "done"
    assert await working
    assert processor.ends.statuses() == {"obj_0": "COMPLETED"}


async def test_blobs_that_take_too_long_to_replace_fail_the_object_for_now(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bucketline_processor.service.MIRROR_SECONDS", 0.0)
    processor.unit(1)
    processor.objects.rows["obj_0"]["mirror"]["state"] = "pending"
    assert await processor.work()
    outcome = processor.ends.outcomes()["obj_0"]
    assert (outcome.status, outcome.error_type) == (Status.FAILED, "transient")


async def test_stores_that_come_back_cost_nothing(processor: Processor):
    processor.unit(2)
    processor.extractions.told["obj_0"] = Away(times=3)
    processor.ends.failures = 2
    assert await processor.work()
    assert processor.ends.statuses() == {"obj_0": "COMPLETED", "obj_1": "COMPLETED"}


async def test_what_was_extracted_is_not_extracted_again_to_be_stored(processor: Processor):
    processor.unit(1)
    processor.ends.failures = 4
    assert await processor.work()
    assert processor.extractions.runs == {"obj_0": 1}


async def test_an_object_whose_store_stays_away_is_left_and_the_others_end(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 4)
    processor.unit(3)
    processor.extractions.told["obj_1"] = away = Away()
    assert not await processor.work(), "the unit is to be given back"
    assert away.calls == 4
    assert sorted(processor.ends.statuses()) == ["obj_0", "obj_2"]


async def test_an_end_that_cannot_be_said_leaves_the_object(processor: Processor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 4)
    closed: list[str] = []

    class Closing(ExtractionOutcome):
        def close(self) -> None:
            closed.append("closed")

    async def extraction(_: ExtractionJob) -> ExtractionOutcome:
        return Closing(Status.COMPLETED)

    processor.unit(1)
    processor.extractions.told["obj_0"] = extraction
    processor.ends.failures = 4
    assert not await processor.work()
    assert processor.ends.said == []
    assert closed == ["closed"], "its documents do not stay behind"


async def test_a_fault_of_ours_fails_its_object_with_no_more_than_its_class(processor: Processor):
    async def broken(_: ExtractionJob) -> ExtractionOutcome:
        raise ZeroDivisionError("secret internals")

    processor.unit(3)
    processor.extractions.told["obj_1"] = broken
    assert await processor.work()
    assert processor.ends.statuses() == {"obj_0": "COMPLETED", "obj_1": "FAILED", "obj_2": "COMPLETED"}
    outcome = processor.ends.outcomes()["obj_1"]
    assert outcome.error == "the object could not be processed (ZeroDivisionError)"
    assert outcome.error_type == "permanent"


async def test_a_service_that_stops_finishes_what_has_begun_and_leaves_the_rest():
    processor = Processor(max_inflight_bytes=100)
    processor.unit(3)
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 3_000_000)
    processor.extractions.told["obj_0"] = held = Held()
    working = asyncio.create_task(processor.work())
    await settled()
    assert processor.extractions.running == {"obj_0"}
    processor.processor.stop()
    held.end.set()
    assert not await working, "the unit is to be given back"
    assert processor.ends.statuses() == {"obj_0": "COMPLETED"}
    assert processor.extractions.runs == {"obj_0": 1}


async def test_a_service_that_stops_waits_for_no_store(processor: Processor, monkeypatch: pytest.MonkeyPatch):
    processor.unit(1)

    async def away(_: ExtractionJob) -> ExtractionOutcome:
        processor.processor.stop()
        raise DependencyUnavailable("away")

    processor.extractions.told["obj_0"] = away
    assert not await processor.work()
    assert processor.extractions.runs == {"obj_0": 1}


async def test_dropped_work_gives_its_memory_back():
    processor = Processor(max_inflight_bytes=1000)
    processor.unit(2, "unit_1", prefix="first")
    processor.unit(2, "unit_2", prefix="second")
    processor.extractions.told = dict.fromkeys(("first_0", "first_1"), Held())
    dropped = asyncio.create_task(processor.work("unit_1"))
    await settled()
    dropped.cancel()
    await asyncio.gather(dropped, return_exceptions=True)
    assert await processor.work("unit_2")
    assert sorted(processor.ends.statuses()) == ["second_0", "second_1"]


def paged(size: int, sizes: dict[str, int]) -> list[tuple[int, int]]:
    """Split a unit of so many objects; return the length and the bytes of each page."""
    unit: Any = {"items": [{"object_id": f"obj_{number}"} for number in range(size)]}
    items = [UnitItem(unit, index, {}) for index in range(size)]
    return [(len(page), total) for page, total in split_pages(items, sizes)]


def test_page_is_bounded_by_count():
    assert paged(2 * PAGE_OBJECTS + 1, {}) == [(PAGE_OBJECTS, 0), (PAGE_OBJECTS, 0), (1, 0)]


def test_page_is_bounded_by_bytes_and_a_larger_object_has_its_own():
    half = PAGE_BYTES // 2
    sizes = {"obj_0": half, "obj_1": half, "obj_2": 1, "obj_3": 3 * PAGE_BYTES, "obj_4": 1}
    assert paged(5, sizes) == [(2, 2 * half), (1, 1), (1, 3 * PAGE_BYTES), (1, 1)]


def test_no_items_give_no_page():
    assert paged(0, {}) == []
