"""Groups objects into items and work units, and stores the units.

Units are stored before their events are published: the reconciler repairs a crash in between. A unique index on (batch,
object, turn) keeps an object in one unit for each turn of its batch, so concurrent planners share the work. Cancelling
uses the same index: an object that is stored in a canceled unit cannot be planned any more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from bucketline.clock import Clock
from bucketline.db.batch_dependencies import BatchDependencies, BatchDependencyDocument
from bucketline.db.batches import SUMMARY_FIELDS, UNPLANNED, BatchDocument, Batches, new_auto_batch
from bucketline.db.objects import ObjectDocument, Objects
from bucketline.db.work_units import Item, Latest, UnitEnd, WorkUnitDocument, WorkUnits
from bucketline.domain.status import BATCH_ACTIVE, FAILURES, RANK_FINAL, Status
from bucketline.ids import derived
from bucketline.service_context import ServiceContext
from bucketline_batcher.publisher import BatchPublisher, Trace
from bucketline_batcher.settings import BatcherSettings


class SizedItem(NamedTuple):
    """An item and the bytes of its object's blobs."""

    item: Item
    size_bytes: int


def group_items(items: Iterable[SizedItem], *, max_objects: int, max_bytes: int) -> Iterator[list[Item]]:
    """Yield groups of at most ``max_objects`` and ``max_bytes``; a larger object is a group of its own.

    A group has objects of one namespace only, because processors share their capacity between namespaces.
    """
    unit: list[Item] = []
    size = 0
    for item, size_bytes in sorted(items, key=lambda one: one.item["namespace_id"]):
        full = len(unit) >= max_objects or size + size_bytes > max_bytes
        if unit and (full or unit[0]["namespace_id"] != item["namespace_id"]):
            yield unit
            unit, size = [], 0
        unit.append(item)
        size += size_bytes
    if unit:
        yield unit


def run_of(obj: ObjectDocument, batch_id: str, turn: int) -> int:
    """Return the object's run id in this turn of the batch. It is higher than the ids of all earlier runs.

    An object that is already queued or processing in this turn keeps its id.
    """
    run = obj["run"]
    if obj.get("batch_id") == batch_id and run["id"] >= turn and run["rank"] < RANK_FINAL:
        return run["id"]
    return max(turn, run["id"] + 1)


def build_item(obj: ObjectDocument, batch_id: str, *, run: int, turn: int) -> SizedItem:
    """Return the item of an object. It is marked ``again`` if another batch took the object up before."""
    item: Item = {
        "object_id": obj["_id"],
        "bucket_id": obj["bucket_id"],
        "namespace_id": obj["namespace_id"],
        "batch_id": batch_id,
        "revision": obj["revision"],
        "run": run,
        "turn": turn,
    }
    if obj.get("batch_id") not in (None, batch_id):
        item["again"] = True
    return SizedItem(item, size_of(obj))


def size_of(obj: ObjectDocument) -> int:
    """Return the total bytes of the object's blobs. Blobs of unknown size count as 0."""
    return sum(details["size_bytes"] for blob in obj["blobs"] if (details := blob.get("details")))


def build_unit(
    items: Sequence[Item],
    *,
    batch: BatchDocument | None,
    state: Literal["held", "ready", "canceled"],
    now: datetime,
    ending: UnitEnd | None = None,
) -> WorkUnitDocument:
    """Return the work unit of items of one ``batch``, or of automatic batches in one namespace if it is None.

    The id is derived from the items, so planning them again gives the same unit.
    """
    parts = [f"{item['batch_id']}/{item['object_id']}/{item['turn']}" for item in items]
    unit: WorkUnitDocument = {
        "_id": derived("unit", *parts),
        "batch_id": batch["_id"] if batch else None,
        "turn": batch.get("run", 1) if batch else 0,
        "items": list(items),
        "size": len(items),
        "state": state,
        "results": {},
        "finished": 0,
        "failed": 0,
        "documents": 0,
        "collection_ids": batch["collection_ids"] if batch else None,
        "dedup_strategy": batch["dedup_strategy"] if batch else "skip",
        "attempts": 0,
        "created_at": now,
        "moved_at": now,
        "group": batch["_id"] if batch else items[0]["namespace_id"],
    }
    if ending is not None:
        unit["ending"] = ending
    if batch is not None and (trace := batch.get("trace")):
        unit["trace"] = trace
    return unit


FIELDS = (
    "bucket_id",
    "namespace_id",
    "revision",
    "run",
    "status",
    "mirror",
    "batch_id",
    "auto_process",
    "blobs.details.size_bytes",
    "created_at",
    "updated_at",
    "trace",
)

MAX_ROWS = 10_000


