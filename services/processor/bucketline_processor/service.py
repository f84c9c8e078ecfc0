"""Processes a work unit: objects × collections → extractor → documents → status.

Documents are written before the status that counts them is published; objects that complete at the same time share one
write and one publish. Processing a unit again changes nothing: ids are derived, and the first final status of an item
counts everywhere.

Objects do not wait for each other. An object that cannot be finished because a store or the bus is unavailable is
retried and then left unfinished, and the unit is released with what remains. Only a unit whose processors crashed is
processed one object at a time (:mod:`bucketline_processor.isolation`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential

from bucketline.db.objects import ObjectDocument, Objects
from bucketline.db.work_units import WorkUnitDocument, unit_attempts
from bucketline.domain.status import RANK_PROCESSING, Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.extractors import ErrorKind
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import RETRIES, UNITS
from bucketline.observability.tracing import current_trace, is_same_trace, start_span
from bucketline.service_context import ServiceContext
from bucketline_processor.completion import CompletionWriter, ObjectResult, UnitItem, status_event
from bucketline_processor.extraction import Extraction, ExtractionJob, ExtractionOutcome
from bucketline_processor.fair_semaphore import FairSemaphore
from bucketline_processor.isolation import Isolation
from bucketline_processor.settings import ProcessorSettings

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MAX_ATTEMPTS = 10
MAX_BACKOFF_SECONDS = 10.0
MIRROR_SECONDS = 30.0
"""Seconds to wait for an object whose blobs are being replaced."""
MIRROR_POLL_SECONDS = 0.5

PAGE_OBJECTS = 100
PAGE_BYTES = 4 * 1024 * 1024

UNAVAILABLE = (DependencyUnavailable, RetryableError)

CRASHED_FIELDS = ("revision", "run", "trace")
"""The fields that are read of an object that crashed its processors."""

Decide = Callable[[UnitItem, ObjectDocument | None], Awaitable[ExtractionOutcome]]


class Interrupted(Exception):
    """The service stops: what has not been extracted yet is processed by another processor."""


class UnitProcessor:
    """Processes units; their objects share memory fairly between batches."""

    def __init__(
        self,
        runtime: ServiceContext,
        objects: Objects,
        extraction: Extraction,
        completion: CompletionWriter,
        isolation: Isolation,
        settings: ProcessorSettings,
    ) -> None:
        self._runtime = runtime
        self._objects = objects
        self._extraction = extraction
        self._completion = completion
        self._isolation = isolation
        self._max_bytes = settings.max_inflight_bytes
        self._memory = FairSemaphore(settings.max_inflight_bytes, reserve=True)
        self._isolate_after = settings.isolate_after_crashes
        self._stopping = False

    def stop(self) -> None:
        """Start no more objects; those that were started go on."""
        self._stopping = True

    async def run(self, unit: WorkUnitDocument, trace: Mapping[str, str]) -> bool:
        """Process the items that have no result yet; return whether all of them have a final status."""
        items = [UnitItem(unit, index, trace) for index in range(unit["size"]) if str(index) not in unit["results"]]
        if items and (attempts := unit_attempts(unit).crashes) > self._isolate_after:
            UNITS.labels("isolated").inc()
            log.warning("unit isolated after crashes", unit_id=unit["_id"], attempts=attempts)
            return await self._isolation.run(items, self._process_isolated, self._fail_crashed)
        sizes = await self._read_sizes([item.object_id for item in items])
        tasks: list[asyncio.Task[bool]] = []
        complete = True
        async with asyncio.TaskGroup() as group:
            for page, size in split_pages(items, sizes):
                try:
                    tasks += await self._start_page(group, page, min(size, self._max_bytes))
                except UNAVAILABLE as error:
                    log.warning("objects left unfinished", unit_id=unit["_id"], error=error.message)
                    complete = False
                    break
        return complete and all(task.result() for task in tasks)

    async def _read_sizes(self, object_ids: Sequence[str]) -> dict[str, int]:
        """Return the bytes of each object in MongoDB: units are bounded by blobs, but not by what objects carry."""
        return await self._objects.document_sizes(object_ids)

    async def _start_page(
        self, group: asyncio.TaskGroup, page: Sequence[UnitItem], size: int
    ) -> list[asyncio.Task[bool]]:
        """Start the objects of a page; each releases its share of the memory when it ends."""
        sharing = page[0].group
        await self._memory.acquire(sharing, size)
        try:
            objects = await self._objects.get_many([item.object_id for item in page])
            await self._publish_processing(page, objects)
        except BaseException:
            self._memory.release(sharing, size)
            raise

        def release(share: int, _: object) -> None:
            self._memory.release(sharing, share)

        tasks = []
        share, remainder = divmod(size, len(page))
        for number, item in enumerate(page):
            task = group.create_task(self._process_shared(item, objects.get(item.object_id)))
            task.add_done_callback(partial(release, share + (remainder if number == 0 else 0)))
            tasks.append(task)
        return tasks

    async def _process_shared(self, item: UnitItem, obj: ObjectDocument | None) -> bool:
        async with self._isolation.shared():
            return await self._process(item, obj, self._extract)

    async def _process_isolated(self, item: UnitItem) -> bool:
        """Process the object while nothing else runs here. It needs no share of memory: waiting units may hold all."""
        try:
            objects = await self._objects.get_many([item.object_id])
            await self._publish_processing([item], objects)
        except UNAVAILABLE as error:
            return _leave_unfinished(item, error)
        return await self._process(item, objects.get(item.object_id), self._extract)

    async def _fail_crashed(self, item: UnitItem, crashes: int) -> bool:
        """Fail an object that crashed its processors, without reading its content."""
        log.error("object failed after crashes", object_id=item.object_id, crashes=crashes)
        message = f"processing this object ended its processor {crashes} times: a file may be damaged or too large"

        async def fail(item: UnitItem, obj: ObjectDocument | None) -> ExtractionOutcome:
            if obj is None or _is_superseded(item, obj):
                return ExtractionOutcome(Status.SKIPPED)
            # The documents that a crashed processor may have stored are counted.
            return ExtractionOutcome(Status.FAILED, again=True, error=message, error_type="resource")

        try:
            objects = await self._objects.get_many([item.object_id], fields=CRASHED_FIELDS)
        except UNAVAILABLE as error:
            return _leave_unfinished(item, error)
        return await self._process(item, objects.get(item.object_id), fail)

    async def _process(self, item: UnitItem, obj: ObjectDocument | None, decide: Decide) -> bool:
        """Publish the final status that ``decide`` returns; return whether it was published."""
        started = time.perf_counter()
        unit_trace = current_trace()
        own_trace = (obj.get("trace") if obj else None) or unit_trace
        # An object continues the trace that it came with; a different trace of its unit is linked.
        is_same = is_same_trace(own_trace, unit_trace)
        ids = {"object_id": item.object_id, "batch_id": item.item["batch_id"]}
        try:
            with (
                structlog.contextvars.bound_contextvars(**ids),
                start_span(
                    "process object",
                    parent=unit_trace if is_same else own_trace,
                    links=() if is_same else (unit_trace,),
                    attributes={f"bucketline.{name}": value for name, value in ids.items()},
                ),
            ):
                outcome = await self._retry(decide, item, obj)
                duration = (time.perf_counter() - started) * 1000
                result = ObjectResult(item, outcome, current_trace(), duration)
                try:
                    await self._retry(self._completion.finish, result)
                finally:
                    outcome.close()
        except Interrupted:
            return False
        except UNAVAILABLE as error:
            return _leave_unfinished(item, error)
        return True

    async def _retry(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the coroutine function, and retry for about a minute while a store or the bus is unavailable."""

        def check_stopping(state: RetryCallState) -> None:
            if self._stopping and state.attempt_number > 1:
                raise Interrupted

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(UNAVAILABLE),
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=wait_exponential(multiplier=0.25, max=MAX_BACKOFF_SECONDS),
            before=check_stopping,
            before_sleep=lambda _: RETRIES.labels("object").inc(),
            reraise=True,
        )
        return await retrying(call, *args, **kwargs)

    async def _extract(self, item: UnitItem, obj: ObjectDocument | None) -> ExtractionOutcome:
        if self._stopping:
            raise Interrupted
        obj = await self._wait_for_mirror(obj)
        if obj is None or _is_superseded(item, obj):
            return ExtractionOutcome(Status.SKIPPED)
        mirror = obj["mirror"]
        if mirror["state"] == "pending":
            return _failure(obj, "its blobs were replaced while it was to be processed", "transient")
        if mirror["state"] == "failed":
            # A dead-lettered object may be replayed once its source is available.
            kind: ErrorKind = "transient" if "dead_letter_event_id" in mirror else "permanent"
            return _failure(obj, mirror.get("error") or "a blob failed", kind)
        if "duplicate_of" in mirror:
            reason = f"skipped: {mirror['duplicate_of']} of this bucket has the same content"
            return ExtractionOutcome(Status.SKIPPED, error=reason)
        unit = item.unit
        job = ExtractionJob(
            obj,
            item.item,
            unit["collection_ids"],
            unit["dedup_strategy"],
            group=item.group,
            since=unit["created_at"],
            lease=unit_attempts(unit).leases,
        )
        try:
            return await self._extraction.run(job)
        except UNAVAILABLE:
            raise
        except Exception as error:
            # A bug must neither stop the other objects of the unit nor be retried endlessly.
            log.exception("object processing failed", object_id=obj["_id"])
            return _failure(obj, f"the object could not be processed ({type(error).__name__})", "permanent")

    async def _wait_for_mirror(self, obj: ObjectDocument | None) -> ObjectDocument | None:
        """Return the object once its blobs are mirrored, or as it is after ``MIRROR_SECONDS``."""
        deadline = time.monotonic() + MIRROR_SECONDS
        while obj is not None and obj["mirror"]["state"] == "pending" and time.monotonic() < deadline:
            await asyncio.sleep(MIRROR_POLL_SECONDS)
            if self._stopping:
                raise Interrupted
            obj = await self._objects.get_by_id(obj["_id"])
        return obj

    async def _publish_processing(self, page: Sequence[UnitItem], objects: Mapping[str, ObjectDocument]) -> None:
        now = self._runtime.clock.now()
        events = []
        for item in page:
            obj = objects.get(item.object_id)
            if obj is not None and not _is_superseded(item, obj):
                event = status_event(item, Status.PROCESSING, RANK_PROCESSING, at=now)
                events.append(self._runtime.new_event(event, trace=obj.get("trace") or item.trace))
        if events:
            await self._runtime.kafka.publisher.publish(events)


