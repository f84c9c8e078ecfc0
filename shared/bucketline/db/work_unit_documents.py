"""The shape of work units, as they are stored."""

from datetime import datetime, timedelta
from typing import Literal, NotRequired, TypedDict

from bucketline.db.mongo import Index


class Item(TypedDict):
    """An object in a unit.

    ``revision`` is the one that was planned; ``run`` orders the object's status events; ``turn`` is the batch's run,
    which a retry or a resubmission raises. The object is in one unit a turn. ``again``: another batch had taken the
    object up before, and may still be at it.
    """

    object_id: str
    bucket_id: str
    namespace_id: str
    batch_id: str
    revision: int
    run: int
    turn: int
    again: NotRequired[bool]


class Result(TypedDict):
    """The first final status of an item. DRAFT: it was given back.

    ``documents`` are all that the object has, ``written`` those that this run made; see :func:`written`.
    """

    status: str
    documents: int
    written: NotRequired[int]
    error: str | None
    error_type: str | None
    at: NotRequired[datetime]


def written(result: Result) -> int:
    """The documents that count for the batch. An older release knew only how many the object has."""
    return result.get("written", result["documents"])


class UnitEnd(TypedDict):
    """What the items without a result become when a unit is given up."""

    status: str
    error: str | None
    error_type: Literal["transient", "permanent", "resource"] | None


class Lease(TypedDict):
    """``trying`` is the place of the one item that the holder works on, or NOBODY if it works on none of the unit's.
    Without it, any may be worked on."""

    owner: str
    until: datetime
    trying: NotRequired[int]


class WorkUnitDocument(TypedDict):
    """A work unit. ``results`` maps an item's place (as text) to its result; all there means ``done``.

    States: *held* (its batch has enough units in the works), *ready*, *leased* by a processor, *canceled* (given up:
    no processor takes it, and the batcher says the ``ending`` of what is left), *done*. ``finished`` and ``failed``
    count its results, of which given back ones are not finished, and ``documents`` is what was written for them.
    ``batch_id`` is None for a unit of ``auto_process`` objects, each of which is a batch of its own, and all of one
    namespace. ``group`` is with whom it shares its turns; see :func:`group_of`. ``attempts`` counts leases that
    were not given back, ``returned`` those that were, ``wakes`` how often it was announced again. ``suspects``
    has the place of an item for each lease that ended while this item was tried alone.
    """

    _id: str
    batch_id: str | None
    turn: int
    items: list[Item]
    size: int
    state: Literal["held", "ready", "leased", "canceled", "done"]
    results: dict[str, Result]
    finished: int
    failed: int
    documents: int
    collection_ids: list[str] | None
    dedup_strategy: Literal["skip", "replace", "force"]
    attempts: int
    created_at: datetime
    moved_at: datetime
    group: NotRequired[str]
    returned: NotRequired[int]
    suspects: NotRequired[list[int]]
    wakes: NotRequired[int]
    ending: NotRequired[UnitEnd]
    finished_at: NotRequired[datetime]
    lease: NotRequired[Lease]
    trace: NotRequired[dict[str, str]]


def group_of(unit: WorkUnitDocument) -> str:
    """With whom the unit shares its turns: its batch, or all that a namespace has processed at once.

    A unit of an older release has none: those of ``auto_process`` objects are one group then.
    """
    return unit.get("group") or unit["batch_id"] or ""


OPEN_STATES = ("ready", "leased", "canceled")
"""Something is still to come."""

UNFINISHED_STATES = ("ready", "leased")
"""For processors."""

KEPT = timedelta(days=30)
"""How long a unit stays after its end. Until then it tells what became of each of its objects."""

UNIT_INDEXES = (
    Index("active", [("moved_at", 1)], where={"state": {"$in": list(OPEN_STATES)}}),
    Index("batch_generation", [("batch_id", 1), ("turn", 1), ("state", 1), ("_id", 1)]),
    Index("by_group", [("group", 1), ("moved_at", 1)], where={"state": {"$in": list(UNFINISHED_STATES)}}),
    Index("item_unique", [("items.batch_id", 1), ("items.object_id", 1), ("items.turn", 1)], unique=True),
    Index("expiry", [("finished_at", 1)], expire_after_seconds=int(KEPT.total_seconds())),
)
