"""Runs one object through its collections, each after the collections that it reads."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bucketline.blobs.s3 import S3BlobStore
from bucketline.clock import Clock
from bucketline.db.documents import DocumentDocument, Documents
from bucketline.db.objects import ObjectDocument
from bucketline.db.work_units import Item
from bucketline.domain.status import Status
from bucketline.extractors import ErrorKind, ExtractionError, ObjectView, ResourceError, TransientError
from bucketline.observability.metrics import DOCUMENTS, EXTRACTION_SECONDS, RETRIES
from bucketline.observability.tracing import start_span
from bucketline_processor.documents import DerivedBlobs, DocumentBuilder
from bucketline_processor.extractor_runner import ExtractorRunner, PausableTimeout, document_view, object_view
from bucketline_processor.plan import ExtractionPlans, PipelineStage, select_stages
from bucketline_processor.settings import ProcessorSettings
from bucketline_processor.spooled_documents import SpooledDocuments

MAX_WARNINGS = 20
"""Warnings of an object; the last one counts those that were left out."""

OUTDATED_SECONDS = 5.0
"""Time after which a collection may have been deleted since it was read. Far below the time for which its deletion
waits for objects in progress."""

MIN_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0


@dataclass(frozen=True)
class ExtractionJob:
    """One object to process, as an item of a unit that was planned at ``since``.

    ``only`` are the ids or names of collections, None for all. ``group`` is the group with which it shares slots;
    ``lease`` is the number of the unit's lease.
    """

    obj: ObjectDocument
    item: Item
    only: Sequence[str] | None
    strategy: Literal["skip", "replace", "force"]
    group: str
    since: datetime
    lease: int

    @property
    def again(self) -> bool:
        """Return whether an earlier run may have made documents.

        It is wrong only while the status events of that run are still on the bus.
        """
        obj = self.obj
        if self.item.get("again") or obj.get("document_count") is not None or obj["revision"] > 1:
            return True
        return obj.get("batch_id") not in (None, self.item["batch_id"])


@dataclass
class ExtractionOutcome:
    """The outcome of one object. ``made`` are the documents to store, by collection; close it after that.

    ``count`` are the documents made and those of skipped collections. After an ``again`` there may be others, which it
    does not count. ``read_at`` is when the collections were read, on the monotonic clock. ``warnings`` tell the
    producer what was not processed although nothing failed.
    """

    status: Status
    again: bool = False
    count: int = 0
    made: dict[str, SpooledDocuments] = field(default_factory=dict)
    error: str | None = None
    error_type: ErrorKind | None = None
    warnings: Sequence[str] = ()
    read_at: float = field(default_factory=time.monotonic)

    @property
    def outdated(self) -> bool:
        """Return whether some of the collections may have been deleted since they were read."""
        return time.monotonic() - self.read_at > OUTDATED_SECONDS

    def close(self) -> None:
        """Delete the documents that are kept for storing."""
        for spool in self.made.values():
            spool.close()
        self.made.clear()


class Extraction:
    """Runs the collections of objects."""

    def __init__(
        self,
        *,
        plans: ExtractionPlans,
        runner: ExtractorRunner,
        documents: Documents,
        derived_blobs: DerivedBlobs,
        blobs: S3BlobStore,
        clock: Clock,
        settings: ProcessorSettings,
    ) -> None:
        self.plans = plans
        self.runner = runner
        self.documents = documents
        self.derived_blobs = derived_blobs
        self.blobs = blobs
        self.clock = clock
        self.settings = settings

    async def run(self, job: ExtractionJob) -> ExtractionOutcome:
        """Run the object through every collection that it feeds.

        A collection that fails does not stop the others, except those that read nothing else. Raises
        ``DependencyUnavailable`` when the object cannot be processed now.
        """
        plan = await self.plans.get(job.obj["bucket_id"], since=job.since)
        view = object_view(job.obj, self.blobs, self.settings.temp_dir)
        outcome = ExtractionOutcome(Status.COMPLETED, again=job.again, warnings=find_unread(job.obj, view, plan))
        stages = plan if job.only is None else select_stages(plan, job.only)
        complete: Mapping[str, int] = {}
        if outcome.again and job.strategy == "skip":
            ids = [stage.id for stage in stages]
            complete = await self.documents.count_complete(job.obj["_id"], ids, job.obj["revision"])
        try:
            await _ObjectRun(self, job, view, outcome).run(stages, complete)
        except BaseException:
            outcome.close()
            raise
        return outcome


class _ObjectRun:
    """The run of one object through the stages; it fills in the outcome."""

    def __init__(self, extraction: Extraction, job: ExtractionJob, view: ObjectView, outcome: ExtractionOutcome):
        self._extraction = extraction
        self._settings = extraction.settings
        self._job = job
        self._view = view
        self._outcome = outcome
        self._failed: dict[str, ExtractionError | None] = {}
        self._skipped: set[str] = set()

    async def run(self, stages: Sequence[PipelineStage], complete: Mapping[str, int]) -> None:
        """Run the stages, except those whose documents are ``complete`` and whose sources were skipped too."""
        included = {stage.id for stage in stages}
        for stage in stages:
            sources = included.intersection(stage.sources)
            if sources and self._failed.keys() >= sources:
                self._failed[stage.id] = None  # There is nothing to read; its sources have reported the error.
            elif stage.id in complete and self._skipped.issuperset(sources):
                self._skipped.add(stage.id)
                self._outcome.count += complete[stage.id]
            else:
                about = {"bucketline.collection_id": stage.id, "bucketline.extractor": stage.extractor_id}
                with start_span("extract", attributes=about):
                    await self._run_stage(stage)
        self._set_status(stages)

    async def _run_stage(self, stage: PipelineStage) -> None:
        """Add the collection's documents to the outcome, or record its error."""
        spool = SpooledDocuments(self._settings.temp_dir, max_bytes=self._settings.max_document_bytes_per_object)
        started = time.perf_counter()
        now = self._extraction.clock.now()  # One time for all, so that they stand together in lists.
        result = "completed"
        try:
            async with PausableTimeout(self._settings.object_timeout_seconds) as deadline:
                if stage.collection["source"]["type"] == "bucket":
                    await self._run_source(stage, self._view, None, spool, deadline, now)
                else:
                    async with aclosing(self._source_documents(stage)) as parents:
                        async for parent in parents:
                            view = document_view(parent, self._view)
                            await self._run_source(stage, view, parent, spool, deadline, now)
        except ExtractionError as error:
            spool.close()
            result = error.kind
            self._failed[stage.id] = error
        except BaseException:
            spool.close()
            result = "interrupted"
            raise
        else:
            self._outcome.made[stage.id] = spool
            self._outcome.count += spool.count
            DOCUMENTS.labels(stage.extractor_id).inc(spool.count)
        finally:
            EXTRACTION_SECONDS.labels(stage.extractor_id, result).observe(time.perf_counter() - started)

    async def _run_source(
        self,
        stage: PipelineStage,
        view: ObjectView,
        parent: DocumentDocument | None,
        spool: SpooledDocuments,
        deadline: PausableTimeout,
        now: datetime,
    ) -> None:
        """Append the documents of one source to the spool; those of failed attempts are removed again."""
        job = self._job
        builder = DocumentBuilder(
            job.obj,
            stage,
            parent=parent,
            fields=stage.pass_through(view.fields),
            run=job.item["run"],
            lease=job.lease,
            now=now,
        )
        start = spool.mark()

        async def extract() -> None:
            number = 0
            async with aclosing(self._extraction.runner.run(stage, view, job.group, deadline)) as documents:
                async for document in documents:
                    if spool.count >= self._settings.max_documents_per_object:
                        limit = self._settings.max_documents_per_object
                        raise ResourceError(f"more than {limit} documents of one object")
                    blobs = await self._extraction.derived_blobs.store(document.blobs) if document.blobs else []
                    await spool.add(builder.build(document, number, blobs, ordinal=spool.count))
                    number += 1

        def undo(_: RetryCallState) -> None:
            spool.rewind(start)
            RETRIES.labels("extraction").inc()

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self._settings.object_max_attempts if stage.problem is None else 1),
            wait=wait_random_exponential(multiplier=0.4, min=MIN_BACKOFF_SECONDS, max=MAX_BACKOFF_SECONDS),
            before_sleep=undo,
            reraise=True,
        )
        await retrying(extract)

    async def _source_documents(self, stage: PipelineStage) -> AsyncGenerator[DocumentDocument, None]:
        """Yield the documents that the collection reads: those of this run, and those of skipped collections."""
        for source in stage.sources:
            if source in self._outcome.made:
                async for document in self._outcome.made[source].documents():
                    yield document
            elif source in self._skipped:
                obj = self._job.obj
                stored = self._extraction.documents.stream_revision(obj["_id"], source, obj["revision"])
                async for document in stored:
                    yield document

    def _set_status(self, stages: Sequence[PipelineStage]) -> None:
        outcome = self._outcome
        if self._failed:
            names = {stage.id: stage.collection["name"] for stage in stages}
            errors = {names[key]: error for key, error in self._failed.items() if error is not None}
            all_failed = len(self._failed) == len(stages)
            outcome.status = Status.FAILED if all_failed else Status.COMPLETED_WITH_ERRORS
            outcome.error = "; ".join(f"{name}: {error.message}" for name, error in errors.items())
            kinds: set[ErrorKind] = {error.kind for error in errors.values()}
            # A retry of transient errors must include the object although another collection fails permanently.
            outcome.error_type = "transient" if "transient" in kinds else next(iter(errors.values())).kind
        elif stages and len(self._skipped) == len(stages):
            outcome.status = Status.SKIPPED


def find_unread(obj: ObjectDocument, view: ObjectView, plan: Sequence[PipelineStage]) -> list[str]:
    """Return a warning for each blob that no collection of the bucket reads."""
    warnings = [
        f"{blob.describe()} ({blob.mime_type}) is read by no collection of the bucket"
        for blob in view.blobs
        if not any(stage.reads(blob) for stage in plan)
    ]
    warnings += [
        f"the blob in '{blob['property']}' is only linked: extractors read what canonicalize_source has copied"
        for blob in obj["blobs"]
        if blob["state"] == "linked"
    ]
    if len(warnings) > MAX_WARNINGS:
        warnings[MAX_WARNINGS - 1 :] = [f"and {len(warnings) - MAX_WARNINGS + 1} more"]
    return warnings
