"""One object through its collections, each after those that it reads."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bucketline.blobs.store import BlobStore
from bucketline.clock import Clock
from bucketline.db.documents import DocumentDocument, Documents
from bucketline.db.objects import ObjectDocument
from bucketline.db.work_units import Item
from bucketline.domain.status import Status
from bucketline.extractors import ErrorKind, ExtractionError, ObjectView, ResourceError, TransientError
from bucketline.observability.metrics import DOCUMENTS, EXTRACTION_SECONDS, RETRIES
from bucketline.observability.tracing import start_span
from bucketline_processor.derived_blobs import DerivedBlobs
from bucketline_processor.documents import DocumentBuilder
from bucketline_processor.extraction_plan import ExtractionPlans, PipelineStage
from bucketline_processor.extractor_runner import Extractors
from bucketline_processor.extractor_views import document_view, object_view
from bucketline_processor.pausable_timeout import PausableTimeout
from bucketline_processor.settings import ProcessorSettings
from bucketline_processor.spooled_documents import SpooledDocuments

MAX_WARNINGS = 20
"""Warnings of an object; the last one counts those that were left out."""

SLOW_SECONDS = 5.0
"""After so long a collection may have been deleted meanwhile: it is looked at again. Far below the time for which its
deletion waits for those that had begun before."""

Strategy = Literal["skip", "replace", "force"]


@dataclass(frozen=True)
class ExtractionJob:
    """One object that is to be processed, as an item of a unit that was planned at ``since``.

    ``group`` is with whom it shares its turns; ``lease`` is the number of the lease under which this is.
    """

    obj: ObjectDocument
    item: Item
    only: Sequence[str] | None
    strategy: Strategy
    group: str
    since: datetime
    lease: int

    @property
    def again(self) -> bool:
        """Whether an earlier run may have made documents. Wrong only while what is said of that is still on the bus."""
        obj = self.obj
        if self.item.get("again") or obj.get("document_count") is not None or obj["revision"] > 1:
            return True
        return obj.get("batch_id") not in (None, self.item["batch_id"])


@dataclass
class ExtractionOutcome:
    """What became of one object. ``made`` is still to be stored, by collection; close it when it is.

    ``count`` are the documents made, and those that were there and were left alone. After an ``again`` there may be
    others, which it does not count. ``known_at`` is when the collections were last known to be there, on the monotonic
    clock. ``warnings`` are for the producer: what was not done although nothing failed.
    """

    status: Status
    again: bool = False
    count: int = 0
    made: dict[str, SpooledDocuments] = field(default_factory=dict)
    error: str | None = None
    error_type: ErrorKind | None = None
    warnings: Sequence[str] = ()
    known_at: float = field(default_factory=time.monotonic)

    @property
    def outdated(self) -> bool:
        """Whether some of the collections may have been deleted meanwhile."""
        return time.monotonic() - self.known_at > SLOW_SECONDS

    def close(self) -> None:
        for spool in self.made.values():
            spool.close()
        self.made.clear()


class Extraction:
    """Runs the collections of an object."""

    def __init__(
        self,
        *,
        plans: ExtractionPlans,
        extractors: Extractors,
        stored: Documents,
        derived: DerivedBlobs,
        blobs: BlobStore,
        clock: Clock,
        settings: ProcessorSettings,
    ) -> None:
        self._plans = plans
        self._extractors = extractors
        self._stored = stored
        self._derived = derived
        self._blobs = blobs
        self._clock = clock
        self._settings = settings

    async def run(self, task: ExtractionJob) -> ExtractionOutcome:
        """The object through every collection that it feeds.

        A collection that fails does not stop the others, only those that read nothing else. Raises
        ``StoreUnavailable`` when nothing can be said about the object now.
        """
        steps = await self._plans.steps(task.obj["bucket_id"], task.only, since=task.since)
        view = object_view(task.obj, self._blobs, self._settings.temp_dir)
        every = steps
        if task.only is not None:
            every = await self._plans.steps(task.obj["bucket_id"], None, since=task.since)
        outcome = ExtractionOutcome(Status.COMPLETED, again=task.again, warnings=unread(task.obj, view, every))
        failed: dict[str, ExtractionError | None] = {}
        skipped: set[str] = set()
        known = {step.id for step in steps}
        there: Mapping[str, int] = {}
        if outcome.again and task.strategy == "skip":
            there = await self._stored.made(task.obj["_id"], [step.id for step in steps], task.obj["revision"])
        try:
            for step in steps:
                sources = [source for source in step.sources if source in known]
                if sources and failed.keys() >= set(sources):
                    failed[step.id] = None  # there is nothing to read, and its source has said why
                    continue
                if step.id in there and skipped.issuperset(sources):
                    skipped.add(step.id)
                    outcome.count += there[step.id]
                else:
                    about = {"bucketline.collection_id": step.id, "bucketline.extractor": _label(step)}
                    with start_span("extract", attributes=about):
                        await self._step(step, task, view, outcome, failed, skipped)
            if outcome.outdated and outcome.made:
                await self._forget_deleted(outcome)
        except BaseException:
            outcome.close()
            raise
        _conclude(outcome, steps, failed, skipped)
        return outcome

    async def _step(
        self,
        step: PipelineStage,
        task: ExtractionJob,
        view: ObjectView,
        outcome: ExtractionOutcome,
        failed: dict[str, ExtractionError | None],
        skipped: set[str],
    ) -> None:
        """Adds the collection's documents to ``outcome``, or its error to ``failed``."""
        spool = SpooledDocuments(self._settings.temp_dir, most_bytes=self._settings.max_document_bytes_per_object)
        label = _label(step)
        began = time.perf_counter()
        now = self._clock.now()  # of all of them: what an object has in a collection stands together in a list
        result = "completed"
        try:
            async with PausableTimeout(self._settings.object_timeout_seconds) as deadline:
                if step.collection["source"]["type"] == "bucket":
                    await self._source(step, task, view, None, spool, deadline, now)
                else:
                    async with aclosing(self._parents(step, task, outcome.made, skipped)) as parents:
                        async for parent in parents:
                            await self._source(step, task, document_view(parent, view), parent, spool, deadline, now)
        except ExtractionError as error:
            spool.close()
            result = error.kind
            failed[step.id] = error
        except BaseException:
            spool.close()
            result = "interrupted"
            raise
        else:
            outcome.made[step.id] = spool
            outcome.count += spool.count
            DOCUMENTS.labels(label).inc(spool.count)
        finally:
            EXTRACTION_SECONDS.labels(label, result).observe(time.perf_counter() - began)

    async def _source(
        self,
        step: PipelineStage,
        task: ExtractionJob,
        view: ObjectView,
        parent: DocumentDocument | None,
        spool: SpooledDocuments,
        deadline: PausableTimeout,
        now: datetime,
    ) -> None:
        """The documents of one source. What a failed attempt yielded does not count."""
        fields = step.passed_through(view.fields)
        origin = DocumentBuilder(task.obj, step, parent=parent, fields=fields, run=task.item["run"], now=now)
        before = spool.mark()
        for attempt in range(1, self._settings.object_max_attempts + 1):
            try:
                await self._attempt(step, task, view, origin, spool, deadline)
            except TransientError:
                if attempt == self._settings.object_max_attempts or step.problem is not None:
                    raise
                spool.rewind(before)
                RETRIES.labels("extraction").inc()
                await asyncio.sleep(random.uniform(0.1, min(5.0, 0.2 * 2**attempt)))  # noqa: S311 - jitter
            else:
                return

    async def _attempt(
        self,
        step: PipelineStage,
        task: ExtractionJob,
        view: ObjectView,
        origin: DocumentBuilder,
        spool: SpooledDocuments,
        deadline: PausableTimeout,
    ) -> None:
        ordinal = 0
        async with aclosing(self._extractors.documents(step, view, task.group, deadline)) as documents:
            async for made in documents:
                if spool.count >= self._settings.max_documents_per_object:
                    raise ResourceError(f"more than {self._settings.max_documents_per_object} documents of one object")
                derived = await self._derived.store(made.blobs) if made.blobs else []
                document = origin.document(made, ordinal, derived, place=spool.count)
                document["lease"] = task.lease
                await spool.add(document)
                ordinal += 1

    async def _parents(
        self, step: PipelineStage, task: ExtractionJob, made: Mapping[str, SpooledDocuments], skipped: set[str]
    ) -> AsyncGenerator[DocumentDocument, None]:
        """The documents that the collection reads: those just made, and those that were left as they are."""
        for source in step.sources:
            if source in made:
                async for document in made[source].documents():
                    yield document
            elif source in skipped:
                where = {"object_id": task.obj["_id"], "collection_id": source, "revision": task.obj["revision"]}
                async for document in self._stored.collection.stream(where, sort=[("run", 1), ("ordinal", 1)]):
                    yield document

    async def _forget_deleted(self, outcome: ExtractionOutcome) -> None:
        now = time.monotonic()
        live = await self._plans.live(list(outcome.made))
        outcome.known_at = now
        for collection_id in outcome.made.keys() - live:
            spool = outcome.made.pop(collection_id)
            outcome.count -= spool.count
            spool.close()


