"""Objects that stand still although their batch is over: the event that said so was lost with the bus.

The units and batches tell what happened. What they say is applied by the same compare-and-set as the event would have
been, so that it does not matter if the event comes after all. While a batch goes on its objects just wait for their
turn, which takes long in a large one: to look for each of them in its units would be most of the work there is. A batch
that is not there any more is over: only one that is can be deleted, and its units outlive it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from bucketline.db.batches import BatchDocument
from bucketline.db.objects import ObjectDocument
from bucketline.db.work_units import WorkUnitDocument, items_filter
from bucketline.domain.status import BATCH_ACTIVE, RANK_FINAL, Status
from bucketline.events.models import ObjectStatusChanged
from bucketline.observability.metrics import SWEPT
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.auto_process import submit_auto_batches

MAX_UNITS = 2000

FIELDS = ("bucket_id", "namespace_id", "revision", "run", "batch_id", "auto_process", "updated_at", "trace")
"""What is said of an object, and what its automatic batch is made of."""


class ObjectReconciler:
    """Goes round all objects in flight that have not moved for a while, a page a step, the longest still first.

    The place is kept in memory, so that looking at an object writes nothing.
    """

    def __init__(self, deps: Container) -> None:
        self._deps = deps
        self._after: tuple[datetime, str] | None = None

    async def step(self) -> int:
        """Looks at one page; returns how many objects it moved."""
        deps = self._deps
        before = deps.clock.now() - timedelta(seconds=deps.sweep.stale_after_seconds)
        page = await deps.objects.stalled(before, limit=deps.sweep.batch_size, fields=FIELDS, after=self._after)
        self._after = (page[-1]["moved_at"], page[-1]["_id"]) if len(page) == deps.sweep.batch_size else None
        in_batch = [obj for obj in page if obj.get("batch_id")]
        if not in_batch:
            return 0
        batches = await deps.batches.many(list({_batch_id(obj) for obj in in_batch}), fields=["status"])
        await self._repair(in_batch, batches)
        left = [obj for obj in in_batch if _over(obj, batches.get(_batch_id(obj)))]
        if not left:
            return 0
        units = await deps.units.collection.find(
            items_filter([_batch_id(obj) for obj in left], [obj["_id"] for obj in left]),
            limit=MAX_UNITS,
            fields=["items", "results", "state", "moved_at"],
        )
        events = list(_events(left, batches, units, deps.clock.now()))
        moved = await deps.objects.apply_statuses(events) if events else 0
        SWEPT.labels("object status").inc(moved)
        return moved

    async def _repair(self, objects: Sequence[ObjectDocument], batches: Mapping[str, BatchDocument]) -> None:
        """Writes batches that were named by their object and then lost in a crash."""
        lost = [obj for obj in objects if obj["auto_process"] and _batch_id(obj) not in batches]
        if lost:
            await submit_auto_batches(self._deps, lost)
            SWEPT.labels("batch of an object").inc(len(lost))


def _events(
    objects: Sequence[ObjectDocument],
    batches: Mapping[str, BatchDocument],
    units: Sequence[WorkUnitDocument],
    now: datetime,
) -> Iterator[ObjectStatusChanged]:
    places = {
        (item["batch_id"], item["object_id"]): (unit, place)
        for unit in sorted(units, key=lambda unit: unit["moved_at"])
        for place, item in enumerate(unit["items"])
    }
    for obj in objects:
        batch_id = _batch_id(obj)
        unit, place = places.get((batch_id, obj["_id"]), (None, 0))
        if unit is not None and unit["items"][place]["run"] < obj["run"]["id"]:
            unit = None  # of an earlier turn: the one that the object stands in has not planned it
        result = unit["results"].get(str(place)) if unit is not None else None
        if unit is not None and result is not None:
            yield ObjectStatusChanged(
                object_id=obj["_id"],
                bucket_id=obj["bucket_id"],
                namespace_id=obj["namespace_id"],
                revision=obj["revision"],
                batch_id=batch_id,
                unit_id=unit["_id"],
                item_index=place,
                run_id=unit["items"][place]["run"],
                sequence=RANK_FINAL,
                status=Status(result["status"]),
                error=result["error"],
                documents_total=result["documents"],
                occurred_at=now,
            )
        elif _given_up(batches.get(batch_id), unit):
            yield ObjectStatusChanged(
                object_id=obj["_id"],
                bucket_id=obj["bucket_id"],
                namespace_id=obj["namespace_id"],
                revision=obj["revision"],
                batch_id=batch_id,
                run_id=obj["run"]["id"],
                sequence=RANK_FINAL,
                status=Status.DRAFT,
                occurred_at=now,
            )


def _batch_id(obj: ObjectDocument) -> str:
    """Of an object that is in a batch."""
    return str(obj.get("batch_id"))


def _over(obj: ObjectDocument, batch: BatchDocument | None) -> bool:
    """An automatic batch that is not there was never written, an explicit one was deleted."""
    return not obj["auto_process"] if batch is None else batch["status"] not in BATCH_ACTIVE


def _given_up(batch: BatchDocument | None, unit: WorkUnitDocument | None) -> bool:
    """Whether the batch was cancelled to its end, or deleted after it, and nobody works on the object."""
    if batch is not None and batch["status"] != Status.CANCELED:
        return False
    return unit is None or unit["state"] == "canceled"
