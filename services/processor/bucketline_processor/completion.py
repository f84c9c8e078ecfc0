"""Completes objects: writes their documents, deletes what these replace, and publishes the final status, in this order.

Objects that complete at the same time share one write and one publish. A document that MongoDB rejects fails its own
object and no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bucketline.db.bulk_writer import BulkWriter
from bucketline.db.documents import DocumentDocument, Documents
from bucketline.db.work_units import Item, WorkUnitDocument, group_of, unit_attempts
from bucketline.domain.status import RANK_FINAL, Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.events.models import ObjectStatusChanged
from bucketline.extractors import ErrorKind
from bucketline.observability.logging import get_logger
from bucketline.service_context import ServiceContext
from bucketline_processor.extraction import ExtractionOutcome
from bucketline_processor.plan import ExtractionPlans

log = get_logger(__name__)

MAX_ERROR_LENGTH = 2000
"""Characters of an error that the producer sees."""

MAX_SHARED_BYTES = 64 * 1024
"""Documents of an object beyond this size are written before the shared write, to keep that small."""


@dataclass(frozen=True)
class UnitItem:
    """One item of a unit; ``trace`` is the unit's trace context."""

    unit: WorkUnitDocument
    index: int
    trace: Mapping[str, str]

    @property
    def item(self) -> Item:
        """Return the item as the batcher planned it."""
        return self.unit["items"][self.index]

    @property
    def object_id(self) -> str:
        """Return the id of the object."""
        return self.item["object_id"]

    @property
    def group(self) -> str:
        """Return the group with which it shares slots and memory: its batch, or its namespace's automatic objects."""
        return group_of(self.unit)


@dataclass(frozen=True)
class ObjectResult:
    """The result of processing an item; ``trace`` is the trace context of the object."""

    item: UnitItem
    outcome: ExtractionOutcome
    trace: Mapping[str, str]
    duration_ms: float

    @property
    def object_id(self) -> str:
        """Return the id of the object."""
        return self.item.object_id

    @property
    def run(self) -> int:
        """Return the number of the object's processing run."""
        return self.item.item["run"]

    @property
    def lease(self) -> int:
        """Return the number of the unit's lease under which the object was processed."""
        return unit_attempts(self.item.unit).leases

    @property
    def again(self) -> bool:
        """Return whether documents of an earlier run, or of an earlier holder of the unit, may exist."""
        return self.outcome.again or self.lease > 1


@dataclass(frozen=True)
class _PendingWrite:
    """The part of a result that takes part in the shared write; ``collections`` have new documents.

    It does not depend on the outcome staying open: the write goes on when the object's own task is cancelled.
    """

    result: ObjectResult
    documents: list[DocumentDocument]
    collections: tuple[str, ...]


class _WriteRejected(Exception):
    """MongoDB rejected documents of the object."""