def unread(obj: ObjectDocument, view: ObjectView, steps: Sequence[PipelineStage]) -> list[str]:
    """Return a warning for each blob that no collection of the bucket reads."""
    warnings = [
        f"{blob.describe()} ({blob.mime_type}) is read by no collection of the bucket"
        for blob in view.blobs
        if not any(step.reads(blob) for step in steps)
    ]
    warnings += [
        f"the blob in '{blob['property']}' is only linked: extractors read what canonicalize_source has copied"
        for blob in obj["blobs"]
        if blob["state"] == "linked"
    ]
    if len(warnings) > MAX_WARNINGS:
        warnings[MAX_WARNINGS - 1 :] = [f"and {len(warnings) - MAX_WARNINGS + 1} more"]
    return warnings


def _label(step: PipelineStage) -> str:
    return step.collection["extractor"]["id"]


def _conclude(
    outcome: ExtractionOutcome,
    steps: Sequence[PipelineStage],
    failed: Mapping[str, ExtractionError | None],
    skipped: set[str],
) -> None:
    if failed:
        names = {step.id: step.collection["name"] for step in steps}
        errors = {names[key]: error for key, error in failed.items() if error is not None}
        outcome.status = Status.FAILED if len(failed) == len(steps) else Status.COMPLETED_WITH_ERRORS
        outcome.error = "; ".join(f"{name}: {error.message}" for name, error in errors.items())
        kinds: set[ErrorKind] = {error.kind for error in errors.values()}
        # A retry of what is transient must find the object also when something else of it is beyond help.
        outcome.error_type = "transient" if "transient" in kinds else next(iter(errors.values())).kind
    elif steps and len(skipped) == len(steps):
        outcome.status = Status.SKIPPED
