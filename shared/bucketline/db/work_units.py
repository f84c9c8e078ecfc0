"""Work units: bounded lists of items, each of which is an object in one run of a batch.

A unit of ``auto_process`` objects spans as many batches as it has items. Processors lease units and release them: they
write the lease and, with it, the state, ``moved_at`` and the lease counters (``attempts``, ``release_count``,
``crashed_items``). The batcher writes everything else. A unique index keeps an item in one unit, whichever replica
plans it; the first final status of an item is its result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NotRequired, TypedDict

from pymongo import InsertOne, UpdateOne

from bucketline.db.lease_queue import Changes, LeaseFields, LeaseQueue
from bucketline.db.mongo import Database, Index
from bucketline.db.repository import Repository
from bucketline.domain.status import FAILURES, Status

Stage = Mapping[str, object]

NO_ITEM = -1
"""The ``lease.current_item`` of a unit whose owner is working on none of its items."""


class Item(TypedDict):
    """An object in a unit.

    ``revision`` is the planned revision; ``run`` orders the status events of the object; ``turn`` is the run of the
    batch, which a retry or resubmission increases. An object is in one unit per turn. ``again``: another batch
    planned the object before and may still be processing it.
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
    """The first final status of an item. DRAFT: it was returned to the draft status.

    ``documents`` is the number of all documents of the object, ``written`` of those from this run; see :func:`written`.
    """

    status: str
    documents: int
    written: NotRequired[int]
    error: str | None
    error_type: str | None
    at: NotRequired[datetime]


def written(result: Result) -> int:
    """Return the number of documents that count for the batch; an older release only stored how many the object has."""
    return result.get("written", result["documents"])


class UnitEnd(TypedDict):
    """The result of items without one when a unit is given up."""

    status: str
    error: str | None
    error_type: Literal["transient", "permanent", "resource"] | None


class Lease(TypedDict):
    """The lease of a unit.

    ``current_item`` is the index of the only item that the holder is working on, NO_ITEM if it works on none. Without
    it, the holder may be working on any of the items.
    """

    owner: str
    until: datetime
    current_item: NotRequired[int]