def split_pages(items: Sequence[UnitItem], sizes: Mapping[str, int]) -> Iterator[tuple[list[UnitItem], int]]:
    """Split the items into pages of bounded count and bytes; yield each page with its bytes."""
    page: list[UnitItem] = []
    page_size = 0
    for item in items:
        size = sizes.get(item.object_id, 0)
        if page and (len(page) >= PAGE_OBJECTS or page_size + size > PAGE_BYTES):
            yield page, page_size
            page, page_size = [], 0
        page.append(item)
        page_size += size
    if page:
        yield page, page_size


def _is_superseded(item: UnitItem, obj: ObjectDocument) -> bool:
    """Return whether the object was changed and submitted again, which ends this run as a deletion does.

    A later run of the planned revision belongs to another batch, which may want other collections: both go on.
    """
    return obj["run"]["id"] > item.item["run"] and obj["revision"] > item.item["revision"]


def _leave_unfinished(item: UnitItem, error: DependencyUnavailable | RetryableError) -> bool:
    log.warning("object left unfinished", object_id=item.object_id, error=error.message)
    return False


def _failure(obj: ObjectDocument, error: str, kind: ErrorKind) -> ExtractionOutcome:
    """Return a failure that keeps and counts the documents of earlier runs."""
    return ExtractionOutcome(Status.FAILED, obj.get("document_count") is not None, error=error, error_type=kind)
