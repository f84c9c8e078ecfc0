"""How objects are grouped into work units; pure."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from bucketline.ids import derived
from bucketline.storage.batches import Item, UnitDocument


class Sized(NamedTuple):
    """An item and the bytes of its object's blobs."""

    item: Item
    size_bytes: int


def grouped(items: Iterable[Sized], *, most_objects: int, most_bytes: int) -> Iterator[list[Item]]:
    """Cuts items into units of at most ``most_objects`` and ``most_bytes``; one larger object is a unit of its own."""
    unit: list[Item] = []
    size = 0
    for item, size_bytes in items:
        if unit and (len(unit) >= most_objects or size + size_bytes > most_bytes):
            yield unit
            unit, size = [], 0
        unit.append(item)
        size += size_bytes
    if unit:
        yield unit


def unit_of(
    items: Sequence[Item],
    *,
    batch_id: str | None,
    state: Literal["held", "ready"],
    now: datetime,
    collection_ids: list[str] | None = None,
    dedup_strategy: Literal["skip", "replace", "force"] = "skip",
    trace: dict[str, str] | None = None,
) -> UnitDocument:
    """The work unit of these items. Its id is derived from them: planning the same again makes the same unit."""
    parts = [f"{item['batch_id']}/{item['object_id']}/{item['run']}" for item in items]
    unit: UnitDocument = {
        "_id": derived("unit", *parts),
        "batch_id": batch_id,
        "items": list(items),
        "size": len(items),
        "state": state,
        "results": {},
        "finished": 0,
        "failed": 0,
        "documents": 0,
        "collection_ids": collection_ids,
        "dedup_strategy": dedup_strategy,
        "attempts": 0,
        "created_at": now,
        "moved_at": now,
    }
    if trace:
        unit["trace"] = trace
    return unit