class WorkUnitDocument(TypedDict):
    """A work unit. ``results`` maps the index of an item (as text) to its result; with all results it is ``done``.

    States: *held* (its batch has the maximum number of open units), *ready*, *leased* by a processor, *canceled* (no
    processor takes it, and the batcher publishes ``ending`` for its remaining items), *done*. ``finished`` and
    ``failed`` count results, without items that returned to DRAFT, and ``documents`` the documents written for them.
    ``batch_id`` is None for a unit of ``auto_process`` objects of one namespace, each of which is a batch of its own.
    ``group`` is its fairness group; see :func:`group_of`. ``attempts`` counts leases that
    were not released, ``release_count`` those that were, ``wakes`` counts repeated announcements. ``crashed_items``
    has the index of an item for each lease that expired while its holder was working on that item alone.
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
    release_count: NotRequired[int]
    crashed_items: NotRequired[list[int]]
    wakes: NotRequired[int]
    ending: NotRequired[UnitEnd]
    finished_at: NotRequired[datetime]
    lease: NotRequired[Lease]
    trace: NotRequired[dict[str, str]]


def group_of(unit: WorkUnitDocument) -> str:
    """Return the fairness group of the unit: its batch, or the ``auto_process`` objects of its namespace.

    Units of an older release have none; their ``auto_process`` units form one group.
    """
    return unit.get("group") or unit["batch_id"] or ""


OPEN_STATES = ("ready", "leased", "canceled")
"""States of units that lack results."""

UNFINISHED_STATES = ("ready", "leased")
"""States of units that a processor may lease."""

KEPT = timedelta(days=30)
"""How long a unit is kept after it is done. It has the results of its objects."""

INDEXES = (
    Index("active", [("moved_at", 1)], where={"state": {"$in": list(OPEN_STATES)}}),
    Index("batch_generation", [("batch_id", 1), ("turn", 1), ("state", 1), ("_id", 1)]),
    Index("by_group", [("group", 1), ("moved_at", 1)], where={"state": {"$in": list(UNFINISHED_STATES)}}),
    Index("item_unique", [("items.batch_id", 1), ("items.object_id", 1), ("items.turn", 1)], unique=True),
    Index("expiry", [("finished_at", 1)], expire_after_seconds=int(KEPT.total_seconds())),
)


@dataclass(frozen=True)
class UnitAttempts:
    """The leases of a unit, by how they ended.

    ``crashes`` ended with the processor while any item may have been the cause, ``isolated_crashes`` while one item
    was running alone. ``releases`` were released, or expired while no item of the unit was running.
    """

    crashes: int
    isolated_crashes: int
    releases: int

    @property
    def leases(self) -> int:
        """Return how many leases there were: for the holder, the number of its lease, which only grows."""
        return self.crashes + self.isolated_crashes + self.releases


def unit_attempts(unit: WorkUnitDocument) -> UnitAttempts:
    """Count the leases of the unit as if the current lease had expired.

    For the current holder, ``crashes`` is therefore the number of its own attempt.
    """
    item = unit["lease"].get("current_item") if "lease" in unit else None
    isolated = len(unit.get("crashed_items", ())) + int(item is not None and item != NO_ITEM)
    idle = int(item == NO_ITEM)
    return UnitAttempts(unit["attempts"] - isolated - idle, isolated, unit.get("release_count", 0) + idle)


@dataclass(frozen=True)
class Tally:
    """Counts of a run of a batch: units by state, objects by result."""

    held: int = 0
    open: int = 0
    objects: int = 0
    finished: int = 0
    failed: int = 0
    documents: int = 0


@dataclass(frozen=True)
class Latest:
    """The last run in which a batch planned an object, and its result if there is one."""

    turn: int
    unit_id: str
    result: Result | None

    @property
    def failed(self) -> bool:
        """Return whether the object failed in that run."""
        return self.result is not None and self.result["status"] in FAILURES


_LEASE = LeaseFields(
    owner="lease.owner",
    due_at="lease.until",
    within={"state": {"$in": list(UNFINISHED_STATES)}},
    unleased={"state": "ready"},
    lease="lease",
)


class WorkUnits(Repository[WorkUnitDocument]):
    """The repository of work units."""

    name = "work_units"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._queue = LeaseQueue(self.collection, _LEASE)

    async def insert(self, documents: Sequence[WorkUnitDocument]) -> set[int]:
        """Insert the units in one round trip; return the indexes of those that were refused.

        A unit is refused when it, or one of its items, is in the database already.
        """
        return set((await self.collection.bulk([InsertOne(document) for document in documents])).refused)

    async def find_planned(self, items: Sequence[Item]) -> set[tuple[str, str, int]]:
        """Return those of these items that are in a unit, as (batch, object, turn)."""
        wanted = {(item["batch_id"], item["object_id"], item["turn"]) for item in items}
        where = items_filter([batch_id for batch_id, _, _ in wanted], [object_id for _, object_id, _ in wanted])
        known: set[tuple[str, str, int]] = set()
        # An object of an automatic batch has a unit in each run, so the number of units is not known beforehand.
        async for unit in self.collection.stream(where, fields=["items"]):
            known |= {(item["batch_id"], item["object_id"], item["turn"]) for item in unit["items"]}
        return known & wanted

    async def release_held(self, batch_id: str, turn: int, count: int, now: datetime) -> list[WorkUnitDocument]:
        """Make at most ``count`` held units of the run ready and return them."""
        released = []
        for _ in range(count):
            unit = await self.collection.find_and_update(
                {"batch_id": batch_id, "turn": turn, "state": "held"},
                {"$set": {"state": "ready", "moved_at": now}},
                sort=[("_id", 1)],
                fields=["size", "trace"],
            )
            if unit is None:
                break
            released.append(unit)
        return released

    async def count(self, batch_id: str, turn: int, states: Sequence[str], *, limit: int | None = None) -> int:
        """Return how many units of the run are in one of these states; the index alone answers."""
        return await self.collection.count(
            {"batch_id": batch_id, "turn": turn, "state": {"$in": list(states)}}, limit=limit
        )

    async def tally(self, batch_id: str, turn: int) -> Tally:
        """Return the sums over the units of a run."""
        rows = await self.collection.aggregate(
            [
                {"$match": {"batch_id": batch_id, "turn": turn}},
                {
                    "$group": {
                        "_id": "$state",
                        "units": {"$sum": 1},
                        "objects": {"$sum": "$size"},
                        "finished": {"$sum": "$finished"},
                        "failed": {"$sum": "$failed"},
                        "documents": {"$sum": "$documents"},
                    }
                },
            ],
            limit=10,
        )
        states = {row["_id"]: row["units"] for row in rows}
        return Tally(
            held=states.get("held", 0),
            open=sum(states.get(state, 0) for state in OPEN_STATES),
            objects=sum(row["objects"] for row in rows),
            finished=sum(row["finished"] for row in rows),
            failed=sum(row["failed"] for row in rows),
            documents=sum(row["documents"] for row in rows),
        )

    async def find_failures(self, batch_id: str, turn: int, *, limit: int) -> list[WorkUnitDocument]:
        """Return units of the run that have failed items."""
        return await self.collection.find(
            {"batch_id": batch_id, "turn": turn, "failed": {"$gt": 0}},
            limit=limit,
            sort=[("_id", 1)],
            fields=["items", "results"],
        )

    async def latest_results(self, batch_id: str, *, before: int | None = None) -> dict[str, Latest]:
        """Return for each object of the batch its last run, or its last run below ``before``."""
        found: dict[str, Latest] = {}
        fields = ["items.object_id", "items.batch_id", "items.turn", "results"]
        async for unit in self.collection.stream({"items.batch_id": batch_id}, fields=fields):
            for place, item in enumerate(unit["items"]):
                if item["batch_id"] != batch_id or (before is not None and item["turn"] >= before):
                    continue
                known = found.get(item["object_id"])
                if known is None or item["turn"] > known.turn:
                    found[item["object_id"]] = Latest(item["turn"], unit["_id"], unit["results"].get(str(place)))
        return found

    async def lease(self, unit_id: str, owner: str, *, now: datetime, until: datetime) -> WorkUnitDocument | None:
        """Lease the unit if it is ready or its lease has expired; return None if it is leased or over.

        The same write records how an expired lease ended: if its holder worked on one item alone, that item is added
        to ``crashed_items``; if it worked on none, the lease counts as released.
        """
        current_item = "$lease.current_item"
        idle = {"$eq": [current_item, NO_ITEM]}
        # In MongoDB's order a missing field is below every number.
        crashed = {"$cond": [{"$gte": [current_item, 0]}, [current_item], []]}
        fields = {
            "attempts": {"$add": ["$attempts", {"$cond": [idle, 0, 1]}]},
            "release_count": {"$add": [{"$ifNull": ["$release_count", 0]}, {"$cond": [idle, 1, 0]}]},
            "crashed_items": {"$concatArrays": [{"$ifNull": ["$crashed_items", []]}, crashed]},
            "state": "leased",
            "lease.current_item": "$$REMOVE",
            "moved_at": now,
        }
        return await self._queue.claim(unit_id, owner, now=now, until=until, fields=fields)

    async def renew_leases(self, unit_ids: Sequence[str], owner: str, *, until: datetime) -> set[str]:
        """Extend the leases and return the units that the owner still holds."""
        return await self._queue.renew(dict.fromkeys(unit_ids, owner), until=until)

    async def set_current_item(self, unit_id: str, owner: str, index: int) -> bool:
        """Record the only item that the owner is working on; return whether the unit is still leased to the owner."""
        where = {"_id": unit_id, **self._queue.held_filter(owner)}
        return await self.collection.update_one(where, {"$set": {"lease.current_item": index}})

    async def mark_idle(self, unit_ids: Sequence[str], owner: str, *, idle: bool) -> None:
        """Record whether the owner has paused all work on these units, so that its crash is not counted for them."""
        changes = {"$set": {"lease.current_item": NO_ITEM}} if idle else {"$unset": {"lease.current_item": ""}}
        await self._queue.update_held(unit_ids, owner, changes)

    async def release(self, unit_id: str, owner: str, *, now: datetime) -> None:
        """Release an unfinished unit. This lease does not count as an attempt, because it did not end in a crash."""
        changes: Changes = {"$set": {"state": "ready", "moved_at": now}, "$inc": {"attempts": -1, "release_count": 1}}
        await self._queue.release(unit_id, owner, changes=changes)

    async def give_up(self, unit: WorkUnitDocument, ending: UnitEnd, *, now: datetime) -> bool:
        """Cancel a unit that is ready or whose lease has expired, unless it was leased since it was read."""
        changes = {"$set": {"state": "canceled", "ending": ending}}
        return await self._queue.give_up(unit["_id"], now=now, changes=changes, where={"attempts": unit["attempts"]})

    async def record(self, results: Mapping[str, Mapping[int, Result]], *, now: datetime) -> None:
        """Store results of items without one. A unit in which every item has a result becomes ``done``."""
        await self.collection.bulk(
            [
                UpdateOne({"_id": unit_id, "state": {"$in": list(OPEN_STATES)}}, result_update(rows, now=now))
                for unit_id, rows in results.items()
            ]
        )

    async def of_batches(self, batch_ids: Sequence[str]) -> list[WorkUnitDocument]:
        """Return the units of automatic batches, each of which has one."""
        return await self.collection.find({"items.batch_id": {"$in": list(batch_ids)}}, limit=max(1, len(batch_ids)))

    async def of_automatic_batch(self, batch_id: str) -> WorkUnitDocument | None:
        """Return the unit that has the item of an automatic batch."""
        return await self.collection.find_one({"items.batch_id": batch_id})

    async def cancel_unleased(self, batch_id: str, turn: int, ending: UnitEnd, now: datetime) -> None:
        """Cancel the held and ready units of a run."""
        await self.collection.update_many(
            {"batch_id": batch_id, "turn": turn, "state": {"$in": ["held", "ready"]}},
            {"$set": {"state": "canceled", "ending": ending, "moved_at": now}},
        )

    async def find_canceled(self, batch_id: str, turn: int, *, after: str, limit: int) -> list[WorkUnitDocument]:
        """Return canceled units of a run with ids greater than ``after``, in order."""
        where = {"batch_id": batch_id, "turn": turn, "state": "canceled", "_id": {"$gt": after}}
        return await self.collection.find(where, limit=limit, sort=[("_id", 1)])

    async def postpone_announcement(self, unit: WorkUnitDocument, until: datetime) -> None:
        """Count an announcement of a stalled unit and move the next behind ``until``, unless the unit has moved."""
        await self.collection.update_one(
            {"_id": unit["_id"], "moved_at": unit["moved_at"]}, {"$set": {"moved_at": until}, "$inc": {"wakes": 1}}
        )

    async def count_open(self, *, limit: int) -> int:
        """Return how many units are open, from the partial index, which needs the condition on ``moved_at``."""
        return await self.collection.count(
            {"state": {"$in": list(OPEN_STATES)}, "moved_at": {"$exists": True}}, limit=limit
        )

    async def delete_of_batches(self, batch_ids: Sequence[str]) -> None:
        """Delete the units of the batches."""
        await self.collection.delete_many({"batch_id": {"$in": list(batch_ids)}})

    async def find_stalled(self, before: datetime, now: datetime, *, limit: int) -> list[WorkUnitDocument]:
        """Return open units that no processor holds and that have not moved since ``before``."""
        return await self.collection.find(
            {
                "state": {"$in": list(OPEN_STATES)},
                "moved_at": {"$lt": before},
                "$or": [{"state": {"$in": ["ready", "canceled"]}}, {"lease.until": {"$lt": now}}],
            },
            limit=limit,
            sort=[("moved_at", 1)],
        )

    async def next_of_other_groups(
        self,
        groups: Sequence[str],
        before: datetime,
        now: datetime,
        *,
        after: str = "",
        fields: Sequence[str] | None = None,
    ) -> WorkUnitDocument | None:
        """Return a unit without a holder since ``before``, of the first group after ``after`` outside ``groups``."""
        return await self.collection.find_one(
            {
                **self._queue.due_filter(now),
                "group": {"$gt": after, "$nin": list(groups)},
                "moved_at": {"$lt": before},
            },
            sort=[("group", 1), ("moved_at", 1)],
            fields=fields,
        )


def items_filter(batch_ids: Iterable[str], object_ids: Iterable[str]) -> dict[str, object]:
    """Return the filter of units with such an item. Both conditions hold for one item, so the index stays selective."""
    item = {"batch_id": {"$in": sorted(set(batch_ids))}, "object_id": {"$in": sorted(set(object_ids))}}
    return {"items": {"$elemMatch": item}}


def result_update(rows: Mapping[int, Mapping[str, object]], *, now: datetime) -> Sequence[Stage]:
    """Return the update that adds results of items without one, and recomputes the sums and the state."""
    # The text of an error may begin with a dollar sign and must not be read as an expression.
    results = {f"results.{place}": {"$ifNull": [f"$results.{place}", {"$literal": row}]} for place, row in rows.items()}
    complete = {"$gte": [{"$size": "$rows"}, "$size"]}
    finished = {"$ne": ["$$this.status", str(Status.DRAFT)]}
    written = {"$ifNull": ["$$this.written", "$$this.documents"]}
    failing = {"$in": ["$$this.status", sorted(FAILURES)]}
    return [
        {"$set": {**results, "moved_at": now}},
        {"$set": {"rows": {"$map": {"input": {"$objectToArray": "$results"}, "in": "$$this.v"}}}},
        {
            "$set": {
                "state": {"$cond": [complete, "done", "$state"]},
                "finished_at": {"$cond": [complete, now, "$$REMOVE"]},
                "finished": {"$size": {"$filter": {"input": "$rows", "cond": finished}}},
                "failed": {"$size": {"$filter": {"input": "$rows", "cond": failing}}},
                "documents": {"$sum": {"$map": {"input": "$rows", "in": written}}},
            }
        },
        {"$unset": "rows"},
    ]