class CompletionWriter:
    """Writes the documents of objects and publishes their final status."""

    def __init__(self, runtime: ServiceContext, documents: Documents, plans: ExtractionPlans) -> None:
        self._runtime = runtime
        self._documents = documents
        self._plans = plans
        self._writer: BulkWriter[_PendingWrite, None] = BulkWriter(self._write, name="documents", max_size=500)

    async def finish(self, result: ObjectResult) -> None:
        """Return when the final status is on the bus.

        Raises what MongoDB and the bus raise; it may then be called again.
        """
        try:
            documents = await self._write_large(result)
            await self._writer.submit(_PendingWrite(result, documents, tuple(result.outcome.made)))
        except _WriteRejected as rejection:
            cause = rejection.__cause__
            log.warning("documents rejected", object_id=result.object_id, error=repr(cause))
            # All or nothing: the documents that were accepted are deleted.
            await self._documents.delete_of_lease(result.object_id, result.run, result.lease)
            error = f"the documents of this object cannot be stored ({type(cause).__name__})"
            failure = ExtractionOutcome(Status.FAILED, result.outcome.again, error=error, error_type="permanent")
            await self._writer.submit(_PendingWrite(replace(result, outcome=failure), [], ()))

    async def _write_large(self, result: ObjectResult) -> list[DocumentDocument]:
        """Write the documents of large collections; return the documents that remain to be written.

        The first document of each collection, which records that the others are complete, always remains.
        """
        remaining: list[DocumentDocument] = []
        for spool in result.outcome.made.values():
            if spool.first is None:
                continue
            spool.first["complete"] = spool.count
            remaining.append(spool.first)
            async for documents in spool.rest():
                if spool.size <= MAX_SHARED_BYTES:
                    remaining += documents
                else:
                    await self._put(documents, again=result.again)
        return remaining

    async def _put(self, documents: Sequence[DocumentDocument], *, again: bool) -> None:
        try:
            await self._documents.save(documents, fresh=not again)
        except (DependencyUnavailable, RetryableError):
            raise
        except Exception as error:
            raise _WriteRejected from error

    async def _put_all(self, writes: Sequence[_PendingWrite], *, again: bool) -> dict[str, _WriteRejected]:
        """Write all in one round trip, or one by one if something is rejected; return the rejections by object."""
        selected = [write for write in writes if write.result.again == again and write.documents]
        rejected: dict[str, _WriteRejected] = {}
        try:
            await self._put([document for write in selected for document in write.documents], again=again)
        except _WriteRejected:
            for write in selected:
                try:
                    await self._put(write.documents, again=True)
                except _WriteRejected as rejection:
                    rejected[write.result.object_id] = rejection
        return rejected

    async def _write(self, writes: Sequence[_PendingWrite]) -> list[BaseException | None]:
        rejected = await self._put_all(writes, again=False) | await self._put_all(writes, again=True)
        accepted = [write for write in writes if write.result.object_id not in rejected]
        changed = await self._delete_replaced(accepted) | await self._delete_orphaned(accepted)
        counts = await self._documents.counts(list(changed)) if changed else {}
        now = self._runtime.clock.now()
        events = []
        for result in (write.result for write in accepted):
            # Without an earlier run, all documents are of this one.
            count = counts.get(result.object_id, {result.run: result.outcome.count})
            events.append(self._runtime.new_event(_final_event(result, count, now), trace=result.trace))
        await self._runtime.kafka.publisher.publish(events)
        return [rejected.get(write.result.object_id) for write in writes]

    async def _delete_replaced(self, writes: Sequence[_PendingWrite]) -> set[str]:
        """Delete documents of earlier runs that were not made again; return the objects that may have had some."""
        again = [write for write in writes if write.result.again]
        await self._documents.delete_superseded(
            [
                (write.result.object_id, collection_id, write.result.run, write.result.lease)
                for write in again
                for collection_id in write.collections
            ]
        )
        return {write.result.object_id for write in again}

    async def _delete_orphaned(self, writes: Sequence[_PendingWrite]) -> set[str]:
        """Delete documents that were written into deleted collections; return their objects.

        The deletion of a collection waits for processors, but not indefinitely: after a long extraction, whether the
        collections still exist is checked once their documents are written. A deletion after that finds them all.
        """
        written = [
            (write.result.object_id, collection_id)
            for write in writes
            if write.result.outcome.outdated
            for collection_id in write.collections
        ]
        if not written:
            return set()
        live = await self._plans.live(list({collection_id for _, collection_id in written}))
        orphaned = [(object_id, collection_id) for object_id, collection_id in written if collection_id not in live]
        await self._documents.delete_of_sources(orphaned)
        return {object_id for object_id, _ in orphaned}


def _final_event(result: ObjectResult, counts: Mapping[int, int], now: datetime) -> ObjectStatusChanged:
    """Build the final status event; ``counts`` are the object's documents by the run that made them."""
    outcome = result.outcome
    return status_event(
        result.item,
        outcome.status,
        RANK_FINAL,
        at=now,
        error=outcome.error[:MAX_ERROR_LENGTH] if outcome.error else None,
        error_type=outcome.error_type,
        documents_total=sum(counts.values()),
        documents_written=counts.get(result.run, 0),
        duration_ms=result.duration_ms,
        warnings=outcome.warnings,
    )


def status_event(
    item: UnitItem,
    status: Status,
    sequence: int,
    *,
    at: datetime,
    error: str | None = None,
    error_type: ErrorKind | None = None,
    documents_total: int = 0,
    documents_written: int | None = None,
    duration_ms: float | None = None,
    warnings: Sequence[str] = (),
) -> ObjectStatusChanged:
    """Build the event that the item has reached the status."""
    planned = item.item
    return ObjectStatusChanged(
        object_id=planned["object_id"],
        bucket_id=planned["bucket_id"],
        namespace_id=planned["namespace_id"],
        revision=planned["revision"],
        batch_id=planned["batch_id"],
        unit_id=item.unit["_id"],
        item_index=item.index,
        run_id=planned["run"],
        sequence=sequence,
        status=status,
        error=error,
        error_type=error_type,
        documents_total=documents_total,
        documents_written=documents_written,
        attempt_number=item.unit["attempts"],
        duration_ms=duration_ms,
        warnings=list(warnings),
        occurred_at=at,
    )
