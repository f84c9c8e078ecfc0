"""Publishes the batcher's events. They are not in an outbox: if one is lost, the reconciler publishes it again.

The event of an object belongs to the trace of that object or, if it has none, to the trace of its batch.
"""

from collections.abc import Mapping, Sequence

from bucketline.db.objects import Objects
from bucketline.db.work_units import Item, WorkUnitDocument
from bucketline.domain.status import RANK_FINAL, RANK_QUEUED, Status
from bucketline.events.models import ObjectStatusChanged, WorkUnitReady
from bucketline.observability.tracing import Attribute, start_shared_span
from bucketline.service_context import ServiceContext

Trace = Mapping[str, str]

PAGE_SIZE = 1000


class BatchPublisher:
    """Publishes ready work units, and statuses of objects that no processor works on."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._objects = Objects(context.database)

    async def publish_ready(
        self, units: Sequence[WorkUnitDocument], traces: Mapping[str, Trace] | None = None, trace: Trace | None = None
    ) -> None:
        """Announce units that are ready. ``traces`` maps objects to their traces; ``trace`` is the batch's."""
        events = []
        for unit in units:
            cause = trace or unit.get("trace")
            # A unit that is released later comes without its items and without traces.
            items = unit["items"] if traces else []
            joined = [found for item in items if traces and (found := traces.get(item["object_id"]))]
            attributes: dict[str, Attribute] = {"bucketline.unit_id": unit["_id"], "bucketline.unit_size": unit["size"]}
            with start_shared_span("plan unit", [cause, *joined], attributes=attributes) as span:
                event = WorkUnitReady(unit_id=unit["_id"], size=unit["size"])
                events.append(self._context.new_event(event, trace=span or cause or next(iter(joined), None)))
        if events:
            await self._context.kafka.publisher.publish(events)

    async def publish_queued(self, items: Sequence[Item], traces: Mapping[str, Trace], trace: Trace | None) -> None:
        """Publish that objects of a submitted batch are queued. ``traces`` maps objects to their traces."""
        now = self._context.clock.now()
        fields = {"sequence": RANK_QUEUED, "status": Status.QUEUED, "occurred_at": now}
        events = [ObjectStatusChanged.model_validate({**item, **fields, "run_id": item["run"]}) for item in items]
        await self._publish([(event, traces.get(event.object_id, trace)) for event in events])

    async def publish_final(self, units: Sequence[WorkUnitDocument], *, only: str | None = None) -> int:
        """Publish the final status of items without a result in canceled units, and return how many there were.

        ``only`` restricts it to the items of one batch in a unit that other batches still need. The statuses come back
        to this service like those of a processor; of two final statuses of an item the first one counts.
        """
        now = self._context.clock.now()
        rows: list[tuple[ObjectStatusChanged, Trace | None]] = []
        for unit in units:
            ending = unit.get("ending") or {"status": str(Status.DRAFT), "error": None, "error_type": None}
            for index, item in enumerate(unit["items"]):
                if str(index) in unit["results"] or only not in (None, item["batch_id"]):
                    continue
                fields = {
                    "unit_id": unit["_id"],
                    "item_index": index,
                    "run_id": item["run"],
                    "sequence": RANK_FINAL,
                    "attempt_number": max(1, unit["attempts"]),
                    "occurred_at": now,
                }
                event = ObjectStatusChanged.model_validate({**item, **ending, **fields})
                rows.append((event, unit.get("trace")))
        for start in range(0, len(rows), PAGE_SIZE):
            page = rows[start : start + PAGE_SIZE]
            objects = await self._objects.get_many([event.object_id for event, _ in page], fields=["trace"])
            traces = {object_id: obj["trace"] for object_id, obj in objects.items() if "trace" in obj}
            await self._publish([(event, traces.get(event.object_id, trace)) for event, trace in page])
        return len(rows)

    async def _publish(self, rows: Sequence[tuple[ObjectStatusChanged, Trace | None]]) -> None:
        if rows:
            events = [self._context.new_event(event, trace=trace) for event, trace in rows]
            await self._context.kafka.publisher.publish(events)
