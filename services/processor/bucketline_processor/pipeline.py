"""A work unit on its way: objects × collections → extractor → documents → status.

Documents are written before the status that counts them is said, and what concurrent objects finish at the same time
shares one write and one publish. Doing a unit again changes nothing: ids are derived, and of two final statuses of an
item the first counts everywhere.

Objects do not wait for each other: one that cannot be finished now, because a store or the bus is away, is tried again
and then left; the unit is given back with what is left of it. Only a unit with which processors died is worked on one
by one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from bucketline.db.objects import ObjectDocument, Objects
from bucketline.db.work_units import WorkUnitDocument, unit_attempts
from bucketline.domain.status import RANK_PROCESSING, Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.extractors import ErrorKind
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import RETRIES, UNITS
from bucketline.observability.tracing import current_trace, same_trace, start_span
from bucketline.service_context import ServiceContext
from bucketline_processor.completion import CompletionWriter, ObjectResult, moved
from bucketline_processor.extraction import Extraction, ExtractionJob, ExtractionOutcome
from bucketline_processor.fair_semaphore import FairSemaphore
from bucketline_processor.isolation import run_isolated
from bucketline_processor.leases import Leases
from bucketline_processor.settings import ProcessorSettings
from bucketline_processor.unit_items import ItemGroup, pages, unfinished

log = get_logger(__name__)

T = TypeVar("T")

TRIES = 10
MAX_PAUSE = 10.0
MIRROR_SECONDS = 30.0
"""How long an object whose blobs are just being replaced is waited for."""
MIRROR_PAUSE = 0.5

AWAY = (DependencyUnavailable, RetryableError)

VERDICT_FIELDS = ("revision", "run", "trace")

Decide = Callable[[ItemGroup, ObjectDocument | None], Awaitable[ExtractionOutcome]]


class Interrupted(Exception):
    """The service stops: what has not come far begins anew elsewhere."""


class Pipeline:
    """Works on units; the objects of all of them share turns and memory fairly between batches."""

    def __init__(
        self,
        runtime: ServiceContext,
        objects: Objects,
        extraction: Extraction,
        finisher: CompletionWriter,
        leases: Leases,
        settings: ProcessorSettings,
    ) -> None:
        self._runtime = runtime
        self._extraction = extraction
        self._objects = objects
        self._memory = FairSemaphore(settings.max_inflight_bytes, spare=True)
        self._finisher = finisher
        self._leases = leases
        self._careful_after = settings.isolate_after_crashes
        self._stopping = False

    def stop(self) -> None:
        """No object begins any more; those that have begun go on."""
        self._stopping = True

    async def run(self, unit: WorkUnitDocument, trace: Mapping[str, str]) -> bool:
        """Whether every item has its final status on the bus. Items that have a result already are left out."""
        todo = unfinished(unit, trace)
        if todo and (attempts := unit_attempts(unit).crashes) > self._careful_after:
            UNITS.labels("isolated").inc()
            log.warning("processors died with a unit: one object at a time", unit_id=unit["_id"], attempts=attempts)
            return await run_isolated(todo, self._leases, self._single, self._convicted)
        sizes = await self._sizes([work.item["object_id"] for work in todo])
        tasks: list[asyncio.Task[bool]] = []
        complete = True
        async with asyncio.TaskGroup() as group:
            for page, size in pages(todo, sizes):
                try:
                    tasks += await self._page(group, page, size)
                except AWAY as error:
                    log.warning("objects are left for later", unit_id=unit["_id"], error=error.message)
                    complete = False
                    break
        return complete and all(task.result() for task in tasks)

    async def _sizes(self, object_ids: Sequence[str]) -> dict[str, int]:
        """Bytes of each object in the database: units are bounded by their blobs, not by what else objects carry."""
        rows = await self._objects.collection.aggregate(
            [{"$match": {"_id": {"$in": list(object_ids)}}}, {"$project": {"size": {"$bsonSize": "$$ROOT"}}}],
            limit=max(1, len(object_ids)),
        )
        return {str(row["_id"]): int(row["size"]) for row in rows}

    async def _page(self, group: asyncio.TaskGroup, page: Sequence[ItemGroup], size: int) -> list[asyncio.Task[bool]]:
        """Begins the objects of a page; their share of the memory is given back one by one."""
        sharing = page[0].group
        await self._memory.take(sharing, size)
        left = [len(page), size]
        try:
            objects = await self._objects.many([work.item["object_id"] for work in page])
            await self._say_started(page, objects)
        except BaseException:
            self._memory.give(sharing, size)
            raise

        def ended(_: object) -> None:
            share = left[1] // left[0]
            left[0], left[1] = left[0] - 1, left[1] - share
            self._memory.give(sharing, share)

        tasks = []
        for work in page:
            task = group.create_task(self._among_others(work, objects.get(work.item["object_id"])))
            task.add_done_callback(ended)
            tasks.append(task)
        return tasks

    async def _among_others(self, work: ItemGroup, obj: ObjectDocument | None) -> bool:
        async with self._leases.beside():
            return await self._object(work, obj, self._outcome)

    async def _single(self, work: ItemGroup) -> bool:
        """The object while nobody else works here. It takes no share of the memory: those who wait may have all."""
        try:
            objects = await self._objects.many([work.item["object_id"]])
            await self._say_started([work], objects)
        except AWAY as error:
            return _left(work, error)
        return await self._object(work, objects.get(work.item["object_id"]), self._outcome)

    async def _convicted(self, work: ItemGroup, times: int) -> bool:
        """Says that the object failed, without reading more of it than that needs."""
        object_id = work.item["object_id"]
        log.error("an object ends its processors: it fails", object_id=object_id, times=times)
        told = f"processing this object ended its processor {times} times: a file may be damaged or too large"

        async def verdict(work: ItemGroup, obj: ObjectDocument | None) -> ExtractionOutcome:
            if obj is None or _is_over(work, obj):
                return ExtractionOutcome(Status.SKIPPED)
            # What an ended processor may have stored before it ended is counted.
            return ExtractionOutcome(Status.FAILED, again=True, error=told, error_type="resource")

        try:
            objects = await self._objects.many([object_id], fields=VERDICT_FIELDS)
        except AWAY as error:
            return _left(work, error)
        return await self._object(work, objects.get(object_id), verdict)

    async def _object(self, work: ItemGroup, obj: ObjectDocument | None, decide: Decide) -> bool:
        """Whether the object's final status was said; ``decide`` says which."""
        started = time.perf_counter()
        unit = current_trace()
        own = (obj.get("trace") if obj else None) or unit
        # An object goes on in the trace that it came with; where its unit has another, the two are linked.
        shared = same_trace(own, unit)
        ids = {"object_id": work.item["object_id"], "batch_id": work.item["batch_id"]}
        try:
            with (
                structlog.contextvars.bound_contextvars(**ids),
                start_span(
                    "process object",
                    parent=unit if shared else own,
                    links=() if shared else (unit,),
                    attributes={f"bucketline.{name}": value for name, value in ids.items()},
                ),
            ):
                outcome = await self._tried(lambda: decide(work, obj))
                duration = (time.perf_counter() - started) * 1000
                finished = ObjectResult(work.unit, work.place, outcome, current_trace(), duration)
                try:
                    await self._tried(lambda: self._finisher.finish(finished))
                finally:
                    outcome.close()
        except Interrupted:
            return False
        except AWAY as error:
            return _left(work, error)
        return True

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T:
        """``call``, again and again for about a minute while a store or the bus is away."""
        for attempt in range(TRIES):
            try:
                return await call()
            except AWAY:
                if attempt == TRIES - 1:
                    raise
            RETRIES.labels("object").inc()
            await asyncio.sleep(min(MAX_PAUSE, 0.25 * 2**attempt))
            if self._stopping:
                break
        raise Interrupted

    async def _outcome(self, work: ItemGroup, obj: ObjectDocument | None) -> ExtractionOutcome:
        if self._stopping:
            raise Interrupted
        obj = await self._mirrored(obj)
        if obj is None or _is_over(work, obj):
            return ExtractionOutcome(Status.SKIPPED)
        mirror = obj["mirror"]
        if mirror["state"] == "pending":
            return _failure(obj, "its blobs were replaced while it was to be processed", "transient")
        if mirror["state"] == "failed":
            # The dead letter may be replayed once the source is available.
            kind: ErrorKind = "transient" if "dead_letter_event_id" in mirror else "permanent"
            return _failure(obj, mirror.get("error") or "a blob failed", kind)
        if "duplicate_of" in mirror:
            why = f"skipped: {mirror['duplicate_of']} of this bucket has the same content"
            return ExtractionOutcome(Status.SKIPPED, error=why)
        unit = work.unit
        task = ExtractionJob(
            obj,
            work.item,
            unit["collection_ids"],
            unit["dedup_strategy"],
            group=work.group,
            since=unit["created_at"],
            lease=unit_attempts(unit).leases,
        )
        try:
            return await self._extraction.run(task)
        except AWAY:
            raise
        except Exception as error:
            # A fault of ours must neither stop the others of the unit nor be repeated for ever.
            log.exception("an object could not be processed", object_id=obj["_id"])
            return _failure(obj, f"the object could not be processed ({type(error).__name__})", "permanent")

    async def _mirrored(self, obj: ObjectDocument | None) -> ObjectDocument | None:
        """The object once its blobs are there; as it is after a while."""
        ends = time.monotonic() + MIRROR_SECONDS
        while obj is not None and obj["mirror"]["state"] == "pending" and time.monotonic() < ends:
            await asyncio.sleep(MIRROR_PAUSE)
            if self._stopping:
                raise Interrupted
            obj = await self._objects.collection.get(obj["_id"])
        return obj

    async def _say_started(self, page: Sequence[ItemGroup], objects: Mapping[str, ObjectDocument]) -> None:
        now = self._runtime.clock.now()
        envelopes = []
        for work in page:
            obj = objects.get(work.item["object_id"])
            if obj is not None and not _is_over(work, obj):
                event = moved(work.unit, work.place, Status.PROCESSING, RANK_PROCESSING, at=now)
                envelopes.append(self._runtime.seal(event, trace=obj.get("trace") or work.trace))
        if envelopes:
            await self._runtime.bus.publisher.publish(envelopes)


def _is_over(work: ItemGroup, obj: ObjectDocument) -> bool:
    """Whether the object was changed and is on its way again: this run of it is over, as if it had been deleted.

    A later run of what was planned is that of another batch, which may want other collections: both go on.
    """
    return obj["run"]["id"] > work.item["run"] and obj["revision"] > work.item["revision"]


def _left(work: ItemGroup, error: DependencyUnavailable | RetryableError) -> bool:
    log.warning("an object is left for later", object_id=work.item["object_id"], error=error.message)
    return False


def _failure(obj: ObjectDocument, error: str, kind: ErrorKind) -> ExtractionOutcome:
    """Documents of earlier runs stay, and are counted."""
    return ExtractionOutcome(Status.FAILED, obj.get("document_count") is not None, error=error, error_type=kind)
