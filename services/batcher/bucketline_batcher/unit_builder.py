"""How objects become items, and items become work units; pure."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from bucketline.db.batches import BatchDocument
from bucketline.db.objects import ObjectDocument
from bucketline.db.work_units import Item, UnitEnd, WorkUnitDocument
from bucketline.domain.status import RANK_FINAL
from bucketline.ids import derived


class SizedItem(NamedTuple):
    """An item and the bytes of its object's blobs."""

    item: Item
    size_bytes: int


def grouped(items: Iterable[SizedItem], *, most_objects: int, most_bytes: int) -> Iterator[list[Item]]:
    """Cuts items into units of at most ``most_objects`` and ``most_bytes``; one larger object is a unit of its own.

    A unit has objects of one namespace only: its turns are that namespace's.
    """
    unit: list[Item] = []
    size = 0
    for item, size_bytes in sorted(items, key=lambda one: one.item["namespace_id"]):
        full = len(unit) >= most_objects or size + size_bytes > most_bytes
        if unit and (full or unit[0]["namespace_id"] != item["namespace_id"]):
            yield unit
            unit, size = [], 0
        unit.append(item)
        size += size_bytes
    if unit:
        yield unit


def run_of(obj: ObjectDocument, batch_id: str, turn: int) -> int:
    """The run of this object in this turn: above every run that it had, the same however often it is asked for.

    An object that is on its way in the turn already keeps the run that it got there.
    """
    run = obj["run"]
    if obj.get("batch_id") == batch_id and run["id"] >= turn and run["rank"] < RANK_FINAL:
        return run["id"]
    return max(turn, run["id"] + 1)


def sized(obj: ObjectDocument, batch_id: str, *, run: int, turn: int) -> SizedItem:
    """The object as an item."""
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
    """Bytes of the object's blobs, as far as they are known."""
    return sum(details["size_bytes"] for blob in obj["blobs"] if (details := blob.get("details")))


def unit_of(
    items: Sequence[Item],
    *,
    batch: BatchDocument | None,
    state: Literal["held", "ready", "canceled"],
    now: datetime,
    ending: UnitEnd | None = None,
) -> WorkUnitDocument:
    """The work unit of these items, of one ``batch`` or of automatic ones in one namespace.

    Its id is derived from the items: planning the same again makes the same unit.
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
