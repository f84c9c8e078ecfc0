"""An object through its collections, with extractors that do as they are told and stores in memory."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from bson import DBRef
from tests.fakes.blob_store import MemoryBlobStore
from tests.unit.processor.factories import NOW, SHA256, a_blob, a_collection, an_object, rule
from tests.unit.processor.fakes import settled
from tests.unit.processor.test_plan import Stored

from bucketline.clock import ManualClock
from bucketline.domain.status import Status
from bucketline.errors import DependencyUnavailable
from bucketline.extractors import (
    DerivedBlob,
    Document,
    ExtractionContext,
    ExtractorInfo,
    ObjectView,
    OutboundPolicy,
    PermanentError,
    ResourceError,
    TransientError,
    UnknownExtractor,
    selected_blobs,
)
from bucketline_processor.extraction import MAX_WARNINGS, Extraction, ExtractionJob, ExtractionOutcome
from bucketline_processor.extractor_runner import ExtractorRunner
from bucketline_processor.extractors.passthrough import PassthroughExtractor
from bucketline_processor.plan import ExtractionPlans
from bucketline_processor.settings import ProcessorSettings

Behaviour = Callable[[ObjectView, ExtractionContext], AsyncIterator[Document]]


class Told:
    """An extractor that behaves as its test says."""

    def __init__(self, behaviour: Behaviour, *, cpu_bound: bool = False) -> None:
        self.info = ExtractorInfo(
            name="told", version="v1", description="", accepts=("*",), cpu_bound=cpu_bound, parameters_schema={}
        )
        self.behaviour = behaviour
        self.runs = 0

    def extract(self, obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        self.runs += 1
        return self.behaviour(obj, context)


class Made:
    """The documents of earlier runs."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.rows: list[Any] = []

    async def count_complete(self, _object: str, collection_ids: Sequence[str], _revision: int) -> dict[str, int]:
        return {key: count for key, count in self.counts.items() if key in collection_ids}

    async def stream_revision(self, _object: str, collection_id: str, _revision: int) -> AsyncIterator[Any]:
        for row in self.rows:
            if row["collection_id"] == collection_id:
                yield row


class Derived:
    async def store(self, blobs: Any) -> list[dict[str, object]]:
        return [{"field": blob.field, "role": blob.role} for blob in blobs]


class Ticking(ManualClock):
    """A clock that is later whenever it is looked at."""

    def now(self) -> datetime:
        self.advance(1)
        return super().now()


class Harness:
    """One object, some collections, one told extractor."""

    def __init__(self, *collections: Any, behaviour: Behaviour | None = None, **settings: Any) -> None:
        self.told = Told(behaviour or numbers(1))
        self.made = Made()
        self.store = MemoryBlobStore()
        registry: Any = SimpleNamespace(find=self._find)
        own = ProcessorSettings(**settings)
        stored: Any = Stored(*collections)
        self.extraction = Extraction(
            plans=ExtractionPlans(stored, registry, OutboundPolicy(), clock=ManualClock(NOW)),
            runner=ExtractorRunner(SimpleNamespace(run=self._run_in_worker), max_concurrency=4),  # type: ignore[arg-type]
            documents=self.made,  # type: ignore[arg-type]
            derived_blobs=Derived(),  # type: ignore[arg-type]
            blobs=self.store,
            clock=Ticking(),
            settings=own,
        )

    def _find(self, name: str, _version: str) -> Any:
        if name == "told":
            return self.told
        if name == "passthrough_extractor":
            return PassthroughExtractor()
        raise UnknownExtractor(name, [])

    async def _run_in_worker(self, _id: str, view: Any, context: Any, *, waiting: Any, **_: Any) -> Any:
        with waiting():
            pass
        async for document in self.told.extract(view, context):
            yield document

    async def run(self, obj: Any = None, strategy: Any = "skip", only: Any = None, **planned: Any) -> ExtractionOutcome:
        item: Any = {"object_id": "obj_1", "batch_id": "btch_1", "run": 5, **planned}
        return await self.extraction.run(
            ExtractionJob(obj or an_object(), item, only, strategy, "btch_1", NOW, lease=3)
        )


