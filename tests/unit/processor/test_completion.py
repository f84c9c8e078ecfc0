"""The end of an object: documents first, then what they replace, then its status; one bad object harms no other."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from tests.fakes.publisher import RecordingPublisher
from tests.unit.processor.factories import a_document
from tests.unit.processor.fakes import settled

from bucketline.clock import ManualClock
from bucketline.domain.status import Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.events.cloudevents import encode_event
from bucketline_processor.completion import CompletionWriter, ObjectResult, UnitItem
from bucketline_processor.extraction import OUTDATED_SECONDS, ExtractionOutcome
from bucketline_processor.spooled_documents import SpooledDocuments


class Documents:
    """Remembers the order of calls; refuses a document that says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rows: dict[str, Any] = {}
        self.unavailable = False
        self.held: asyncio.Event | None = None

    async def save(self, documents: Sequence[Any], *, fresh: bool) -> None:
        if self.unavailable:
            raise DependencyUnavailable("unavailable")
        if self.held is not None:
            await self.held.wait()
        if documents:
            self.calls.append("insert" if fresh else "replace")
        if any(document["fields"].get("bad") for document in documents):
            raise ValueError("not storable")
        self.rows |= {document["_id"]: document for document in documents}

    async def delete_superseded(self, made: Sequence[tuple[str, str, int, int]]) -> int:
        if made:
            self.calls.append(f"drop older {sorted(made)}")
        return 0

    async def delete_of_sources(self, places: Sequence[tuple[str, str]]) -> None:
        if places:
            self.calls.append(f"drop from {sorted(places)}")

    async def delete_of_lease(self, object_id: str, run: int, lease: int) -> None:
        self.calls.append(f"drop {object_id}, run {run}, lease {lease}")

    async def counts(self, ids: Sequence[str]) -> dict[str, dict[int, int]]:
        return {object_id: {3: 39, 7: 3} for object_id in ids}


class Bench:
    def __init__(self, tmp_path: Path, documents: Any = None) -> None:
        self.documents = repository = cast("Any", documents or Documents())
        self.publisher = RecordingPublisher()
        clock = ManualClock()
        runtime: Any = SimpleNamespace(
            clock=clock,
            kafka=SimpleNamespace(publisher=self.publisher),
            new_event=lambda event, trace: encode_event(event, id="evt_1", source="/test", at=clock.now(), trace=trace),
        )
        self.deleted: set[str] = set()
        plans: Any = SimpleNamespace(live=self._live)
        self.completion = CompletionWriter(runtime, repository, plans)
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


async def test_final_status_has_document_counts_attempt_and_duration(bench: Bench) -> None:
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


async def test_concurrent_results_share_one_write(bench: Bench) -> None:
    outcomes = [await bench.outcome(number, 1) for number in range(50)]
    await asyncio.gather(*(bench.finish(number, outcome) for number, outcome in enumerate(outcomes)))
    assert len(bench.said()) == 50
    assert len(bench.documents.calls) <= 3


async def test_first_document_is_written_last_and_records_completeness(bench: Bench) -> None:
    await bench.finish(1, await bench.outcome(1, 300, padding="x" * 5000))
    assert list(bench.documents.rows)[-1] == "doc_1000"
    assert bench.documents.rows["doc_1000"]["complete"] == 300


async def test_later_run_deletes_replaced_documents_and_counts_the_stored_ones(bench: Bench) -> None:
    await bench.finish(1, await bench.outcome(1, 3, again=True))
    assert bench.documents.calls == ["replace", "drop older [('obj_1', 'col_1', 7, 1)]"]
    assert (bench.said()[0]["documents_total"], bench.said()[0]["documents_written"]) == (42, 3)


@pytest.mark.parametrize(("attempts", "returned"), [(2, 0), (1, 1)])
async def test_later_lease_deletes_documents_of_the_earlier_lease(bench: Bench, attempts: int, returned: int) -> None:
    await bench.finish(1, await bench.outcome(1, 3), attempts=attempts, release_count=returned)
    assert bench.documents.calls == ["replace", "drop older [('obj_1', 'col_1', 7, 2)]"]
    [event] = bench.said()
    assert (event["documents_total"], event["attempt_number"]) == (42, attempts)


async def test_write_of_a_canceled_object_still_deletes_replaced_documents(bench: Bench) -> None:
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


async def test_documents_written_into_a_deleted_collection_are_deleted(bench: Bench) -> None:
    slow, quick = await bench.outcome(1, 3), await bench.outcome(2, 3)
    slow.read_at -= OUTDATED_SECONDS
    bench.deleted = {"col_1"}
    await asyncio.gather(bench.finish(1, slow), bench.finish(2, quick))
    assert bench.documents.calls == ["insert", "drop from [('obj_1', 'col_1')]"]
    assert {event["object_id"]: event["documents_total"] for event in bench.said()} == {"obj_1": 42, "obj_2": 3}


async def test_documents_written_into_an_existing_collection_stay(bench: Bench) -> None:
    slow = await bench.outcome(1, 3)
    slow.read_at -= OUTDATED_SECONDS
    await bench.finish(1, slow)
    assert bench.documents.calls == ["insert"]
    assert bench.said()[0]["documents_total"] == 3


async def test_rejected_documents_fail_their_object_and_no_other(bench: Bench) -> None:
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


async def test_failed_write_publishes_nothing_and_can_be_repeated(bench: Bench) -> None:
    outcome = await bench.outcome(1, 200, padding="x" * 1000)
    bench.documents.unavailable = True
    with pytest.raises(DependencyUnavailable):
        await bench.finish(1, outcome)
    assert bench.said() == []
    bench.documents.unavailable = False
    bench.publisher.failures = 1
    with pytest.raises(RetryableError):
        await bench.finish(1, outcome)
    await bench.finish(1, outcome)
    assert [event["status"] for event in bench.said()] == ["COMPLETED"]
    assert len(bench.documents.rows) == 200


async def test_long_error_is_truncated(bench: Bench) -> None:
    await bench.finish(1, ExtractionOutcome(Status.FAILED, error="x" * 10_000, error_type="permanent"))
    assert len(bench.said()[0]["error"]) == 2000
