"""The end of an object: its documents, what they replace, and its final status, in this order.

Objects that end at the same time share one write and one publish. A document that the store refuses fails its own
object and no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bucketline.db.bulk_writer import BulkWriter
from bucketline.db.documents import DocumentDocument, Documents
from bucketline.db.work_units import WorkUnitDocument, unit_attempts
from bucketline.domain.status import RANK_FINAL, Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.events.models import ObjectStatusChanged
from bucketline.extractors import ErrorKind
from bucketline.observability.logging import get_logger
from bucketline.service_context import ServiceContext
from bucketline_processor.extraction import ExtractionOutcome
from bucketline_processor.extraction_plan import ExtractionPlans

log = get_logger(__name__)

MAX_ERROR = 2000
"""Characters of an error that the producer sees."""

SHARED_BYTES = 64 * 1024
"""Documents of an object beyond these are written by the object itself, so that a shared write stays small."""


@dataclass(frozen=True)
class ObjectResult:
    """An item of a unit, and what became of it."""

    unit: WorkUnitDocument
    place: int
    outcome: ExtractionOutcome
    trace: Mapping[str, str]
    duration_ms: float

    @property
    def object_id(self) -> str:
        return self.unit["items"][self.place]["object_id"]

    @property
    def run(self) -> int:
        return self.unit["items"][self.place]["run"]

    @property
    def lease(self) -> int:
        return unit_attempts(self.unit).leases

    @property
    def again(self) -> bool:
        """Whether documents may be there that an earlier run made, or an earlier holder of the unit."""
        return self.outcome.again or self.lease > 1


@dataclass(frozen=True)
class _PendingWrite:
    """What is left for the shared write. ``collections`` are those that have something new.

    Nothing in here goes when the outcome is closed: the write goes on when the object's own task is cancelled.
    """

    finished: ObjectResult
    documents: list[DocumentDocument]
    collections: tuple[str, ...]


class _WriteRejected(Exception):
    """The store will not have the object's documents."""