def numbers(count: int) -> Behaviour:
    async def extract(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        for number in range(count):
            yield Document({"number": number})

    return extract


def failing(error: Exception, *, after: int = 0, times: int = 1_000) -> Behaviour:
    """Yields, then raises; the first ``times`` times."""
    left = times

    async def extract(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        nonlocal left
        left -= 1
        for number in range(after):
            yield Document({"number": number, "attempt": left})
        if left >= 0:
            raise error

    return extract


async def fields(outcome: ExtractionOutcome, collection_id: str = "a") -> list[dict[str, object]]:
    return [document["fields"] async for document in outcome.made[collection_id].documents()]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline_processor.extraction.MIN_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("bucketline_processor.extraction.MAX_BACKOFF_SECONDS", 0.0)


async def test_bucket_without_collections_completes_without_documents() -> None:
    outcome = await Harness().run()
    assert (outcome.status, outcome.count, outcome.made) == (Status.COMPLETED, 0, {})


async def test_document_has_fields_blobs_and_lineage() -> None:
    harness = Harness(a_collection("a", field_passthrough=[rule("sku"), rule("vendor.name", "vendor")]))
    outcome = await harness.run(an_object(blobs=[a_blob()]))
    [document] = [one async for one in outcome.made["a"].documents()]
    assert document["fields"] == {"sku": "A-17", "vendor": "Acme"}
    assert document["blobs"][0]["source_blob_id"] == "blob_1"
    assert (document["run"], document["lease"]) == (5, 3)
    lineage: Any = document["internal"]["lineage"]
    assert (lineage["root_object_id"], lineage["root_bucket_id"]) == ("obj_1", "bkt_1")
    assert lineage["path"] == "bkt_1/a"
    assert [link["document_id"] for link in lineage["chain"]] == [document["_id"]]
    assert document["internal"]["source_blobs"] == [
        {"blob_id": "blob_1", "blob_property": "invoice", "blob_type": "pdf"}
    ]


async def test_document_ids_are_stable_and_unique() -> None:
    harness = Harness(a_collection("a", extractor="told"), a_collection("b"), behaviour=numbers(3))
    ids = []
    for _ in range(2):
        outcome = await harness.run()
        ids.append([d["_id"] for spool in outcome.made.values() async for d in spool.documents()])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 4


async def test_collections_read_documents_through_several_tiers() -> None:
    harness = Harness(
        a_collection("a", extractor="told"),
        a_collection("b", reads=["a"], field_passthrough=[rule("number", "n")]),
        a_collection("c", reads=["b"]),
        behaviour=numbers(3),
    )
    outcome = await harness.run()
    assert outcome.count == 9
    assert await fields(outcome, "c") == [{"n": 0}, {"n": 1}, {"n": 2}]
    [last, *_] = [document async for document in outcome.made["c"].documents()]
    lineage: Any = last["internal"]["lineage"]
    assert lineage["path"] == "bkt_1/a/b/c"
    assert [link["collection_id"] for link in lineage["chain"]] == ["a", "b", "c"]
    assert lineage["source_document_id"] == lineage["chain"][-2]["document_id"]


async def test_documents_have_ordinals_in_every_tier() -> None:
    harness = Harness(
        a_collection("a", extractor="told"), a_collection("b", reads=["a"], extractor="told"), behaviour=numbers(3)
    )
    outcome = await harness.run()
    second = [document async for document in outcome.made["b"].documents()]
    assert [document["ordinal"] for document in second] == list(range(9))
    assert [document["fields"]["number"] for document in second] == [0, 1, 2] * 3
    parents = [document["_id"] async for document in outcome.made["a"].documents()]
    assert [document["source_document_id"] for document in second] == [parent for parent in parents for _ in range(3)]
    assert len({document["created_at"] for document in second}) == 1, "they stand together in a list"


async def test_failing_collection_does_not_stop_the_others() -> None:
    harness = Harness(
        a_collection("a", extractor="told"), a_collection("b"), behaviour=failing(PermanentError("it is broken"))
    )
    outcome = await harness.run()
    assert (outcome.status, outcome.error, outcome.error_type) == (
        Status.COMPLETED_WITH_ERRORS,
        "name of a: it is broken",
        "permanent",
    )
    assert (outcome.count, list(outcome.made)) == (1, ["b"])


async def test_collection_with_only_failed_sources_fails() -> None:
    harness = Harness(
        a_collection("a", extractor="told"), a_collection("b", reads=["a"]), behaviour=failing(ResourceError("large"))
    )
    outcome = await harness.run()
    assert (outcome.status, outcome.error, outcome.error_type) == (Status.FAILED, "name of a: large", "resource")


async def test_collection_that_fails_half_way_leaves_no_documents() -> None:
    harness = Harness(a_collection("a", extractor="told"), behaviour=failing(PermanentError("page 3"), after=500))
    outcome = await harness.run()
    assert (outcome.status, outcome.count, outcome.made) == (Status.FAILED, 0, {})


async def test_transient_error_is_retried_without_documents_of_the_failed_attempt() -> None:
    harness = Harness(a_collection("a", extractor="told"), behaviour=failing(TransientError("busy"), after=3, times=2))
    outcome = await harness.run()
    assert outcome.status is Status.COMPLETED
    assert [row["attempt"] for row in await fields(outcome)] == [-1, -1, -1]
    assert harness.told.runs == 3


async def test_persistent_transient_error_is_reported_as_transient() -> None:
    harness = Harness(a_collection("a", extractor="told"), behaviour=failing(TransientError("busy")))
    outcome = await harness.run()
    assert (outcome.status, outcome.error_type, harness.told.runs) == (Status.FAILED, "transient", 3)


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), TimeoutError("secret"), KeyError("secret")])
async def test_bug_in_an_extractor_is_permanent_and_shows_only_the_class(error: Exception) -> None:
    outcome = await Harness(a_collection("a", extractor="told"), behaviour=failing(error)).run()
    assert (outcome.status, outcome.error_type) == (Status.FAILED, "permanent")
    assert outcome.error == f"name of a: the extractor failed on this object ({type(error).__name__})"


