"""From status changes to finished batches.

The first final status of an item is recorded in its unit, so a batch counts distinct objects however often a status
arrives. A batch is finished by compare-and-set, and its ``batch.completed`` event is written with that.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pymongo import UpdateOne

from batcher.planning import Planner
from batcher.settings import BatcherSettings
from bucketline.domain.status import BATCH_ACTIVE, FAILURES, RANK_FINAL, Status, batch_outcome
from bucketline.events.catalog import BatchCompleted, ObjectStatusChanged
from bucketline.events.envelope import Received
from bucketline.messaging.outbox import Outbox
from bucketline.runtime import Runtime
from bucketline.storage.batches import BatchDocument, FailedObject, Result, Tally
from bucketline.storage.pending import owing
from bucketline.telemetry.metrics import UNITS

_ACTIVE = [str(status) for status in BATCH_ACTIVE]

Completion = tuple[BatchDocument, Status, Mapping[str, object], Tally]
"""A batch, its outcome, the fields that say so, and its sums."""


class Progress:
    """Records results, shows progress and finishes batches."""

    def __init__(self, runtime: Runtime, planner: Planner, outbox: Outbox, settings: BatcherSettings) -> None:
        self._runtime = runtime
        self._planner = planner
        self._outbox = outbox
        self._settings = settings
        self._refreshed: dict[str, datetime] = {}

    async def record(self, records: Sequence[Received]) -> None:
        """Takes final statuses in; the others say nothing about progress."""
        final = [
            event
            for record in records
            if isinstance(event := record.event, ObjectStatusChanged)
            and event.rank == RANK_FINAL
            and event.unit_id is not None
            and event.index is not None
        ]
        if not final:
            return
        now = self._runtime.clock.now()
        results: dict[str, dict[int, Result]] = {}
        for event in final:
            rows = results.setdefault(str(event.unit_id), {})
            rows.setdefault(int(event.index or 0), _result(event))
        await self._planner.units.record(results, now=now)
        units = await self._planner.units.many(list(results))
        traces = {
            event.object_id: record.trace
            for record in records
            if isinstance(event := record.event, ObjectStatusChanged)
        }
        await self._finish_autos(
            [e for e in final if (unit := units.get(str(e.unit_id))) and unit["batch_id"] is None], traces
        )
        batch_ids = {unit["batch_id"] for unit in units.values() if unit["batch_id"] is not None}
        ended = {unit["batch_id"] for unit in units.values() if unit["state"] == "done"}
        UNITS.labels("done").inc(sum(1 for unit in units.values() if unit["state"] == "done"))
        for batch_id in batch_ids:
            await self.refresh(batch_id, at_once=batch_id in ended)

    async def refresh(self, batch_id: str, *, at_once: bool = True) -> None:
        """Brings an explicit batch's progress up to date, lets its next units go, and finishes it when all is done."""
        now = self._runtime.clock.now()
        last = self._refreshed.get(batch_id)
        if not at_once and last is not None and (now - last).total_seconds() < self._settings.refresh_seconds:
            return
        tally = await self._planner.units.tally(batch_id)
        if tally.held and tally.open < self._settings.unit_window:
            ready = await self._planner.units.release_held(batch_id, self._settings.unit_window - tally.open, now)
            await self._planner.wake(ready, {})
        batch = await self._planner.batches.collection.find_and_update(
            {"_id": batch_id, "status": {"$in": _ACTIVE}},
            {
                "$set": {
                    "processed": tally.finished,
                    "failed": tally.failed,
                    "documents_written": tally.documents,
                    "moved_at": now,
                    "updated_at": now,
                }
            },
        )
        self._refreshed[batch_id] = now
        if batch is None:
            self._refreshed.pop(batch_id, None)
        elif batch.get("planned") and not tally.held and not tally.open:
            await self._finish(batch, tally, now)

    async def settle_auto(self, batch: BatchDocument) -> None:
        """Finishes the batch of one ``auto_process`` object whose unit has its result, or whose object is gone."""
        now = self._runtime.clock.now()
        unit = await self._planner.units.collection.find_one({"items.batch_id": batch["_id"]})
        if unit is None:
            if await self._planner.objects.collection.get(batch["objects"][0]) is None:
                changes: dict[str, object] = {"status": str(Status.CANCELED), "completed_at": now, "updated_at": now}
                await self._complete([(batch, Status.CANCELED, changes, Tally(0, 0, 0, 0, 0))], now, {})
            return
        place = next(i for i, item in enumerate(unit["items"]) if item["batch_id"] == batch["_id"])
        result = unit["results"].get(str(place))
        if result is not None:
            await self._complete([_auto_row(batch, batch["objects"][0], result, now)], now, {})

    async def _finish(self, batch: BatchDocument, tally: Tally, now: datetime) -> None:
        if await self._planner.waiting.count(batch["_id"]):
            return
        canceled = batch.get("cancel_requested_at") is not None
        total = batch["total"] - batch.get("missing", 0)
        if not canceled and tally.finished < total:
            return
        status = Status.CANCELED if canceled else batch_outcome(total, tally.failed)
        failures = await self._failures(batch["_id"], now)
        changes: dict[str, object] = {
            "status": str(status),
            "processed": tally.finished,
            "failed": tally.failed,
            "documents_written": tally.documents,
            "failed_objects": failures,
            "first_error": failures[0]["error"] if failures else None,
            "completed_at": now,
            "updated_at": now,
        }
        if status is Status.FAILED:
            changes |= {"failure_reason": "every object failed", "failure_category": "pipeline"}
        await self._complete([(batch, status, changes, tally)], now, {})
        self._refreshed.pop(batch["_id"], None)

    async def _finish_autos(
        self, events: Sequence[ObjectStatusChanged], traces: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Finishes the batches of ``auto_process`` objects, all in one round trip."""
        batches = await self._planner.batches.many([e.batch_id for e in events if e.batch_id])
        now = self._runtime.clock.now()
        rows = [
            _auto_row(batch, event.object_id, _result(event), now)
            for event in events
            if (batch := batches.get(event.batch_id or "")) is not None and batch["status"] in _ACTIVE
        ]
        await self._complete(rows, now, traces)

    async def _complete(
        self,
        rows: Sequence[Completion],
        now: datetime,
        traces: Mapping[str, Mapping[str, str]],
    ) -> None:
        writes = []
        owed = []
        for batch, status, changes, tally in rows:
            event = BatchCompleted(
                batch_id=batch["_id"],
                bucket_id=batch["bucket_id"],
                namespace_id=batch["namespace_id"],
                status=status,
                object_count=batch["total"],
                failed_count=tally.failed,
                documents_written=tally.documents,
                completed_at=now,
            )
            pending = self._runtime.seal(event, trace=traces.get(batch["objects"][0])).to_document()
            where = {"_id": batch["_id"], "status": {"$in": _ACTIVE}}
            writes.append(
                UpdateOne(where, {"$set": changes, "$push": {"pending": pending}, "$min": {"pending_since": now}})
            )
            owed.append(owing({"_id": batch["_id"], "pending": [*batch.get("pending", []), pending]}))
        outcome = await self._planner.batches.collection.bulk(writes)
        if outcome.modified == len(writes):
            self._outbox.flush_soon(owed)
        # Otherwise another replica finished some of them; what is owed is published from state by the sweeper.

    async def _failures(self, batch_id: str, now: datetime) -> list[FailedObject]:
        most = self._settings.failed_objects_shown
        units = await self._planner.units.failures(batch_id, limit=most)
        rows = [
            _failed(unit["items"][int(place)]["object_id"], result, now)
            for unit in units
            for place, result in unit["results"].items()
            if result["status"] in FAILURES
        ]
        return rows[:most]


def _result(event: ObjectStatusChanged) -> Result:
    return {
        "status": str(event.status),
        "documents": event.document_count,
        "error": event.error,
        "error_type": event.error_type,
    }


def _auto_row(batch: BatchDocument, object_id: str, result: Result, now: datetime) -> Completion:
    failed = result["status"] in FAILURES
    status = Status(result["status"])
    if status is Status.SKIPPED:
        status = Status.COMPLETED
    changes: dict[str, object] = {
        "status": str(status),
        "processed": 1,
        "failed": int(failed),
        "documents_written": result["documents"],
        "failed_objects": [_failed(object_id, result, now)] if failed else [],
        "first_error": result["error"],
        "completed_at": now,
        "updated_at": now,
    }
    if status is Status.FAILED:
        changes |= {"failure_reason": "every object failed", "failure_category": "pipeline"}
    return batch, status, changes, Tally(0, 0, 1, int(failed), result["documents"])


def _failed(object_id: str, result: Result, now: datetime) -> FailedObject:
    kind = result["error_type"]
    return {
        "object_id": object_id,
        "error": result["error"] or "failed",
        "error_type": "transient" if kind == "transient" else "resource" if kind == "resource" else "permanent",
        "timestamp": now,
    }
