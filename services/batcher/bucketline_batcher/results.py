"""Records the final statuses of objects, updates the progress of batches and finishes them.

The first final status of an item is stored in its unit, so a batch counts distinct objects regardless of the number and
the order of status events. A batch is finished by compare-and-set, and `batch.completed` is part of the same write.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bucketline.db.batches import SUMMARY_FIELDS, BatchDocument, FailedObject, failed_row, webhook_host
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.db.work_units import OPEN_STATES, Result, Tally, WorkUnitDocument, written
from bucketline.domain.status import BATCH_ACTIVE, FAILURES, Status, batch_outcome
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import BatchCompleted, ObjectStatusChanged
from bucketline.kafka.outbox import Outbox
from bucketline.observability.metrics import UNITS
from bucketline.service_context import ServiceContext
from bucketline_batcher.planner import Planner
from bucketline_batcher.publisher import BatchPublisher, Trace
from bucketline_batcher.settings import BatcherSettings

MAX_ERROR = 500


@dataclass(frozen=True)
class Completion:
    """The end of a batch: its final status and the fields to store."""

    batch: BatchDocument
    status: Status
    changes: Mapping[str, object]
    failed: int
    documents: int


def finish_explicit(batch: BatchDocument, tally: Tally, failures: Sequence[FailedObject], now: datetime) -> Completion:
    """Return the end of a batch without open units.

    Objects that are in no unit have been deleted: they are ``missing`` and do not count as failures. Objects that an
    earlier turn returned to draft, and that a retry leaves alone, count as neither.
    """
    base = batch.get("base")
    totals = _totals(batch, tally)
    failed = totals["failed"]
    given_back = base.get("given_back", 0) if base else 0
    missing = max(0, batch["total"] - tally.objects - (base["finished"] if base else 0) - given_back)
    canceled = batch.get("cancel_requested_at") is not None
    status = Status.CANCELED if canceled else batch_outcome(batch["total"] - missing - given_back, failed)
    changes = {
        **totals,
        "missing": missing,
        "failed_objects": list(failures),
        "first_error": failures[0]["error"][:MAX_ERROR] if failures else None,
        **_reason(status, failures[0]["error"] if failures else None),
    }
    return _completion(batch, status, changes, failed, totals["documents_written"], now)


def finish_auto(batch: BatchDocument, result: Result, now: datetime) -> Completion:
    """Return the end of the batch of one ``auto_process`` object."""
    given_back = result["status"] == Status.DRAFT
    failed = int(result["status"] in FAILURES)
    status = Status(result["status"])
    if status is Status.SKIPPED:
        status = Status.COMPLETED
    if given_back:
        status = Status.CANCELED
    object_id = batch["objects"][0]
    changes = {
        "processed": int(not given_back),
        "failed": failed,
        "documents_written": written(result),
        "failed_objects": [failed_row(object_id, result, now)] if failed else [],
        "first_error": (result["error"] or "")[:MAX_ERROR] or None,
        **_reason(status, result["error"]),
    }
    return _completion(batch, status, changes, failed, written(result), now)


def finish_superseded(batch: BatchDocument, now: datetime, *, deleted: bool) -> Completion:
    """Return the end of an automatic batch whose object was deleted or went on without it."""
    reason = "the object was deleted" if deleted else "the object was changed, or is processed in another batch"
    changes = {"processed": 0, "failed": 0, "missing": 1, "failure_reason": f"{reason} before it was processed"}
    return _completion(batch, Status.CANCELED, changes, 0, 0, now)


def _totals(batch: BatchDocument, tally: Tally) -> dict[str, int]:
    """Return the sums of the turn on top of those of earlier turns, which a retry leaves alone."""
    base = batch.get("base")
    return {
        "processed": tally.finished + (base["finished"] if base else 0),
        "failed": tally.failed + (base["failed"] if base else 0),
        "documents_written": tally.documents + (base["documents"] if base else 0),
    }


def _reason(status: Status, first_error: str | None) -> dict[str, object]:
    if status is not Status.FAILED:
        return {"failure_reason": None, "failure_category": None}
    reason = f"every object failed; the first: {first_error}" if first_error else "every object failed"
    return {"failure_reason": reason[:MAX_ERROR], "failure_category": "pipeline"}


def _completion(
    batch: BatchDocument, status: Status, changes: Mapping[str, object], failed: int, documents: int, now: datetime
) -> Completion:
    shared: dict[str, object] = {"status": str(status), "completed_at": now, "updated_at": now, "moved_at": now}
    if url := batch.get("webhook_url"):
        shared["webhook"] = {"due_at": now, "host": webhook_host(url)}
    return Completion(batch, status, {**changes, **shared}, failed, documents)


TALLY_SHARE = 20
"""Counting the units of a batch may take at most one part in so many of the time."""

MAX_REMEMBERED = 10_000


class BatchProgressTracker:
    """Records results, updates the progress of batches and finishes them."""

    def __init__(
        self,
        context: ServiceContext,
        planner: Planner,
        outbox: Outbox,
        publisher: BatchPublisher,
        settings: BatcherSettings,
    ) -> None:
        self._context = context
        self._planner = planner
        self._outbox = outbox
        self._publisher = publisher
        self._settings = settings
        self._next_tally: dict[str, float] = {}

    async def apply_results(self, records: Sequence[ReceivedEvent[ObjectStatusChanged]]) -> None:
        """Record final statuses."""
        results: dict[str, dict[int, Result]] = {}
        traces: dict[str, Trace] = {}
        for record in records:
            event = record.event
            if event.unit_id is None or event.item_index is None:
                continue
            results.setdefault(event.unit_id, {}).setdefault(event.item_index, _result(event))
            traces[event.object_id] = record.trace
        if not results:
            return
        now = self._context.clock.now()
        await self._planner.units.record(results, now=now)
        units = await self._planner.units.get_many(list(results), fields=["batch_id", "turn", "state"])
        done = [unit for unit in units.values() if unit["state"] == "done"]
        UNITS.labels("done").inc(len(done))
        if automatic := [unit["_id"] for unit in units.values() if unit["batch_id"] is None]:
            await self._finish_automatic(automatic, results, traces)
        ended = {unit["batch_id"] for unit in done}
        for batch_id in {unit["batch_id"] for unit in units.values()} - {None}:
            await self.update(str(batch_id), at_once=batch_id in ended)

    async def update(self, batch_id: str, *, at_once: bool = True) -> None:
        """Update an explicit batch's progress, release its held units, and finish it if no unit is open.

        Without ``at_once`` nothing happens if the last update was recent.
        """
        if not at_once and time.monotonic() < self._next_tally.get(batch_id, 0.0):
            return
        batch = await self._planner.batches.get(batch_id, fields=SUMMARY_FIELDS)
        if batch is None or batch["status"] not in BATCH_ACTIVE or batch["auto"]:
            self._next_tally.pop(batch_id, None)
            return
        busy = await self._release_blocked(batch)
        if busy and time.monotonic() < self._next_tally.get(batch_id, 0.0):
            return
        # Before the tally: a dependency is removed after its unit is stored, so the tally then sees every unit.
        complete = bool(batch.get("planned")) and not await self._planner.waiting.exist_for(batch_id)
        tally = await self._tally(batch)
        if complete and not tally.held and not tally.open:
            await self._finish(batch, tally)

    async def finish_auto_batches(self, batches: Sequence[BatchDocument]) -> None:
        """Finish automatic batches whose item has a result, or whose object was deleted or went on without them."""
        now = self._context.clock.now()
        ids = [batch["_id"] for batch in batches]
        units = await self._planner.units.of_batches(ids)
        results = {
            item["batch_id"]: unit["results"].get(str(n)) for unit in units for n, item in enumerate(unit["items"])
        }
        lost = [batch for batch in batches if batch["_id"] not in results]
        objects = await self._planner.objects.get_many([_object_of(batch) for batch in lost], fields=["batch_id"])
        ends = [
            finish_auto(batch, result, now) for batch in batches if (result := results.get(batch["_id"])) is not None
        ]
        for batch in lost:
            obj = objects.get(_object_of(batch))
            if obj is None or obj.get("batch_id") != batch["_id"]:
                ends.append(finish_superseded(batch, now, deleted=obj is None))
        await self._complete(ends, now, {})

    async def _release_blocked(self, batch: BatchDocument) -> bool:
        """Make held units ready up to the limit, and return whether any unit of the turn is open."""
        units, turn, most = self._planner.units, batch.get("run", 1), self._settings.max_active_units
        taken = await units.count(batch["_id"], turn, ("ready", "leased"), limit=most)
        released: list[WorkUnitDocument] = []
        if taken < most and not batch.get("cancel_requested_at"):
            now = self._context.clock.now()
            released = await units.release_held(batch["_id"], turn, most - taken, now)
            await self._publisher.publish_ready(released)
        return bool(taken or released) or await units.count(batch["_id"], turn, (*OPEN_STATES, "held"), limit=1) > 0

    async def _tally(self, batch: BatchDocument) -> Tally:
        """Count the units of the turn and store the progress, which never goes back."""
        began = time.monotonic()
        turn = batch.get("run", 1)
        tally = await self._planner.units.tally(batch["_id"], turn)
        now = self._context.clock.now()
        first_error: dict[str, object] = {}
        if tally.failed and not batch.get("first_error"):
            failures = await self._failures(batch, now, 1)
            first_error = {"first_error": failures[0]["error"][:MAX_ERROR] if failures else None}
        await self._planner.batches.record_progress(batch["_id"], turn, _totals(batch, tally), first_error, now)
        if len(self._next_tally) >= MAX_REMEMBERED:
            self._next_tally.clear()
        ended = time.monotonic()
        self._next_tally[batch["_id"]] = ended + max(
            self._settings.progress_refresh_seconds, TALLY_SHARE * (ended - began)
        )
        return tally

    async def _finish(self, batch: BatchDocument, tally: Tally) -> None:
        now = self._context.clock.now()
        failures = await self._failures(batch, now, self._settings.max_failed_objects)
        await self._complete([finish_explicit(batch, tally, failures, now)], now, {})
        self._next_tally.pop(batch["_id"], None)

    async def _finish_automatic(
        self, unit_ids: Sequence[str], results: Mapping[str, Mapping[int, Result]], traces: Mapping[str, Trace]
    ) -> None:
        """Finish the batches of ``auto_process`` objects in one round trip."""
        now = self._context.clock.now()
        ends: dict[str, tuple[str, Result]] = {}
        for unit in (await self._planner.units.get_many(unit_ids, fields=["items", "results"])).values():
            for index in results[unit["_id"]]:
                # The recorded status counts, which may be an earlier one than that of this event.
                recorded = unit["results"].get(str(index))
                if recorded is not None and index < len(unit["items"]):
                    ends[unit["items"][index]["batch_id"]] = (unit["_id"], recorded)
        batches = await self._planner.batches.get_many(list(ends))
        rows = [
            finish_auto(batch, ends[batch_id][1], now)
            for batch_id, batch in batches.items()
            if batch["auto"] and batch["status"] in BATCH_ACTIVE
        ]
        await self._complete(rows, now, traces)

    async def _complete(self, rows: Sequence[Completion], now: datetime, traces: Mapping[str, Trace]) -> None:
        writes: list[tuple[BatchDocument, Mapping[str, object], Mapping[str, object]]] = []
        entries = []
        for row in rows:
            batch = row.batch
            event = BatchCompleted(
                batch_id=batch["_id"],
                bucket_id=batch["bucket_id"],
                namespace_id=batch["namespace_id"],
                status=row.status,
                object_count=batch["total"],
                failed_count=row.failed,
                documents_written=row.documents,
                completed_at=now,
            )
            trace = batch.get("trace") or (traces.get(_object_of(batch)) if batch["auto"] else None)
            pending = self._context.new_event(event, trace=trace).to_document()
            writes.append((batch, row.changes, pending))
            entries.append(outbox_entry_of({"_id": batch["_id"], "pending": [*batch.get("pending", []), pending]}))
        if await self._planner.batches.complete(writes, now) == len(writes):
            self._outbox.enqueue(entries)
        # Otherwise another replica has finished some of them, and the reconciler publishes their events.

    async def _failures(self, batch: BatchDocument, now: datetime, most: int) -> list[FailedObject]:
        """Return rows for ``failed_objects``: of this turn, then of objects that the retry left alone."""
        units = await self._planner.units.find_failures(batch["_id"], batch.get("run", 1), limit=most)
        rows = [
            failed_row(unit["items"][int(index)]["object_id"], result, now)
            for unit in units
            for index, result in sorted(unit["results"].items(), key=lambda row: int(row[0]))  # not by arrival
            if result["status"] in FAILURES
        ]
        base = batch.get("base")
        return [*rows, *(base["failed_objects"] if base else [])][:most]


def _object_of(batch: BatchDocument) -> str:
    """Return the id of the object of an automatic batch."""
    return batch["objects"][0]


def _result(event: ObjectStatusChanged) -> Result:
    result: Result = {
        "status": str(event.status),
        "documents": event.documents_total,
        "error": event.error,
        "error_type": event.error_type,
        "at": event.occurred_at,
    }
    if event.documents_written is not None:
        result["written"] = event.documents_written
    return result
