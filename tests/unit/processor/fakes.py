"""A processor in memory: the real service, leases and isolation, with fake objects, extractions and completion."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
from tests.fakes.publisher import RecordingPublisher
from tests.unit.processor.factories import an_object
from tests.unit.processor.fake_units import StoredUnits

from bucketline.clock import ManualClock
from bucketline.domain.status import Status
from bucketline.errors import DependencyUnavailable
from bucketline.events.cloudevents import encode_event
from bucketline_processor.completion import ObjectResult
from bucketline_processor.extraction import ExtractionJob, ExtractionOutcome
from bucketline_processor.isolation import Isolation
from bucketline_processor.leases import Leases
from bucketline_processor.service import UnitProcessor
from bucketline_processor.settings import ProcessorSettings

Behavior = Callable[[ExtractionJob], Awaitable[ExtractionOutcome]]


async def completed(_: ExtractionJob) -> ExtractionOutcome:
    return ExtractionOutcome(Status.COMPLETED, count=1)


class StoredObjects:
    """Objects in memory. ``reads`` are the ids of each read; reads of ``failing`` ids fail."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.reads: list[list[str]] = []
        self.failing: set[str] = set()

    def add(self, object_id: str, **changes: Any) -> None:
        self.rows[object_id] = an_object(_id=object_id, **changes)

    async def get_many(self, ids: Sequence[str], *, fields: Sequence[str] | None = None) -> dict[str, Any]:
        self.reads.append(list(ids))
        if self.failing.intersection(ids):
            raise DependencyUnavailable("unavailable")
        found = {oid: self.rows[oid] for oid in ids if oid in self.rows}
        if fields is not None:
            found = {oid: {name: row[name] for name in ("_id", *fields) if name in row} for oid, row in found.items()}
        return found

    async def get_by_id(self, object_id: str) -> Any:
        return self.rows.get(object_id)

    async def document_sizes(self, ids: Sequence[str]) -> dict[str, int]:
        return {oid: self.sizes.get(oid, 100) for oid in ids if oid in self.rows}


class Extractions:
    """Runs the behavior that a test sets for an object; records order, counts and concurrency."""

    def __init__(self) -> None:
        self.behaviors: dict[str, Behavior] = {}
        self.runs: Counter[str] = Counter()
        self.order: list[str] = []
        self.running: set[str] = set()
        self.most_at_once = 0

    async def run(self, task: ExtractionJob) -> ExtractionOutcome:
        object_id = task.obj["_id"]
        self.runs[object_id] += 1
        self.order.append(object_id)
        self.running.add(object_id)
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            await asyncio.sleep(0)
            return await self.behaviors.get(object_id, completed)(task)
        finally:
            self.running.discard(object_id)


class RecordedResults:
    """Records the results of objects; the next ``failures`` calls fail."""

    def __init__(self) -> None:
        self.results: list[ObjectResult] = []
        self.failures = 0

    async def finish(self, finished: ObjectResult) -> None:
        if self.failures:
            self.failures -= 1
            raise DependencyUnavailable("unavailable")
        self.results.append(finished)

    def outcomes(self) -> dict[str, ExtractionOutcome]:
        """Return the first outcome of each object."""
        return {finished.object_id: finished.outcome for finished in reversed(self.results)}

    def statuses(self) -> dict[str, str]:
        return {object_id: str(outcome.status) for object_id, outcome in self.outcomes().items()}


class Processor:
    """One processor. Several may share units, objects and completion."""

    def __init__(
        self,
        *,
        owner: str = "p1",
        units: StoredUnits | None = None,
        objects: StoredObjects | None = None,
        completion: RecordedResults | None = None,
        **settings: Any,
    ) -> None:
        self.units = units or StoredUnits(ManualClock())
        self.clock = self.units.clock
        self.objects = objects or StoredObjects()
        self.extractions = Extractions()
        self.completion = completion or RecordedResults()
        self.publisher = RecordingPublisher()
        self.owner = owner
        units_repository: Any = self.units
        self.leases = Leases(units_repository, owner, clock=self.clock, seconds=30)
        self.isolation = Isolation(units_repository, self.leases)
        runtime: Any = SimpleNamespace(
            clock=self.clock,
            kafka=SimpleNamespace(publisher=self.publisher),
            new_event=lambda event, trace: encode_event(
                event, id="evt_1", source="/test", at=self.clock.now(), trace=trace
            ),
        )
        parts: Any = (
            runtime,
            self.objects,
            self.extractions,
            self.completion,
            self.isolation,
            ProcessorSettings(**settings),
        )
        self.service = UnitProcessor(*parts)

    def unit(self, count: int, unit_id: str = "unit_1", *, prefix: str = "obj", **changes: Any) -> str:
        """Add a ready unit of ``count`` objects, ``<prefix>_0`` and on."""
        ids = [f"{prefix}_{number}" for number in range(count)]
        for object_id in ids:
            self.objects.add(object_id)
        self.units.add(unit_id, **{**a_unit(ids), **changes})
        return unit_id

    async def work(self, unit_id: str = "unit_1") -> bool:
        """Lease and process the unit; return whether it was finished."""
        async with self.isolation.shared():
            unit = await self.leases.acquire(unit_id)
        assert unit is not None
        return await self.service.run(unit, {})

    def started(self) -> list[str]:
        """Return the objects for which PROCESSING was published."""
        events = [orjson.loads(envelope.data) for envelope in self.publisher.published]
        return [event["object_id"] for event in events if event["status"] == "PROCESSING"]


def a_unit(ids: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a unit of these objects."""
    item = {"bucket_id": "bkt_1", "namespace_id": "ns_1", "batch_id": "btch_1", "revision": 1, "run": 1, "turn": 1}
    return {
        "items": [{"object_id": object_id, **item} for object_id in ids],
        "size": len(ids),
        "results": {},
        "collection_ids": None,
        "dedup_strategy": "skip",
    }


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)
