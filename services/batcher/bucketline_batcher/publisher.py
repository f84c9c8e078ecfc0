"""What the batcher says on the bus. State does not owe these events: losing one costs time, not truth.

What is said of an object is part of the trace that it came with; of one that came without, of its batch's.
"""

from collections.abc import Mapping, Sequence

from bucketline.db.objects import Objects
from bucketline.db.work_units import Item, WorkUnitDocument
from bucketline.domain.status import RANK_FINAL, RANK_QUEUED, Status
from bucketline.events.models import ObjectStatusChanged, WorkUnitReady
from bucketline.observability.tracing import Attribute, start_shared_span
from bucketline.service_context import ServiceContext

Trace = Mapping[str, str]

PAGE = 1000
"""Statuses that are said at once."""


class BatchPublisher:
    """Wakes processors, and says what becomes of objects that no processor works on."""

    def __init__(self, runtime: ServiceContext) -> None:
        self._runtime = runtime
        self._objects = Objects(runtime.database)

    async def publish_ready(
        self, units: Sequence[WorkUnitDocument], traces: Mapping[str, Trace] | None = None, trace: Trace | None = None
    ) -> None:
        """Tells the processors of units that are ready. ``traces`` maps objects to the trace that they are part of."""
        known = traces or {}
        envelopes = []
        for unit in units:
            cause = trace or unit.get("trace")
            # A unit that is let go later comes without its items, and nobody knows a trace then.
            items = unit["items"] if known else []
            joined = [found for item in items if (found := known.get(item["object_id"]))]
            # A unit takes objects of several traces: it is part of one, and linked to the others.
            about: dict[str, Attribute] = {"bucketline.unit_id": unit["_id"], "bucketline.unit_size": unit["size"]}
            with start_shared_span("plan unit", [cause, *joined], attributes=about) as own:
                sealed = own or cause or next(iter(joined), None)
                envelopes.append(
                    self._runtime.new_event(WorkUnitReady(unit_id=unit["_id"], size=unit["size"]), trace=sealed)
                )
        if envelopes:
            await self._runtime.kafka.publisher.publish(envelopes)

    async def publish_queued(self, items: Sequence[Item], traces: Mapping[str, Trace], trace: Trace | None) -> None:
        """These objects are in a submitted batch. ``traces`` maps objects to the trace that they are part of."""
        now = self._runtime.clock.now()
        events = [
            ObjectStatusChanged.model_validate(
                {**item, "run_id": item["run"], "sequence": RANK_QUEUED, "status": Status.QUEUED, "occurred_at": now}
            )
            for item in items
        ]
        await self._say([(event, traces.get(event.object_id, trace)) for event in events])

    async def publish_final(self, units: Sequence[WorkUnitDocument], *, only: str | None = None) -> int:
        """The ends of what is left in units that were given up; returns how many.

        ``only`` restricts it to the items of one batch, in a unit that others go on with: DRAFT then. These statuses
        come back to this service like those of a processor, and of two final ones of an item the first counts, here and
        on the object.
        """
        now = self._runtime.clock.now()
        told: list[tuple[ObjectStatusChanged, Trace | None]] = []
        for unit in units:
            ending = unit.get("ending") or {"status": str(Status.DRAFT), "error": None, "error_type": None}
            for place, item in enumerate(unit["items"]):
                if str(place) in unit["results"] or only not in (None, item["batch_id"]):
                    continue
                event = ObjectStatusChanged.model_validate(
                    {
                        **item,
                        **ending,
                        "unit_id": unit["_id"],
                        "item_index": place,
                        "run_id": item["run"],
                        "sequence": RANK_FINAL,
                        "attempt_number": max(1, unit["attempts"]),
                        "occurred_at": now,
                    }
                )
                told.append((event, unit.get("trace")))
        for start in range(0, len(told), PAGE):
            page = told[start : start + PAGE]
            known = await self._objects.get_many([event.object_id for event, _ in page], fields=["trace"])
            own = {object_id: found["trace"] for object_id, found in known.items() if "trace" in found}
            await self._say([(event, own.get(event.object_id, trace)) for event, trace in page])
        return len(told)

    async def _say(self, told: Sequence[tuple[ObjectStatusChanged, Trace | None]]) -> None:
        """Each with the trace that it is part of."""
        if told:
            await self._runtime.kafka.publisher.publish(
                [self._runtime.new_event(event, trace=trace) for event, trace in told]
            )
