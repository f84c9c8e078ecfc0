"""The batcher in this process, on the real MongoDB: replicas at will, time by hand, deaths at any write.

The bus is a list that tests deliver from, in whatever order they like; processors and the ingest API are played.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import pytest
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.clock import Clock, ManualClock, millis
from bucketline.db.batches import Batches, task_of
from bucketline.db.mongo import Collection, Database
from bucketline.db.objects import ObjectDocument, Objects
from bucketline.db.work_units import WorkUnitDocument, WorkUnits
from bucketline.domain.status import RANK_FINAL, RANK_PROCESSING, Status
from bucketline.events.cloudevents import CloudEvent, ReceivedEvent, decode_event
from bucketline.events.models import Event, ObjectMirrored, ObjectStatusChanged, WorkUnitReady
from bucketline.ids import RandomIds
from bucketline.kafka.broker import KafkaRuntime
from bucketline.kafka.outbox import Outbox
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext
from bucketline.settings import read_settings
from bucketline_batcher.app import Batcher
from bucketline_batcher.settings import BatcherSettings
from bucketline_batcher.subscribers import count_progress, plan_mirrored_objects, plan_submitted_batches

E = TypeVar("E", bound=Event)

Outcome = tuple[Status, int, str | None]
"""Status, documents, kind of error."""

WRITES = ("insert", "update_one", "update_many", "find_and_update", "delete_one", "delete_many", "bulk")

GOOD: Outcome = (Status.COMPLETED, 1, None)


async def on_mirrored(records: Sequence[ReceivedEvent[Any]], batcher: Batcher) -> None:
    await plan_mirrored_objects(records, batcher.service)


async def on_batches(records: Sequence[ReceivedEvent[Any]], batcher: Batcher) -> None:
    await plan_submitted_batches(records, batcher.service)


async def on_status(records: Sequence[ReceivedEvent[Any]], batcher: Batcher) -> None:
    await count_progress(records, batcher.service)


class ListBus:
    """A bus that keeps what it is given."""

    def __init__(self) -> None:
        self.envelopes: list[CloudEvent] = []
        self.publisher = self

    async def publish(self, envelopes: Sequence[CloudEvent]) -> None:
        self.envelopes += envelopes

    def take(self, kind: type[Event]) -> list[ReceivedEvent]:
        """Events of a kind that were said and not taken yet, in their order."""
        taken = [envelope for envelope in self.envelopes if envelope.type == kind.type]
        self.envelopes = [envelope for envelope in self.envelopes if envelope.type != kind.type]
        return [decode_event(envelope.data, envelope.headers()) for envelope in taken]


class SkewedClock:
    """A replica's clock, some seconds off."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self._clock = clock
        self._skew = timedelta(seconds=seconds)

    def now(self) -> Any:
        return self._clock.now() + self._skew


class Killed(BaseException):
    """The death of a replica: nothing of it may catch this."""


MORTAL: ContextVar[bool] = ContextVar("mortal", default=True)
"""Whether the replica that this task plays may be killed; a task that outlives another one unsets it."""


@contextmanager
def dying(at: int, *, after: bool) -> Iterator[Callable[[], int]]:
    """Kills whoever makes the ``at``-th write, before or after it took effect; tells how many writes there were."""
    seen = 0

    def deadly(method: Any) -> Any:
        async def wrapper(self: Collection[Any], *args: Any, **options: Any) -> Any:
            nonlocal seen
            if not MORTAL.get():
                return await method(self, *args, **options)
            seen += 1
            mine = seen == at
            if mine and not after:
                raise Killed
            result = await method(self, *args, **options)
            if mine:
                raise Killed
            return result

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(Collection, name, deadly(getattr(Collection, name)))
        yield lambda: seen