async def test_unavailable_store_raises_instead_of_failing_the_object() -> None:
    harness = Harness(
        a_collection("a", extractor="told"), behaviour=failing(DependencyUnavailable("unavailable"), after=2)
    )
    with pytest.raises(DependencyUnavailable):
        await harness.run()


async def test_extraction_beyond_the_time_limit_is_canceled() -> None:
    async def hang(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        await asyncio.Event().wait()
        yield Document({})

    outcome = await Harness(a_collection("a", extractor="told"), behaviour=hang, object_timeout_seconds=0.02).run()
    assert (outcome.status, outcome.error_type) == (Status.FAILED, "resource")


async def test_extractor_that_hangs_does_not_delay_other_collections() -> None:
    async def hang(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        await asyncio.Event().wait()
        yield Document({})

    harness = Harness(a_collection("a", extractor="told"), a_collection("b"), behaviour=hang)
    hanging = [asyncio.create_task(harness.run(only=["a"])) for _ in range(100)]
    await settled()
    outcomes = await asyncio.wait_for(asyncio.gather(*(harness.run(only=["b"]) for _ in range(100))), 5)
    assert {outcome.status for outcome in outcomes} == {Status.COMPLETED}
    for task in hanging:
        task.cancel()


async def test_object_with_too_many_documents_fails_without_documents() -> None:
    harness = Harness(a_collection("a", extractor="told"), behaviour=numbers(11), max_documents_per_object=10)
    outcome = await harness.run()
    assert (outcome.status, outcome.error, outcome.count) == (
        Status.FAILED,
        "name of a: more than 10 documents of one object",
        0,
    )


async def test_extractor_that_is_not_read_to_its_end_is_closed() -> None:
    closed = []

    async def endless(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        try:
            while True:
                yield Document({})
        finally:
            closed.append(True)

    await Harness(a_collection("a", extractor="told"), behaviour=endless, max_documents_per_object=5).run()
    assert closed == [True]


async def test_mapped_inputs_and_derived_blobs() -> None:
    async def read(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        [blob] = selected_blobs(ExtractorInfo("told", "v1", "", accepts=("*",)), obj, context)
        made = DerivedBlob("thumbnail", "t.png", "image/png", b"x")
        yield Document({"got": (await blob.read(10)).decode()}, blobs=(made,), source_blobs=(blob.blob_id,))

    harness = Harness(a_collection("a", extractor="told", input_mappings={"file": "photo"}), behaviour=read)
    blobs = [a_blob("one"), a_blob("two", property="photo")]
    assert blobs[1]["storage"] is not None
    harness.store.put(blobs[1]["storage"]["key"], b"abc")
    outcome = await harness.run(an_object(blobs=blobs))
    [document] = [one async for one in outcome.made["a"].documents()]
    assert document["fields"] == {"got": "abc"}
    assert [(blob["field"], blob["role"]) for blob in document["blobs"]] == [
        ("photo", "source"),
        ("thumbnail", "derived"),
    ]


async def test_field_names_reserved_by_mongodb_are_stored_as_json() -> None:
    """Read back, a reference to a document would be no JSON, and no list that holds it could be shown."""
    reference = {"$ref": "users", "$id": 7}

    async def hostile(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        for _ in range(2):
            yield Document(
                {"user": reference, "all": [reference], "file": b"\xff", "at": NOW, "n": math.nan, "h": 2**70}
            )

    harness = Harness(a_collection("a", extractor="told", field_passthrough=[rule("of_old", "was")]), behaviour=hostile)
    outcome = await harness.run(an_object(custom={"of_old": DBRef("users", 7)}))
    assert outcome.status is Status.COMPLETED
    made = await fields(outcome)
    assert made[0] == made[1] == json.loads(json.dumps(made[0]))
    assert made[0]["user"] == {"ref": "users", "id": 7}
    assert isinstance(made[0]["was"], str)


async def test_missing_content_fails_the_object() -> None:
    async def read(obj: ObjectView, context: ExtractionContext) -> AsyncIterator[Document]:
        yield Document({"got": await obj.blobs[0].read(10)})

    outcome = await Harness(a_collection("a", extractor="told"), behaviour=read).run(an_object(blobs=[a_blob()]))
    assert outcome.error == "name of a: the content of a blob is no longer in the store"


async def test_skip_keeps_and_counts_existing_documents() -> None:
    harness = Harness(a_collection("a", extractor="told"), a_collection("b"))
    harness.made.counts = {"a": 7, "b": 1}
    outcome = await harness.run(an_object(document_count=8))
    assert (outcome.status, outcome.count, harness.told.runs) == (Status.SKIPPED, 8, 0)


async def test_skip_makes_missing_documents() -> None:
    harness = Harness(a_collection("a", extractor="told"), a_collection("b"))
    harness.made.counts = {"a": 7}
    outcome = await harness.run(an_object(document_count=7))
    assert (outcome.status, outcome.count, list(outcome.made)) == (Status.COMPLETED, 8, ["b"])


async def test_skipped_collection_feeds_its_readers() -> None:
    first = Harness(a_collection("a", extractor="told"), behaviour=numbers(2))
    rows = [d async for d in (await first.run()).made["a"].documents()]
    harness = Harness(a_collection("a", extractor="told"), a_collection("b", reads=["a"]))
    harness.made.counts, harness.made.rows = {"a": 2}, rows
    outcome = await harness.run(an_object(document_count=2))
    assert await fields(outcome, "b") == [{"number": 0}, {"number": 1}]
    assert harness.told.runs == 0


async def test_reader_of_a_collection_that_runs_again_runs_again() -> None:
    harness = Harness(a_collection("a", extractor="told"), a_collection("b", reads=["a"]))
    harness.made.counts = {"b": 5}
    outcome = await harness.run(an_object(document_count=5))
    assert sorted(outcome.made) == ["a", "b"]


@pytest.mark.parametrize("strategy", ["replace", "force"])
async def test_replace_and_force_run_again(strategy: str) -> None:
    harness = Harness(a_collection("a", extractor="told"))
    harness.made.counts = {"a": 7}
    outcome = await harness.run(an_object(document_count=7), strategy)
    assert (outcome.status, outcome.count, harness.told.runs) == (Status.COMPLETED, 1, 1)


async def test_first_run_does_not_read_earlier_documents() -> None:
    harness = Harness(a_collection("a", extractor="told"))
    harness.made.counts = {"a": 7}
    assert (await harness.run()).status is Status.COMPLETED
    assert harness.told.runs == 1


async def test_run_concurrent_with_another_batch_reads_earlier_documents() -> None:
    harness = Harness(a_collection("a", extractor="told"), a_collection("b"))
    harness.made.counts = {"a": 7}
    outcome = await harness.run(again=True)
    assert (outcome.count, list(outcome.made), outcome.again) == (8, ["b"], True)


async def test_job_for_one_collection_runs_only_that() -> None:
    outcome = await Harness(a_collection("a"), a_collection("b")).run(only=["b"])
    assert list(outcome.made) == ["b"]


def blob_of(mime_type: str, kind: str, filename: str = "a.bin", **changes: Any) -> Any:
    details = {"filename": filename, "size_bytes": 3, "mime_type": mime_type, "hash": f"sha256:{SHA256}"}
    return a_blob(f"blob_{filename}", type=kind, property=kind, details=details, **changes)


async def test_blob_that_no_collection_reads_gives_a_warning() -> None:
    harness = Harness(a_collection("col_1", extractor="told"))
    harness.told.info = ExtractorInfo("told", "v1", "", accepts=("pdf", "text/*"), cpu_bound=False)
    read, unread = blob_of("application/pdf", "pdf", "a.pdf"), blob_of("image/png", "image", "b.png")
    outcome = await harness.run(an_object(blobs=[read, unread]))
    assert outcome.status == "COMPLETED"
    assert outcome.warnings == ["'b.png' (image/png) is read by no collection of the bucket"]

    assert (await harness.run(an_object(blobs=[read, blob_of("text/csv", "excel")]))).warnings == []
    linked = blob_of("text/csv", "excel") | {"state": "linked", "details": None, "storage": None}
    [warning] = (await harness.run(an_object(blobs=[linked]))).warnings
    assert warning == "the blob in 'excel' is only linked: extractors read what canonicalize_source has copied"


async def test_blob_that_another_collection_reads_gives_no_warning() -> None:
    reads_all = a_collection("col_2", extractor="passthrough_extractor")
    harness = Harness(a_collection("col_1", extractor="told"), reads_all)
    harness.told.info = ExtractorInfo("told", "v1", "", accepts=("pdf",), cpu_bound=False)
    obj = an_object(blobs=[blob_of("image/png", "image")])
    assert (await harness.run(obj, only=["col_1"])).warnings == []


async def test_collection_reads_its_mapped_input() -> None:
    collection = a_collection("col_1", extractor="told", input_mappings={"text": "image"})
    harness = Harness(collection)
    harness.told.info = ExtractorInfo("told", "v1", "", accepts=("pdf",), cpu_bound=False)
    blobs = [blob_of("image/png", "image", "a.png"), blob_of("application/pdf", "pdf", "b.pdf")]
    [warning] = (await harness.run(an_object(blobs=blobs))).warnings
    assert warning.startswith("'b.pdf' (application/pdf)")


async def test_many_unread_blobs_give_a_bounded_list_of_warnings() -> None:
    harness = Harness(a_collection("col_1", extractor="told"))
    harness.told.info = ExtractorInfo("told", "v1", "", accepts=("pdf",), cpu_bound=False)
    blobs = [blob_of("image/png", "image", f"{number}.png") for number in range(50)]
    warnings = (await harness.run(an_object(blobs=blobs))).warnings
    assert len(warnings) == MAX_WARNINGS
    assert warnings[-1] == "and 31 more"
