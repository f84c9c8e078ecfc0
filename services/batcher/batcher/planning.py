"""From objects to work units.

Whatever is planned is a document before anybody is told: a crash between the two is found by the sweeper. An item is
in exactly one unit, because a unique index says so; two planners of the same objects share the work by chance.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from batcher.settings import BatcherSettings
from batcher.units import Sized, grouped, unit_of
from bucketline.clock import Clock
from bucketline.domain.status import RANK_FINAL, RANK_QUEUED, Status
from bucketline.events.catalog import Event, ObjectStatusChanged, WorkReady
from bucketline.ids import derived
from bucketline.runtime import Runtime
from bucketline.storage.batches import BatchDocument, Batches, Item, UnitDocument, Units, Waiting
from bucketline.storage.objects import ObjectDocument, Objects

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
    "trace",
)

_UNPLANNED = (str(Status.PENDING), str(Status.QUEUED))


class Planner:
    """Makes units of mirrored objects and submitted batches, and wakes the processors."""

    def __init__(self, runtime: Runtime, settings: BatcherSettings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._clock: Clock = runtime.clock
        self.objects = Objects(runtime.database)
        self.batches = Batches(runtime.database)
        self.units = Units(runtime.database)
        self.waiting = Waiting(runtime.database)

    async def auto(self, objects: Sequence[ObjectDocument], traces: Mapping[str, Mapping[str, str]]) -> int:
        """Plans objects that asked to be processed at once; returns how many were not planned before.

        Each has a batch of its own, named at its creation; their units are shared. ``traces`` maps an object to the
        trace that it is part of.
        """
        now = self._clock.now()
        due = [o for o in objects if o["auto_process"] and o["status"] == Status.QUEUED and o.get("batch_id")]
        if not due:
            return 0
        await self._ensure_batches(due, now)
        sized = [Sized(_item(o, str(o.get("batch_id")), o["run"]["id"]), _size(o)) for o in due]
        planned = await self._insert(sized, batch=None, now=now, held_after=None)
        batch_ids = [item["batch_id"] for unit in planned for item in unit["items"]]
        await self.batches.collection.update_many(
            {"_id": {"$in": batch_ids}, "status": {"$in": _UNPLANNED}},
            {"$set": {"planned": True, **_started(now)}},
        )
        await self.wake(planned, traces)
        return len(batch_ids)

    async def submitted(self, batch_id: str, trace: Mapping[str, str] | None = None) -> None:
        """Plans a submitted batch: units of what is mirrored, a waiting row for what is not yet. May be repeated."""
        batch = await self.batches.get(batch_id)
        if (
            batch is None
            or batch["auto"]
            or batch.get("planned")
            or batch["status"] not in (Status.PENDING, Status.QUEUED)
        ):
            return
        now = self._clock.now()
        room = self._settings.unit_window
        missing = 0
        for start in range(0, len(batch["objects"]), self._settings.plan_page):
            ids = batch["objects"][start : start + self._settings.plan_page]
            objects = await self.objects.many(ids, fields=FIELDS)
            missing += len(ids) - len(objects)
            late = [oid for oid, found in objects.items() if found["mirror"]["state"] == "pending"]
            if late:
                await self.waiting.add(batch_id, late, now)
                # Those that were mirrored while the rows were written would wait for an event that has passed.
                objects |= await self.objects.many(late, fields=FIELDS)
            ready = [o for o in objects.values() if o["mirror"]["state"] != "pending"]
            await self._queue(batch, list(objects.values()), trace)
            planned = await self._plan(batch, ready, now, room)
            room -= sum(1 for unit in planned if unit["state"] == "ready")
            await self.waiting.remove(
                [f"{batch_id}:{oid}" for oid in late if objects[oid]["mirror"]["state"] != "pending"]
            )
            await self.wake([unit for unit in planned if unit["state"] == "ready"], {}, trace)
        await self.batches.collection.update_one(
            {"_id": batch_id, "status": {"$in": [Status.PENDING, Status.QUEUED]}},
            {
                "$set": {
                    "planned": True,
                    "missing": missing,
                    "status": Status.PROCESSING,
                    "started_at": now,
                    "moved_at": now,
                }
            },
        )

    async def arrived(self, objects: Mapping[str, ObjectDocument], traces: Mapping[str, Mapping[str, str]]) -> None:
        """Plans mirrored objects for the submitted batches that wait for them."""
        rows = await self.waiting.of_objects(list(objects), limit=10_000)
        if not rows:
            return
        now = self._clock.now()
        batches = await self.batches.many(list({row["batch_id"] for row in rows}))
        for batch_id, batch in batches.items():
            mine = [row["object_id"] for row in rows if row["batch_id"] == batch_id]
            if batch["status"] in (Status.PENDING, Status.QUEUED, Status.PROCESSING):
                planned = await self._plan(batch, [objects[oid] for oid in mine], now, self._settings.unit_window)
                await self.wake([unit for unit in planned if unit["state"] == "ready"], traces)
        await self.waiting.remove([row["_id"] for row in rows])

    async def wake(
        self,
        units: Sequence[UnitDocument],
        traces: Mapping[str, Mapping[str, str]],
        trace: Mapping[str, str] | None = None,
    ) -> None:
        """Tells the processors of units that are ready."""
        envelopes = []
        for unit in units:
            cause = trace or next((traces[i["object_id"]] for i in unit["items"] if i["object_id"] in traces), None)
            envelopes.append(self._runtime.seal(WorkReady(unit_id=unit["_id"], size=unit["size"]), trace=cause))
        if envelopes:
            await self._runtime.bus.publisher.publish(envelopes)

    async def say(self, events: Sequence[Event], trace: Mapping[str, str] | None = None) -> None:
        """Publishes events that state does not owe: losing them costs time, not truth."""
        if events:
            await self._runtime.bus.publisher.publish([self._runtime.seal(event, trace=trace) for event in events])

    async def _plan(
        self, batch: BatchDocument, objects: Sequence[ObjectDocument], now: datetime, room: int
    ) -> list[UnitDocument]:
        run = batch.get("run", 1)
        sized = [Sized(_item(o, batch["_id"], _run_of(o, batch["_id"], run)), _size(o)) for o in objects]
        return await self._insert(sized, batch=batch, now=now, held_after=room)

    async def _insert(
        self, sized: Sequence[Sized], *, batch: BatchDocument | None, now: datetime, held_after: int | None
    ) -> list[UnitDocument]:
        """Inserts the units of these items; returns those that were not there before."""
        units = self._cut(sized, batch, now, held_after)
        refused = await self.units.insert(units)
        planned = [unit for place, unit in enumerate(units) if place not in refused]
        if refused:
            # Some of their items have a unit already; the rest still needs one.
            candidates = {item["object_id"] for place in refused for item in units[place]["items"]}
            again = [one for one in sized if one.item["object_id"] in candidates]
            known = await self.units.planned([one.item for one in again])
            rest = [one for one in again if (one.item["batch_id"], one.item["object_id"], one.item["run"]) not in known]
            if rest:
                planned += await self._insert(rest, batch=batch, now=now, held_after=held_after)
        return planned

    def _cut(
        self, sized: Sequence[Sized], batch: BatchDocument | None, now: datetime, held_after: int | None
    ) -> list[UnitDocument]:
        groups = grouped(sized, most_objects=self._settings.unit_objects, most_bytes=self._settings.unit_bytes)
        return [
            unit_of(
                group,
                batch_id=batch["_id"] if batch else None,
                state="held" if held_after is not None and place >= held_after else "ready",
                now=now,
                collection_ids=batch["collection_ids"] if batch else None,
                dedup_strategy=batch["dedup_strategy"] if batch else "skip",
                trace=batch.get("trace") if batch else None,
            )
            for place, group in enumerate(groups)
        ]

    async def _queue(
        self, batch: BatchDocument, objects: Sequence[ObjectDocument], trace: Mapping[str, str] | None
    ) -> None:
        """Says that the objects of a submitted batch are queued."""
        await self.say([self._moved(batch, o, Status.QUEUED, RANK_QUEUED) for o in objects], trace)

    async def give_back(self, batch: BatchDocument, objects: Sequence[ObjectDocument]) -> None:
        """Says that objects of a cancelled batch are drafts again."""
        await self.say([self._moved(batch, o, Status.DRAFT, RANK_FINAL) for o in objects])

    def _moved(self, batch: BatchDocument, obj: ObjectDocument, status: Status, rank: int) -> ObjectStatusChanged:
        return ObjectStatusChanged(
            object_id=obj["_id"],
            bucket_id=obj["bucket_id"],
            namespace_id=obj["namespace_id"],
            revision=obj["revision"],
            batch_id=batch["_id"],
            run=_run_of(obj, batch["_id"], batch.get("run", 1)),
            rank=rank,
            status=status,
            at=self._clock.now(),
        )

    async def _ensure_batches(self, objects: Sequence[ObjectDocument], now: datetime) -> None:
        """Makes the batches that the API named but, having crashed in between, did not write."""
        ids = [str(o.get("batch_id")) for o in objects]
        known = await self.batches.collection.find({"_id": {"$in": ids}}, limit=len(ids), fields=["_id"])
        present = {batch["_id"] for batch in known}
        await self.batches.insert([auto_batch(o, now) for o in objects if o.get("batch_id") not in present])


def auto_batch(obj: ObjectDocument, now: datetime) -> BatchDocument:
    """The batch of one ``auto_process`` object."""
    batch_id = str(obj.get("batch_id"))
    return {
        "_id": batch_id,
        "namespace_id": obj["namespace_id"],
        "bucket_id": obj["bucket_id"],
        "batch_name": None,
        "status": str(Status.PENDING),
        "objects": [obj["_id"]],
        "total": 1,
        "collection_ids": None,
        "dedup_strategy": "skip",
        "metadata": {},
        "task_id": derived("task", batch_id),
        "auto": True,
        "run": obj["run"]["id"],
        "created_at": obj["created_at"],
        "submitted_at": obj["created_at"],
        "updated_at": now,
        "moved_at": now,
    }


def _item(obj: ObjectDocument, batch_id: str, run: int) -> Item:
    return {
        "object_id": obj["_id"],
        "bucket_id": obj["bucket_id"],
        "namespace_id": obj["namespace_id"],
        "batch_id": batch_id,
        "revision": obj["revision"],
        "run": run,
    }


def _run_of(obj: ObjectDocument, batch_id: str, batch_run: int) -> int:
    """The run of this object in this batch: above every run it had, the same however often it is planned."""
    if obj.get("batch_id") == batch_id and obj["run"]["id"] >= batch_run:
        return obj["run"]["id"]
    return max(batch_run, obj["run"]["id"] + 1)


def _size(obj: ObjectDocument) -> int:
    return sum(details["size_bytes"] for blob in obj["blobs"] if (details := blob.get("details")))


def _started(now: datetime) -> dict[str, object]:
    return {"status": str(Status.PROCESSING), "started_at": now, "moved_at": now}
