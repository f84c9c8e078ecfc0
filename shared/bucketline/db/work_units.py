"""Work units: bounded lists of items, each of which is an object in a turn of a batch.

A unit of ``auto_process`` objects spans as many batches as it has items. Processors take units and give them back: they
write the lease, and with it the state, ``moved_at`` and what is counted of leases (``attempts``, ``returned``,
``suspects``). The batcher writes everything else. A unique index keeps an item in one unit, whoever plans at the same
time; the first final status of an item is its result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo import InsertOne, UpdateOne

from bucketline.db.mongo import Collection, Database
from bucketline.db.unit_pipelines import NO_ITEM, lease_update, result_update
from bucketline.db.work_unit_documents import (
    KEPT,
    OPEN_STATES,
    UNFINISHED_STATES,
    UNIT_INDEXES,
    Item,
    Lease,
    Result,
    UnitEnd,
    WorkUnitDocument,
    group_of,
    written,
)
from bucketline.domain.status import FAILURES

__all__ = [
    "KEPT",
    "OPEN_STATES",
    "UNFINISHED_STATES",
    "UNIT_INDEXES",
    "Item",
    "Latest",
    "Lease",
    "Result",
    "Tally",
    "UnitEnd",
    "WorkUnitDocument",
    "WorkUnits",
    "group_of",
    "written",
]


@dataclass(frozen=True)
class Tally:
    """How a turn of a batch stands: units by what is to be done, objects by what became of them."""

    held: int = 0
    open: int = 0
    objects: int = 0
    finished: int = 0
    failed: int = 0
    documents: int = 0


@dataclass(frozen=True)
class Latest:
    """The last turn in which a batch planned an object, and its result there if there is one."""

    turn: int
    unit_id: str
    result: Result | None

    @property
    def failed(self) -> bool:
        return self.result is not None and self.result["status"] in FAILURES


class WorkUnits:
    """The repository of work units."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[WorkUnitDocument] = database.collection("work_units")

    async def insert(self, documents: Sequence[WorkUnitDocument]) -> set[int]:
        """Writes the units in one round trip; returns the places of those that were refused.

        A unit is refused when it, or one of its items, is in the database already.
        """
        return set((await self.collection.bulk([InsertOne(document) for document in documents])).refused)

    async def planned(self, items: Sequence[Item]) -> set[tuple[str, str, int]]:
        """Which of these items are in a unit: (batch, object, turn)."""
        wanted = {(item["batch_id"], item["object_id"], item["turn"]) for item in items}
        where = items_filter([batch_id for batch_id, _, _ in wanted], [object_id for _, object_id, _ in wanted])
        known: set[tuple[str, str, int]] = set()
        # An object of an automatic batch has a unit for each of its turns: no limit can be told beforehand.
        async for unit in self.collection.stream(where, fields=["items"]):
            known |= {(item["batch_id"], item["object_id"], item["turn"]) for item in unit["items"]}
        return known & wanted

    async def release_held(self, batch_id: str, turn: int, places: int, now: datetime) -> list[WorkUnitDocument]:
        """Makes at most ``places`` held units of the turn ready; returns them."""
        released = []
        for _ in range(places):
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
        """How many units of the turn are in one of these states; the index alone answers."""
        return await self.collection.count(
            {"batch_id": batch_id, "turn": turn, "state": {"$in": list(states)}}, limit=limit
        )

    async def tally(self, batch_id: str, turn: int) -> Tally:
        """The sums over the units of a turn."""
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

    async def failures(self, batch_id: str, turn: int, *, limit: int) -> list[WorkUnitDocument]:
        """Units of the turn in which something failed."""
        return await self.collection.find(
            {"batch_id": batch_id, "turn": turn, "failed": {"$gt": 0}},
            limit=limit,
            sort=[("_id", 1)],
            fields=["items", "results"],
        )

    async def latest(self, batch_id: str, *, before: int | None = None) -> dict[str, Latest]:
        """Each object of the batch in the last turn that planned it, only turns below ``before`` if that is given."""
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
        """Takes the unit, if it is ready or its owner's lease ran out. None: somebody has it, or it is over.

        What became of a lease that ran out is noted in the same write.
        """
        return await self.collection.find_and_update(
            {
                "_id": unit_id,
                "$or": [{"state": "ready"}, {"state": "leased", "lease.until": {"$lt": now}}],
            },
            lease_update(owner, now=now, until=until),
        )

    async def extend(self, unit_ids: Sequence[str], owner: str, *, until: datetime) -> int:
        """The heartbeat of a processor; returns how many of the units it still holds."""
        where = {"_id": {"$in": list(unit_ids)}, "lease.owner": owner, "state": "leased"}
        return await self.collection.update_many(where, {"$set": {"lease.until": until}})

    async def trying(self, unit_id: str, owner: str, place: int) -> bool:
        """Notes that the owner works on this item of the unit and on no other; whether the unit is still its own."""
        where = {"_id": unit_id, "lease.owner": owner, "state": "leased"}
        return await self.collection.update_one(where, {"$set": {"lease.trying": place}})

    async def set_aside(self, unit_ids: Sequence[str], owner: str, *, aside: bool) -> None:
        """Notes that the owner works on nothing of these units, or that it does again."""
        where = {"_id": {"$in": list(unit_ids)}, "lease.owner": owner, "state": "leased"}
        note = {"$set": {"lease.trying": NO_ITEM}} if aside else {"$unset": {"lease.trying": ""}}
        await self.collection.update_many(where, note)

    async def release(self, unit_id: str, owner: str, *, now: datetime) -> None:
        """Gives an unfinished unit back. Not an attempt: whoever can give it back has not been killed by it."""
        await self.collection.update_one(
            {"_id": unit_id, "lease.owner": owner, "state": "leased"},
            {
                "$set": {"state": "ready", "moved_at": now},
                "$unset": {"lease": ""},
                "$inc": {"attempts": -1, "returned": 1},
            },
        )

    async def record(self, results: Mapping[str, Mapping[int, Result]], *, now: datetime) -> None:
        """Adds results; the first of an item stays. A unit all of whose items have one becomes ``done``."""
        await self.collection.bulk(
            [
                UpdateOne({"_id": unit_id, "state": {"$in": list(OPEN_STATES)}}, result_update(rows, now=now))
                for unit_id, rows in results.items()
            ]
        )

    async def many(
        self, unit_ids: Sequence[str], *, fields: Sequence[str] | None = None
    ) -> dict[str, WorkUnitDocument]:
        found = await self.collection.find({"_id": {"$in": list(unit_ids)}}, limit=len(unit_ids), fields=fields)
        return {document["_id"]: document for document in found}

    async def stalled(self, before: datetime, now: datetime, *, limit: int) -> list[WorkUnitDocument]:
        """Open units that have not moved since ``before`` and that nobody holds."""
        return await self.collection.find(
            {
                "state": {"$in": list(OPEN_STATES)},
                "moved_at": {"$lt": before},
                "$or": [{"state": {"$in": ["ready", "canceled"]}}, {"lease.until": {"$lt": now}}],
            },
            limit=limit,
            sort=[("moved_at", 1)],
        )

    async def free_of_others(
        self,
        groups: Sequence[str],
        before: datetime,
        now: datetime,
        *,
        after: str = "",
        fields: Sequence[str] | None = None,
    ) -> WorkUnitDocument | None:
        """A unit that nobody has had since ``before``, of the first group behind ``after`` that is not among these."""
        return await self.collection.find_one(
            {
                "state": {"$in": list(UNFINISHED_STATES)},
                "group": {"$gt": after, "$nin": list(groups)},
                "moved_at": {"$lt": before},
                "$or": [{"state": "ready"}, {"lease.until": {"$lt": now}}],
            },
            sort=[("group", 1), ("moved_at", 1)],
            fields=fields,
        )


def items_filter(batch_ids: Iterable[str], object_ids: Iterable[str]) -> dict[str, object]:
    """Units with such an item. Of one and the same, or the index would be read for all that these batches have."""
    item = {"batch_id": {"$in": sorted(set(batch_ids))}, "object_id": {"$in": sorted(set(object_ids))}}
    return {"items": {"$elemMatch": item}}
