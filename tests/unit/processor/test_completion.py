"""The end of an object: documents first, then what they replace, then its status; one bad object harms no other."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from tests.fakes.publisher import RecordingPublisher
from tests.unit.processor.factories import a_document
from tests.unit.processor.fakes import settled

from bucketline.clock import ManualClock
from bucketline.domain.status import Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.events.cloudevents import wrap
from bucketline_processor.completion import CompletionWriter, ObjectResult, UnitItem
from bucketline_processor.extraction import OUTDATED_SECONDS, ExtractionOutcome
from bucketline_processor.spooled_documents import SpooledDocuments


class Documents:
    """Remembers the order of calls; refuses a document that says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rows: dict[str, Any] = {}
        self.away = False
        self.held: asyncio.Event | None = None

    async def put(self, documents: Sequence[Any], *, fresh: bool) -> None:
        if self.away:
            raise DependencyUnavailable("away")
        if self.held is not None:
            await self.held.wait()
        if documents:
            self.calls.append("insert" if fresh else "replace")
        if any(document["fields"].get("bad") for document in documents):
            raise ValueError("not storable")
        self.rows |= {document["_id"]: document for document in documents}

    async def drop_older(self, made: Sequence[tuple[str, str, int, int]]) -> int:
        if made:
            self.calls.append(f"drop older {sorted(made)}")
        return 0

    async def drop_from(self, places: Sequence[tuple[str, str]]) -> None:
        if places:
            self.calls.append(f"drop from {sorted(places)}")

    async def drop_made(self, object_id: str, run: int, lease: int) -> None:
        self.calls.append(f"drop {object_id}, run {run}, lease {lease}")

    async def counts(self, ids: Sequence[str]) -> dict[str, dict[int, int]]:
        return {object_id: {3: 39, 7: 3} for object_id in ids}


class Bench:
    def __init__(self, tmp_path: Path, documents: Any = None) -> None:
        self.documents = documents or Documents()
        self.publisher = RecordingPublisher()
        clock = ManualClock()
        runtime: Any = SimpleNamespace(
            clock=clock,
            bus=SimpleNamespace(publisher=self.publisher),
            seal=lambda event, trace: wrap(event, id="evt_1", source="/test", at=clock.now(), trace=trace),
        )
        self.deleted: set[str] = set()
        plans: Any = SimpleNamespace(live=self._live)
        self.completion = CompletionWriter(runtime, self.documents, plans)
        self.folder = tmp_path

    async def _live(self, collection_ids: Sequence[str]) -> set[str]:
        return set(collection_ids) - self.deleted

    async def finish(self, number: int, outcome: ExtractionOutcome, *, attempts: int = 1, **unit: Any) -> None:
        item = {
            "object_id": f"obj_{number}",
            "bucket_id": "bkt_1",
            "namespace_id": "ns_1",
            "batch_id": "btch_1",
            "revision": 1,
            "run": 7,
        }
        row: Any = {"_id": "unit_1", "items": [item], "attempts": attempts, **unit}
        await self.completion.finish(ObjectResult(UnitItem(row, 0, {}), outcome, {}, 12.5))

    async def outcome(self, number: int, count: int, *, again: bool = False, **fields: Any) -> ExtractionOutcome:
        spool = SpooledDocuments(self.folder, max_bytes=10**9)
        for place in range(count):
            await spool.add(a_document(number * 1000 + place, **fields))
        return ExtractionOutcome(Status.COMPLETED, again, count, {"col_1": spool})

    def said(self) -> list[dict[str, Any]]:
        return [orjson.loads(envelope.data) for envelope in self.publisher.published]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_status_says_what_was_stored_which_attempt_it_was_and_how_long_it_took(bench: Bench):
    await bench.finish(1, await bench.outcome(1, 3))
    [event] = bench.said()
    assert event["documents_written"] == 3
    assert (event["status"], event["documents_total"], event["attempt_number"], event["duration_ms"]) == (
        "COMPLETED",
        3,
        1,
        12.5,
    )
    assert (event["run_id"], event["sequence"], event["item_index"], event["unit_id"]) == (7, 3, 0, "unit_1")
    assert len(bench.documents.rows) == 3


async def test_what_ends_together_shares_a_write(bench: Bench):
    outcomes = [await bench.outcome(number, 1) for number in range(50)]
    await asyncio.gather(*(bench.finish(number, outcome) for number, outcome in enumerate(outcomes)))
    assert len(bench.said()) == 50
    assert len(bench.documents.calls) <= 3