class Planner:
    """Plans mirrored objects and submitted batches as work units and announces the units."""

    def __init__(self, context: ServiceContext, settings: BatcherSettings, publisher: BatchPublisher) -> None:
        self._settings = settings
        self._publisher = publisher
        self._clock: Clock = context.clock
        self.objects = Objects(context.database)
        self.batches = Batches(context.database)
        self.units = WorkUnits(context.database)
        self.waiting = BatchDependencies(context.database)

    async def plan_auto(self, objects: Sequence[ObjectDocument], traces: Mapping[str, Trace]) -> int:
        """Plan ``auto_process`` objects and return how many had not been planned before.

        Each has a batch of its own, and they share units. ``traces`` maps objects to their traces.
        """
        now = self._clock.now()
        asked = [o for o in objects if o["auto_process"] and o["status"] == Status.QUEUED and o.get("batch_id")]
        due = await self._with_batches(asked)
        if not due:
            return 0
        items = [build_item(o, str(o.get("batch_id")), run=o["run"]["id"], turn=o["run"]["id"]) for o in due]
        planned = await self._insert(items, batch=None, now=now)
        batch_ids = [item["batch_id"] for unit in planned for item in unit["items"]]
        if batch_ids:
            await self.batches.update_unplanned(batch_ids, {"planned": True, **_started(now)})
        await self._publisher.publish_ready(planned, traces)
        return len(batch_ids)

    async def plan_batch(self, batch_id: str, trace: Trace | None = None) -> None:
        """Plan a submitted batch: units for mirrored objects, dependencies for the others. May be repeated.

        Stops early if another replica has planned the batch or it is being canceled.
        """
        batch = await self.batches.get(batch_id)
        if batch is None or batch["auto"] or batch.get("planned") or batch.get("cancel_requested_at"):
            return
        if batch["status"] not in UNPLANNED:
            return
        began = self._clock.now()
        turn = batch.get("run", 1)
        members = await self.members(batch)
        room = await self._available_slots(batch)
        for start in range(0, len(members), self._settings.plan_page_size):
            now = self._clock.now()
            # Shows that the batch moves, so that the reconcilers of other replicas do not plan it as well.
            if start and not await self.batches.touch_unplanned(batch_id, turn, now):
                return
            objects = await self._objects(batch, members[start : start + self._settings.plan_page_size])
            late = [oid for oid, found in objects.items() if found["mirror"]["state"] == "pending"]
            if late:
                await self.waiting.add(batch_id, late, now)
                # Read again: the event of an object that was mirrored in the meantime may have been handled already.
                objects |= await self._objects(batch, late)
            items = {row.item["object_id"]: row for row in _build_items(batch, objects.values())}
            pending = [oid for oid, found in objects.items() if found["mirror"]["state"] == "pending"]
            ready = [item for oid, item in items.items() if oid not in set(pending)]
            planned = await self._insert(ready, batch=batch, now=now, room=room)
            room -= sum(1 for unit in planned if unit["state"] == "ready")
            await self.waiting.delete_by_ids([f"{batch_id}:{oid}" for oid in late if oid not in set(pending)])
            queued = [item for unit in planned for item in unit["items"]]
            traces = {oid: found["trace"] for oid, found in objects.items() if "trace" in found}
            await self._publisher.publish_queued([*queued, *(items[oid].item for oid in pending)], traces, trace)
            await self._publisher.publish_ready([unit for unit in planned if unit["state"] == "ready"], traces, trace)
        started = {"planned": True, **_started(began), "moved_at": self._clock.now()}
        await self.batches.update_unplanned([batch_id], started, run=turn)

    async def plan_ready_objects(self, objects: Mapping[str, ObjectDocument], traces: Mapping[str, Trace]) -> set[str]:
        """Plan mirrored objects for the submitted batches that wait for them, and return the planned ids."""
        rows = await self.waiting.find_by_objects(list(objects), limit=MAX_ROWS)
        taken: set[str] = set()
        if not rows:
            return taken
        now = self._clock.now()
        waiting: dict[str, list[BatchDependencyDocument]] = {}
        for row in rows:
            waiting.setdefault(row["batch_id"], []).append(row)
        batches = await self.batches.get_many(list(waiting), fields=SUMMARY_FIELDS)
        for batch_id, mine in waiting.items():
            batch = batches.get(batch_id)
            planned: list[WorkUnitDocument] = []
            if batch is not None and batch["status"] in BATCH_ACTIVE:
                arrivals = _of_bucket(batch, [objects[row["object_id"]] for row in mine])
                items = _build_items(batch, arrivals)
                planned = await self._insert(items, batch=batch, now=now, room=await self._available_slots(batch))
                taken |= {o["_id"] for o in arrivals}
            # Before the units are announced: a batch with a dependency left does not finish with its last unit.
            await self.waiting.delete_by_ids([row["_id"] for row in mine])
            await self._publisher.publish_ready([unit for unit in planned if unit["state"] == "ready"], traces)
        return taken

    async def cancel_unplanned(self, batch: BatchDocument, ending: UnitEnd) -> None:
        """Put every object of the batch that is in no unit into a canceled unit. May be repeated."""
        now = self._clock.now()
        turn = batch.get("run", 1)
        members = await self.members(batch)
        if (await self.units.tally(batch["_id"], turn)).objects >= len(members):
            return
        for start in range(0, len(members), self._settings.plan_page_size):
            objects = await self._objects(batch, members[start : start + self._settings.plan_page_size])
            await self._insert(_build_items(batch, objects.values()), batch=batch, now=now, ending=ending)

    async def cancel_unplanned_auto(self, batch: BatchDocument, obj: ObjectDocument, ending: UnitEnd) -> None:
        """Put the object of an automatic batch into a canceled unit."""
        item = build_item(obj, batch["_id"], run=obj["run"]["id"], turn=obj["run"]["id"])
        await self._insert([item], batch=None, now=self._clock.now(), ending=ending)

    async def members(self, batch: BatchDocument) -> list[str]:
        """Return the ids of the objects in the batch's turn: all of them, or those that a retry selects."""
        mode = batch.get("retry")
        if mode is None:
            return batch["objects"]
        latest = await self.units.latest_results(batch["_id"], before=batch.get("run", 1))
        return [object_id for object_id, last in latest.items() if is_retried(last, mode)]

    async def _objects(self, batch: BatchDocument, object_ids: Sequence[str]) -> dict[str, ObjectDocument]:
        """Return the objects that exist in the batch's bucket. A batch is created without checking its objects."""
        found = await self.objects.get_many(object_ids, fields=FIELDS)
        return {obj["_id"]: obj for obj in _of_bucket(batch, found.values())}

    async def _available_slots(self, batch: BatchDocument) -> int:
        """Return how many more units of the batch may be ready or leased."""
        most = self._settings.max_active_units
        return most - await self.units.count(batch["_id"], batch.get("run", 1), ("ready", "leased"), limit=most)

    async def _insert(
        self,
        items: Sequence[SizedItem],
        *,
        batch: BatchDocument | None,
        now: datetime,
        room: int | None = None,
        ending: UnitEnd | None = None,
    ) -> list[WorkUnitDocument]:
        """Insert units of these items and return those that did not exist before.

        The first ``room`` units are ready and the others held; with an ``ending`` all of them are canceled.
        """
        groups = group_items(
            items, max_objects=self._settings.unit_max_objects, max_bytes=self._settings.unit_max_bytes
        )
        units = [
            build_unit(
                group,
                batch=batch,
                state="canceled" if ending else "held" if room is not None and index >= room else "ready",
                now=now,
                ending=ending,
            )
            for index, group in enumerate(groups)
        ]
        refused = await self.units.insert(units)
        planned = [unit for index, unit in enumerate(units) if index not in refused]
        if refused:
            # Some of their items are in a unit already; plan the others.
            candidates = {item["object_id"] for index in refused for item in units[index]["items"]}
            again = [one for one in items if one.item["object_id"] in candidates]
            known = await self.units.find_planned([one.item for one in again])
            rest = [one for one in again if _key(one) not in known]
            if rest:
                left = None if room is None else room - sum(1 for unit in planned if unit["state"] == "ready")
                planned += await self._insert(rest, batch=batch, now=now, room=left, ending=ending)
        return planned

    async def _with_batches(self, objects: Sequence[ObjectDocument]) -> list[ObjectDocument]:
        """Return the objects whose automatic batch is active.

        Creates batches that are missing because the API crashed after it had stored the object.
        """
        ids = [str(o.get("batch_id")) for o in objects]
        known = await self.batches.get_many(ids, fields=["auto", "status", "cancel_requested_at"])
        await self.batches.insert(
            [new_auto_batch(o, str(o.get("batch_id"))) for o in objects if o.get("batch_id") not in known]
        )
        return [o for o in objects if (batch := known.get(str(o.get("batch_id")))) is None or _is_active_auto(batch)]


