"""Processing of a unit: reads, retries, memory and the outcome of every object."""

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


class Unavailable:
    """A store that is unavailable for the first ``times`` calls, or always."""

    def __init__(self, times: int | None = None) -> None:
        self.times = times
        self.calls = 0

    async def __call__(self, _: ExtractionJob) -> ExtractionOutcome:
        self.calls += 1
        if self.times is None or self.calls <= self.times:
            raise DependencyUnavailable("unavailable")
        return ExtractionOutcome(Status.COMPLETED)


class ManualExtraction:
    """An extraction that ends when the test says so."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __call__(self, task: ExtractionJob) -> ExtractionOutcome:
        await self.end.wait()
        return await completed(task)


async def test_unit_publishes_processing_and_a_final_status_for_every_object(processor: Processor) -> None:
    processor.unit(5)
    assert await processor.work()
    assert processor.started() == [f"obj_{n}" for n in range(5)]
    assert processor.completion.statuses() == {f"obj_{n}": "COMPLETED" for n in range(5)}


async def test_items_with_a_result_are_not_processed_again(processor: Processor) -> None:
    processor.unit(3, results={"1": {"status": "COMPLETED"}})
    assert await processor.work()
    assert sorted(processor.completion.statuses()) == sorted(processor.started()) == ["obj_0", "obj_2"]


async def test_unit_is_read_in_pages_of_bounded_count(processor: Processor) -> None:
    processor.unit(2 * PAGE_OBJECTS + 50)
    assert await processor.work()
    assert [len(page) for page in processor.objects.reads] == [PAGE_OBJECTS, PAGE_OBJECTS, 50]
    assert len(processor.completion.results) == 2 * PAGE_OBJECTS + 50


async def test_objects_of_all_units_together_use_bounded_memory() -> None:
    processor = Processor(max_inflight_bytes=3_000_000)
    processor.unit(4, "unit_1", prefix="first")
    processor.unit(4, "unit_2", prefix="second", batch_id="btch_2")
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 1_500_000)
    held = ManualExtraction()
    processor.extractions.behaviors = dict.fromkeys(processor.objects.rows, held)
    running = asyncio.gather(processor.work("unit_1"), processor.work("unit_2"))
    await settled()
    assert processor.extractions.running == {"first_0", "first_1"}, "4 MiB are a page, and there is room for one"
    held.end.set()
    assert all(await running)
    assert len(processor.completion.results) == 8


async def test_memory_stays_bounded_after_a_page_larger_than_the_limit() -> None:
    processor = Processor(max_inflight_bytes=1000)
    processor.unit(2, "unit_1", prefix="first")
    processor.unit(1, "unit_2", prefix="second", batch_id="btch_2")
    processor.unit(1, "unit_3", prefix="third", batch_id="btch_3")
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 5000)
    assert await processor.work("unit_1")
    held = ManualExtraction()
    processor.extractions.behaviors = dict.fromkeys(processor.objects.rows, held)
    running = asyncio.gather(processor.work("unit_2"), processor.work("unit_3"))
    await settled()
    assert len(processor.extractions.running) == 1
    held.end.set()
    assert all(await running)


async def test_batch_that_hangs_leaves_memory_for_the_next() -> None:
    processor = Processor(max_inflight_bytes=10_000_000)
    processor.unit(8, "unit_1", prefix="hanging")
    processor.unit(1, "unit_2", prefix="quick", batch_id="btch_2")
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 3_000_000)
    hanging = [name for name in processor.objects.rows if name.startswith("hanging")]
    processor.extractions.behaviors = dict.fromkeys(hanging, ManualExtraction())
    dropped = asyncio.create_task(processor.work("unit_1"))
    await settled()
    assert await asyncio.wait_for(processor.work("unit_2"), 5)
    assert processor.completion.statuses() == {"quick_0": "COMPLETED"}
    dropped.cancel()
    await asyncio.gather(dropped, return_exceptions=True)


async def test_page_that_cannot_be_read_is_left_and_earlier_pages_complete() -> None:
    processor = Processor(max_inflight_bytes=3_000_000)
    processor.unit(4)
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 3_000_000)
    processor.objects.failing = {"obj_2"}
    assert not await processor.work()
    assert sorted(processor.completion.statuses()) == ["obj_0", "obj_1"]

    processor.objects.failing.clear()
    await processor.leases.release("unit_1")
    assert await processor.work(), "the memory of the unread page was released"


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "changed"])
async def test_object_that_was_deleted_or_resubmitted_is_skipped(processor: Processor, gone: bool) -> None:
    processor.unit(2)
    if gone:
        del processor.objects.rows["obj_0"]
    else:
        processor.objects.rows["obj_0"] |= {"run": {"id": 2, "rank": 1}, "revision": 2}
    assert await processor.work()
    assert processor.completion.statuses() == {"obj_0": "SKIPPED", "obj_1": "COMPLETED"}
    assert processor.started() == ["obj_1"]
    assert "obj_0" not in processor.extractions.runs


@pytest.mark.parametrize(
    ("later", "rank"),
    [("QUEUED", RANK_QUEUED), ("PROCESSING", RANK_PROCESSING), ("COMPLETED", RANK_FINAL), ("DRAFT", RANK_FINAL)],
)
async def test_object_in_two_batches_is_processed_in_both(processor: Processor, later: str, rank: int) -> None:
    processor.unit(2)
    status = {"status": later, "batch_id": "btch_2", "run": {"id": 2, "rank": rank}}
    processor.objects.rows["obj_0"] |= status
    assert await processor.work()
    assert processor.completion.statuses() == {"obj_0": "COMPLETED", "obj_1": "COMPLETED"}
    assert processor.started() == ["obj_0", "obj_1"]


async def test_object_changed_without_a_new_run_is_processed_in_its_current_revision(processor: Processor) -> None:
    processor.unit(1)
    processor.objects.rows["obj_0"]["revision"] = 2
    assert await processor.work()
    assert processor.completion.statuses() == {"obj_0": "COMPLETED"}


MIRRORS = [
    ({"state": "failed", "error": "404"}, "FAILED", "permanent", "404"),
    ({"state": "failed"}, "FAILED", "permanent", "a blob failed"),
    ({"state": "failed", "error": "503", "dead_letter_event_id": "evt_1"}, "FAILED", "transient", "503"),
    (
        {"state": "done", "duplicate_of": "obj_9"},
        "SKIPPED",
        None,
        "skipped: obj_9 of this bucket has the same content",
    ),
]


@pytest.mark.parametrize(("mirror", "status", "kind", "error"), MIRRORS)
async def test_object_takes_the_outcome_of_its_blobs(
    processor: Processor, mirror: dict[str, Any], status: str, kind: str | None, error: str
) -> None:
    processor.unit(2)
    processor.objects.rows["obj_0"]["mirror"] |= mirror
    assert await processor.work()
    outcome = processor.completion.outcomes()["obj_0"]
    assert (str(outcome.status), outcome.error_type, outcome.error) == (status, kind, error)
    assert processor.completion.statuses()["obj_1"] == "COMPLETED"
    assert "obj_0" not in processor.extractions.runs


async def test_failed_object_keeps_and_counts_documents_of_an_earlier_run(processor: Processor) -> None:
    processor.unit(2)
    for row in processor.objects.rows.values():
        row["mirror"] |= {"state": "failed"}
    processor.objects.rows["obj_0"]["document_count"] = 3
    assert await processor.work()
    assert {oid: outcome.again for oid, outcome in processor.completion.outcomes().items()} == {
        "obj_0": True,
        "obj_1": False,
    }


async def test_object_with_pending_blobs_waits_for_them(processor: Processor) -> None:
    processor.unit(1)
    processor.objects.rows["obj_0"]["mirror"]["state"] = "pending"
    working = asyncio.create_task(processor.work())
    await settled()
    assert not processor.extractions.runs
    processor.objects.rows["obj_0"]["mirror"]["state"] = "done"
    assert await working
    assert processor.completion.statuses() == {"obj_0": "COMPLETED"}


async def test_object_with_blobs_pending_too_long_fails_as_transient(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bucketline_processor.service.MIRROR_SECONDS", 0.0)
    processor.unit(1)
    processor.objects.rows["obj_0"]["mirror"]["state"] = "pending"
    assert await processor.work()
    outcome = processor.completion.outcomes()["obj_0"]
    assert (outcome.status, outcome.error_type) == (Status.FAILED, "transient")


async def test_object_completes_after_a_short_outage(processor: Processor) -> None:
    processor.unit(2)
    processor.extractions.behaviors["obj_0"] = Unavailable(times=3)
    processor.completion.failures = 2
    assert await processor.work()
    assert processor.completion.statuses() == {"obj_0": "COMPLETED", "obj_1": "COMPLETED"}


async def test_retried_completion_does_not_extract_again(processor: Processor) -> None:
    processor.unit(1)
    processor.completion.failures = 4
    assert await processor.work()
    assert processor.extractions.runs == {"obj_0": 1}


async def test_object_with_a_long_outage_is_left_and_the_others_complete(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 4)
    processor.unit(3)
    processor.extractions.behaviors["obj_1"] = outage = Unavailable()
    assert not await processor.work(), "the unit has to be released"
    assert outage.calls == 4
    assert sorted(processor.completion.statuses()) == ["obj_0", "obj_2"]


async def test_object_whose_status_cannot_be_published_is_left(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bucketline_processor.service.MAX_ATTEMPTS", 4)
    closed: list[str] = []

    class Closing(ExtractionOutcome):
        def close(self) -> None:
            closed.append("closed")

    async def extraction(_: ExtractionJob) -> ExtractionOutcome:
        return Closing(Status.COMPLETED)

    processor.unit(1)
    processor.extractions.behaviors["obj_0"] = extraction
    processor.completion.failures = 4
    assert not await processor.work()
    assert processor.completion.results == []
    assert closed == ["closed"], "the outcome is closed"


async def test_bug_fails_its_object_and_shows_only_the_class(processor: Processor) -> None:
    async def broken(_: ExtractionJob) -> ExtractionOutcome:
        raise ZeroDivisionError("secret internals")

    processor.unit(3)
    processor.extractions.behaviors["obj_1"] = broken
    assert await processor.work()
    assert processor.completion.statuses() == {"obj_0": "COMPLETED", "obj_1": "FAILED", "obj_2": "COMPLETED"}
    outcome = processor.completion.outcomes()["obj_1"]
    assert outcome.error == "the object could not be processed (ZeroDivisionError)"
    assert outcome.error_type == "permanent"


async def test_stop_finishes_started_objects_and_leaves_the_others() -> None:
    processor = Processor(max_inflight_bytes=100)
    processor.unit(3)
    processor.objects.sizes = dict.fromkeys(processor.objects.rows, 3_000_000)
    processor.extractions.behaviors["obj_0"] = held = ManualExtraction()
    working = asyncio.create_task(processor.work())
    await settled()
    assert processor.extractions.running == {"obj_0"}
    processor.service.stop()
    held.end.set()
    assert not await working, "the unit has to be released"
    assert processor.completion.statuses() == {"obj_0": "COMPLETED"}
    assert processor.extractions.runs == {"obj_0": 1}


async def test_stop_does_not_wait_for_an_outage_to_end(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    processor.unit(1)

    async def unavailable(_: ExtractionJob) -> ExtractionOutcome:
        processor.service.stop()
        raise DependencyUnavailable("unavailable")

    processor.extractions.behaviors["obj_0"] = unavailable
    assert not await processor.work()
    assert processor.extractions.runs == {"obj_0": 1}


async def test_canceled_unit_releases_its_memory() -> None:
    processor = Processor(max_inflight_bytes=1000)
    processor.unit(2, "unit_1", prefix="first")
    processor.unit(2, "unit_2", prefix="second")
    processor.extractions.behaviors = dict.fromkeys(("first_0", "first_1"), ManualExtraction())
    dropped = asyncio.create_task(processor.work("unit_1"))
    await settled()
    dropped.cancel()
    await asyncio.gather(dropped, return_exceptions=True)
    assert await processor.work("unit_2")
    assert sorted(processor.completion.statuses()) == ["second_0", "second_1"]


def paged(size: int, sizes: dict[str, int]) -> list[tuple[int, int]]:
    """Split a unit of so many objects; return the length and the bytes of each page."""
    unit: Any = {"items": [{"object_id": f"obj_{number}"} for number in range(size)]}
    items = [UnitItem(unit, index, {}) for index in range(size)]
    return [(len(page), total) for page, total in split_pages(items, sizes)]


def test_page_is_bounded_by_count() -> None:
    assert paged(2 * PAGE_OBJECTS + 1, {}) == [(PAGE_OBJECTS, 0), (PAGE_OBJECTS, 0), (1, 0)]


def test_page_is_bounded_by_bytes_and_a_larger_object_has_its_own() -> None:
    half = PAGE_BYTES // 2
    sizes = {"obj_0": half, "obj_1": half, "obj_2": 1, "obj_3": 3 * PAGE_BYTES, "obj_4": 1}
    assert paged(5, sizes) == [(2, 2 * half), (1, 1), (1, 3 * PAGE_BYTES), (1, 1)]


def test_no_items_give_no_page() -> None:
    assert paged(0, {}) == []