@dataclass
class World:
    """A database, a bus, a clock, and as many replicas on them as a test wants."""

    database: Database
    clock: ManualClock
    bus: ListBus = field(default_factory=ListBus)

    def __post_init__(self) -> None:
        self.objects = Objects(self.database)
        self.batches = Batches(self.database)
        self.units = WorkUnits(self.database)
        self.ids = RandomIds()

    def runtime(self, clock: Clock | None = None) -> ServiceContext:
        return ServiceContext(
            settings=read_settings("batcher"),
            database=self.database,
            kafka=cast("KafkaRuntime", self.bus),
            blobs=MemoryBlobStore(),
            health=Health(),
            clock=clock or self.clock,
        )

    def replica(self, *, skew: float = 0.0, **settings: object) -> Batcher:
        """One batcher process."""
        own = BatcherSettings.model_validate({"progress_refresh_seconds": 0.001, **settings})
        runtime = self.runtime(SkewedClock(self.clock, skew))
        outbox = Outbox(
            "batches",
            self.batches.outbox,
            cast("Any", self.bus),
            clock=runtime.clock,
            settings=runtime.settings.reconcile,
        )
        return Batcher(runtime, own, outbox)

    async def bucket(self, **policy: object) -> str:
        """A bucket, with a batching policy if one is given."""
        bucket_id = self.ids.new("bkt")
        now = self.clock.now()
        settings = {"batching": policy or None}
        document = {
            "_id": bucket_id,
            "namespace_id": "ns_1",
            "name": bucket_id,
            "settings": settings,
            "created_at": now,
        }
        await self.database.collection("buckets").insert(document)
        return bucket_id

    async def drafts(
        self, count: int, *, bucket_id: str = "bkt_1", mirrored: bool = True, auto: bool = False, size: int = 10
    ) -> list[str]:
        """Ids of new objects."""
        now = self.clock.now()
        documents: list[ObjectDocument] = []
        for _ in range(count):
            document: Any = {
                "_id": self.ids.new("obj"),
                "namespace_id": "ns_1",
                "bucket_id": bucket_id,
                "key_prefix": None,
                "blobs": [{"details": {"size_bytes": size}}],
                "custom": {},
                "status": str(Status.QUEUED if auto else Status.DRAFT),
                "error": None,
                "created_at": now,
                "updated_at": now,
                "moved_at": now,
                "revision": 1,
                "blobs_revision": 1,
                "run": {"id": 1, "rank": 1} if auto else {"id": 0, "rank": 0},
                "mirror": {"state": "done" if mirrored else "pending", "attempts": 0},
                "skip_duplicates": False,
                "auto_process": auto,
            }
            if auto:
                document["batch_id"] = self.ids.new("btch")
            documents.append(document)
        await self.objects.insert(documents)
        return [document["_id"] for document in documents]

    async def submitted(self, object_ids: Sequence[str], **more: Any) -> str:
        """The id of a batch as the ingest API leaves it after its submission."""
        now = self.clock.now()
        batch_id = self.ids.new("btch")
        batch: Any = {
            "_id": batch_id,
            "namespace_id": "ns_1",
            "bucket_id": "bkt_1",
            "batch_name": None,
            "status": str(Status.PENDING),
            "objects": list(object_ids),
            "total": len(object_ids),
            "collection_ids": None,
            "dedup_strategy": "skip",
            "metadata": {},
            "task_id": task_of(batch_id),
            "auto": False,
            "run": millis(now),
            "submitted_at": now,
            "moved_at": now,
            "created_at": now,
            "updated_at": now,
            **more,
        }
        await self.batches.insert([batch])
        return batch_id

    async def batch(self, batch_id: str) -> Any:
        return await self.batches.get(batch_id)

    async def ask_to_cancel(self, batch_id: str) -> None:
        """What the ingest API writes when a running batch is to be cancelled."""
        await self.batches.collection.update_one({"_id": batch_id}, {"$set": {"cancel_requested_at": self.clock.now()}})

    async def units_of(self, batch_id: str) -> list[WorkUnitDocument]:
        return await self.units.collection.find({"items.batch_id": batch_id}, limit=10_000, sort=[("_id", 1)])

    async def mirror(self, object_ids: Sequence[str]) -> list[ReceivedEvent]:
        """Dedup's end: the state, and the events that say so."""
        await self.objects.collection.update_many(
            {"_id": {"$in": list(object_ids)}}, {"$set": {"mirror.state": "done"}}
        )
        return [
            received(ObjectMirrored(object_id=oid, bucket_id="bkt_1", namespace_id="ns_1", revision=1))
            for oid in object_ids
        ]

    async def apply(self, records: Sequence[ReceivedEvent]) -> None:
        """What the ingest API does with status changes."""
        await self.objects.apply_statuses([r.event for r in records if isinstance(r.event, ObjectStatusChanged)])

    async def worked(
        self, outcome: Callable[[str], Outcome] = lambda _: GOOD, *, most: int = 10_000
    ) -> list[ReceivedEvent]:
        """A processor takes the units that it was told of: what it says of them, not delivered yet."""
        said: list[ReceivedEvent] = []
        for record in self.bus.take(WorkUnitReady)[:most]:
            unit_id = cast("WorkUnitReady", record.event).unit_id
            now = self.clock.now()
            unit = await self.units.lease(unit_id, "processor", now=now, until=now + timedelta(seconds=30))
            if unit is not None:
                said += self.results(unit, outcome)
        return said

    def results(
        self, unit: WorkUnitDocument, outcome: Callable[[str], Outcome] = lambda _: GOOD
    ) -> list[ReceivedEvent]:
        """What a processor says of a unit: each object started, then ended."""
        said = []
        for place, item in enumerate(unit["items"]):
            if str(place) in unit["results"]:
                continue
            status, documents, kind = outcome(item["object_id"])
            shared = {
                **item,
                "run_id": item["run"],
                "unit_id": unit["_id"],
                "item_index": place,
                "occurred_at": self.clock.now(),
            }
            started = {**shared, "sequence": RANK_PROCESSING, "status": Status.PROCESSING}
            ended = {
                **shared,
                "sequence": RANK_FINAL,
                "status": status,
                "documents_total": documents,
                "error": f"broke: {kind}" if kind else None,
                "error_type": kind,
            }
            said += [received(ObjectStatusChanged.model_validate(row)) for row in (started, ended)]
        return said

    async def run(self, replica: Batcher, outcome: Callable[[str], Outcome] = lambda _: GOOD) -> None:
        """Processors, ingest API and batcher until nobody has anything to say."""
        for _ in range(1000):
            said = self.bus.take(ObjectStatusChanged) + await self.worked(outcome)
            if not said:
                return
            await self.apply(said)
            await on_status(said, replica)
        raise AssertionError("there is no end to it")

    async def statuses(self, object_ids: Sequence[str]) -> list[str]:
        found = await self.objects.get_many(object_ids)
        return [found[object_id]["status"] for object_id in object_ids]


def received(event: Event) -> ReceivedEvent:
    """An event as it comes from the bus."""
    return ReceivedEvent(event=event, id="evt_test", source="/test", trace={})


@pytest.fixture
async def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)