async def test_the_first_document_is_written_last_and_says_that_all_are_there(bench: Bench):
    await bench.finish(1, await bench.outcome(1, 300, padding="x" * 5000))
    assert list(bench.documents.rows)[-1] == "doc_1000"
    assert bench.documents.rows["doc_1000"]["complete"] == 300


async def test_another_run_drops_what_it_did_not_make_again_and_counts_what_is_there(bench: Bench):
    await bench.finish(1, await bench.outcome(1, 3, again=True))
    assert bench.documents.calls == ["replace", "drop older [('obj_1', 'col_1', 7, 1)]"]
    assert (bench.said()[0]["documents_total"], bench.said()[0]["documents_written"]) == (42, 3)


@pytest.mark.parametrize(("attempts", "returned"), [(2, 0), (1, 1)])
async def test_so_does_the_same_run_when_another_had_the_unit_before(bench: Bench, attempts: int, returned: int):
    await bench.finish(1, await bench.outcome(1, 3), attempts=attempts, release_count=returned)
    assert bench.documents.calls == ["replace", "drop older [('obj_1', 'col_1', 7, 2)]"]
    [event] = bench.said()
    assert (event["documents_total"], event["attempt_number"]) == (42, attempts)


async def test_a_write_whose_object_was_interrupted_still_drops_what_it_replaced(bench: Bench):
    outcome = await bench.outcome(1, 3, again=True)
    bench.documents.held = asyncio.Event()
    finishing = asyncio.create_task(bench.finish(1, outcome))
    await settled()
    finishing.cancel()
    await asyncio.wait({finishing})
    outcome.close()
    bench.documents.held.set()
    await settled()
    assert bench.documents.calls == ["replace", "drop older [('obj_1', 'col_1', 7, 1)]"]
    assert [event["status"] for event in bench.said()] == ["COMPLETED"]


async def test_what_was_written_for_long_into_a_collection_that_was_deleted_goes_again(bench: Bench):
    slow, quick = await bench.outcome(1, 3), await bench.outcome(2, 3)
    slow.read_at -= OUTDATED_SECONDS
    bench.deleted = {"col_1"}
    await asyncio.gather(bench.finish(1, slow), bench.finish(2, quick))
    assert bench.documents.calls == ["insert", "drop from [('obj_1', 'col_1')]"]
    assert {event["object_id"]: event["documents_total"] for event in bench.said()} == {"obj_1": 42, "obj_2": 3}


async def test_what_was_written_for_long_into_a_collection_that_is_there_stays(bench: Bench):
    slow = await bench.outcome(1, 3)
    slow.read_at -= OUTDATED_SECONDS
    await bench.finish(1, slow)
    assert bench.documents.calls == ["insert"]
    assert bench.said()[0]["documents_total"] == 3


async def test_documents_that_cannot_be_stored_fail_their_object_and_no_other(bench: Bench):
    good, bad = await bench.outcome(1, 1), await bench.outcome(2, 1, bad=True)
    await asyncio.gather(bench.finish(1, good), bench.finish(2, bad))
    said = {event["object_id"]: event for event in bench.said()}
    assert said["obj_1"]["status"] == "COMPLETED"
    assert (said["obj_2"]["status"], said["obj_2"]["error_type"], said["obj_2"]["documents_total"]) == (
        "FAILED",
        "permanent",
        0,
    )
    assert "ValueError" in said["obj_2"]["error"]
    assert list(bench.documents.rows) == ["doc_1000"]
    assert bench.documents.calls[-1] == "drop obj_2, run 7, lease 1"


async def test_nothing_is_said_of_documents_that_are_not_stored_and_doing_it_again_works(bench: Bench):
    outcome = await bench.outcome(1, 200, padding="x" * 1000)
    bench.documents.away = True
    with pytest.raises(DependencyUnavailable):
        await bench.finish(1, outcome)
    assert bench.said() == []
    bench.documents.away = False
    bench.publisher.failures = 1
    with pytest.raises(RetryableError):
        await bench.finish(1, outcome)
    await bench.finish(1, outcome)
    assert [event["status"] for event in bench.said()] == ["COMPLETED"]
    assert len(bench.documents.rows) == 200


async def test_a_long_error_is_cut(bench: Bench):
    await bench.finish(1, ExtractionOutcome(Status.FAILED, error="x" * 10_000, error_type="permanent"))
    assert len(bench.said()[0]["error"]) == 2000