class CompletionWriter:
    """Writes and says how objects ended."""

    def __init__(self, runtime: ServiceContext, documents: Documents, plans: ExtractionPlans) -> None:
        self._runtime = runtime
        self._documents = documents
        self._plans = plans
        self._commit: BulkWriter[_PendingWrite, None] = BulkWriter(self._write, name="documents", max_size=500)

    async def finish(self, finished: ObjectResult) -> None:
        """Returns when the final status is on the bus. Raises what a store or the bus raises; then do it again."""
        try:
            documents = await self._prepared(finished)
            await self._commit.submit(_PendingWrite(finished, documents, tuple(finished.outcome.made)))
        except _WriteRejected as refusal:
            log.warning("documents were refused", object_id=finished.object_id, error=repr(refusal.__cause__))
            # the others were taken: all or nothing
            await self._documents.drop_made(finished.object_id, finished.run, finished.lease)
            error = f"the documents of this object cannot be stored ({type(refusal.__cause__).__name__})"
            failed = ExtractionOutcome(Status.FAILED, finished.outcome.again, error=error, error_type="permanent")
            changed = ObjectResult(finished.unit, finished.place, failed, finished.trace, finished.duration_ms)
            await self._commit.submit(_PendingWrite(changed, [], ()))

    async def _prepared(self, finished: ObjectResult) -> list[DocumentDocument]:
        """Writes what is large; returns the rest. The first document of a collection, which says that all the others
        are there, is always among the rest."""
        documents: list[DocumentDocument] = []
        for spool in finished.outcome.made.values():
            if spool.first is None:
                continue
            spool.first["complete"] = spool.count
            documents.append(spool.first)
            async for group in spool.rest():
                if spool.size <= SHARED_BYTES:
                    documents += group
                else:
                    await self._put(group, again=finished.again)
        return documents

    async def _put(self, documents: Sequence[DocumentDocument], *, again: bool) -> None:
        try:
            await self._documents.put(documents, fresh=not again)
        except (DependencyUnavailable, RetryableError):
            raise
        except Exception as error:
            raise _WriteRejected from error

    async def _store(self, group: Sequence[_PendingWrite], *, again: bool) -> dict[str, _WriteRejected]:
        """Writes all in one round trip; returns what was refused, by object. One by one only if something is."""
        mine = [one for one in group if one.finished.again == again and one.documents]
        refused: dict[str, _WriteRejected] = {}
        try:
            await self._put([document for one in mine for document in one.documents], again=again)
        except _WriteRejected:
            for one in mine:
                try:
                    await self._put(one.documents, again=True)
                except _WriteRejected as refusal:
                    refused[one.finished.object_id] = refusal
        return refused

    async def _write(self, group: Sequence[_PendingWrite]) -> list[BaseException | None]:
        refused = await self._store(group, again=False) | await self._store(group, again=True)
        good = [one for one in group if one.finished.object_id not in refused]
        changed = await self._drop_older(good) | await self._drop_deleted(good)
        counts = await self._documents.counts(list(changed)) if changed else {}
        now = self._runtime.clock.now()
        await self._runtime.bus.publisher.publish(
            [
                # Without an earlier run everything is of this one.
                self._runtime.seal(
                    _ended(one, counts.get(one.object_id, {one.run: one.outcome.count}), now), trace=one.trace
                )
                for one in (shared.finished for shared in good)
            ]
        )
        return [refused.get(one.finished.object_id) for one in group]

    async def _drop_older(self, group: Sequence[_PendingWrite]) -> set[str]:
        """Removes what was made earlier and not again; returns the objects of which there may have been something."""
        again = [one for one in group if one.finished.again]
        await self._documents.drop_older(
            [
                (one.finished.object_id, collection_id, one.finished.run, one.finished.lease)
                for one in again
                for collection_id in one.collections
            ]
        )
        return {one.finished.object_id for one in again}

    async def _drop_deleted(self, group: Sequence[_PendingWrite]) -> set[str]:
        """Removes what was written into collections that were deleted meanwhile; returns the objects.

        A deletion waits for processors, but not for ever: what takes long to write looks again when it is written. Who
        deletes a collection after that finds everything.
        """
        written = [
            (one.finished.object_id, collection_id)
            for one in group
            if one.finished.outcome.outdated
            for collection_id in one.collections
        ]
        if not written:
            return set()
        live = await self._plans.live(list({collection_id for _, collection_id in written}))
        orphaned = [place for place in written if place[1] not in live]
        await self._documents.drop_from(orphaned)
        return {object_id for object_id, _ in orphaned}


def _ended(finished: ObjectResult, counts: Mapping[int, int], now: datetime) -> ObjectStatusChanged:
    """``counts`` are the object's documents by the run that made them."""
    outcome = finished.outcome
    return moved(
        finished.unit,
        finished.place,
        outcome.status,
        RANK_FINAL,
        at=now,
        error=outcome.error[:MAX_ERROR] if outcome.error else None,
        error_type=outcome.error_type,
        document_count=sum(counts.values()),
        written=counts.get(finished.run, 0),
        duration_ms=finished.duration_ms,
        warnings=outcome.warnings,
    )


def moved(
    unit: WorkUnitDocument,
    place: int,
    status: Status,
    rank: int,
    *,
    at: datetime,
    error: str | None = None,
    error_type: ErrorKind | None = None,
    document_count: int = 0,
    written: int | None = None,
    duration_ms: float | None = None,
    warnings: Sequence[str] = (),
) -> ObjectStatusChanged:
    """The event that an item of a unit has this status now."""
    item = unit["items"][place]
    return ObjectStatusChanged(
        object_id=item["object_id"],
        bucket_id=item["bucket_id"],
        namespace_id=item["namespace_id"],
        revision=item["revision"],
        batch_id=item["batch_id"],
        unit_id=unit["_id"],
        item_index=place,
        run_id=item["run"],
        sequence=rank,
        status=status,
        error=error,
        error_type=error_type,
        documents_total=document_count,
        documents_written=written,
        attempt_number=unit["attempts"],
        duration_ms=duration_ms,
        warnings=list(warnings),
        occurred_at=at,
    )