def is_retried(last: Latest, mode: str) -> bool:
    """Return whether a retry of this mode selects the object."""
    if last.result is None or last.result["status"] not in FAILURES:
        return False
    return mode == "all" or last.result["error_type"] == "transient"


def _build_items(batch: BatchDocument, objects: Iterable[ObjectDocument]) -> list[SizedItem]:
    """Return the items of objects in the current turn of an explicit batch."""
    batch_id, turn = batch["_id"], batch.get("run", 1)
    return [build_item(obj, batch_id, run=run_of(obj, batch_id, turn), turn=turn) for obj in objects]


def _of_bucket(batch: BatchDocument, objects: Iterable[ObjectDocument]) -> list[ObjectDocument]:
    """Return the objects in the batch's bucket, because the ids in a batch may belong to another tenant."""
    return [obj for obj in objects if obj["bucket_id"] == batch["bucket_id"]]


def _is_active_auto(batch: BatchDocument) -> bool:
    return batch["auto"] and batch["status"] in BATCH_ACTIVE and not batch.get("cancel_requested_at")


def _key(one: SizedItem) -> tuple[str, str, int]:
    return one.item["batch_id"], one.item["object_id"], one.item["turn"]


def _started(now: datetime) -> dict[str, object]:
    return {"status": str(Status.PROCESSING), "started_at": now, "moved_at": now}
