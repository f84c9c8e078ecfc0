"""Batches and their work units.

A batch is written by the ingest API while it is a DRAFT and by the batcher from its submission on. A work unit is a
bounded list of items (an object in a run of a batch); a unit of ``auto_process`` objects spans as many batches as it
has objects. The processor writes a unit's lease, the batcher everything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from pymongo import InsertOne, UpdateOne

from bucketline.domain.status import BATCH_ACTIVE, FAILURES
from bucketline.storage.mongo import Collection, Database, Index
from bucketline.storage.pending import PendingDocument, PendingStore


class FailedObject(TypedDict):
    """A row of a batch's ``failed_objects``."""

    object_id: str
    error: str
    error_type: Literal["transient", "permanent", "resource"]
    timestamp: datetime


class BatchDocument(TypedDict):
    """A batch. ``objects`` is complete and ordered while a DRAFT; ``total`` counts it."""

    _id: str
    namespace_id: str
    bucket_id: str
    batch_name: str | None
    status: str
    objects: list[str]
    total: int
    collection_ids: list[str] | None
    dedup_strategy: Literal["skip", "replace", "force"]
    metadata: dict[str, object]
    task_id: str
    auto: bool
    created_at: datetime
    updated_at: datetime
    run: NotRequired[int]
    planned: NotRequired[bool]
    processed: NotRequired[int]
    failed: NotRequired[int]
    documents_written: NotRequired[int]
    failed_objects: NotRequired[list[FailedObject]]
    missing: NotRequired[int]
    cancel_requested_at: NotRequired[datetime]
    first_error: NotRequired[str | None]
    failure_reason: NotRequired[str | None]
    failure_category: NotRequired[str | None]
    webhook_url: NotRequired[str | None]
    retry_count: NotRequired[int]
    submitted_at: NotRequired[datetime]
    started_at: NotRequired[datetime]
    completed_at: NotRequired[datetime]
    moved_at: NotRequired[datetime]
    task_hidden: NotRequired[bool]
    pending: NotRequired[list[PendingDocument]]
    pending_since: NotRequired[datetime]
    trace: NotRequired[dict[str, str]]


class Item(TypedDict):
    """An object in a unit. ``revision`` is the one that was planned; ``run`` orders its status events."""

    object_id: str
    bucket_id: str
    namespace_id: str
    batch_id: str
    revision: int
    run: int


class Result(TypedDict):
    """The first final status of an item."""

    status: str
    documents: int
    error: str | None
    error_type: str | None


class Lease(TypedDict):
    owner: str
    until: datetime


class UnitDocument(TypedDict):
    """A work unit. ``results`` maps an item's place (as text) to its result; all there means ``done``.

    States: *held* (its batch has enough units in the works), *ready*, *leased* by a processor, *done*, *canceled*.
    ``finished``, ``failed`` and ``documents`` count its results. ``batch_id`` is None for a unit of ``auto_process``
    objects, each of which is a batch of its own.
    """

    _id: str
    batch_id: str | None
    items: list[Item]
    size: int
    state: Literal["held", "ready", "leased", "done", "canceled"]
    results: dict[str, Result]
    finished: int
    failed: int
    documents: int
    collection_ids: list[str] | None
    dedup_strategy: Literal["skip", "replace", "force"]
    attempts: int
    created_at: datetime
    moved_at: datetime
    finished_at: NotRequired[datetime]
    lease: NotRequired[Lease]
    trace: NotRequired[dict[str, str]]


class WaitingDocument(TypedDict):
    """An object of a submitted batch that is not mirrored yet; ``_id`` is ``<batch>:<object>``."""

    _id: str
    batch_id: str
    object_id: str
    since: datetime


_ACTIVE = [str(status) for status in BATCH_ACTIVE]

BATCH_INDEXES = (
    Index("listing", [("bucket_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_namespace", [("namespace_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_status", [("bucket_id", 1), ("status", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_task", [("task_id", 1)], unique=True),
    Index("active", [("moved_at", 1)], where={"status": {"$in": _ACTIVE}}),
    Index("outbox", [("pending_since", 1)], where={"pending_since": {"$exists": True}}),
    Index("members", [("objects", 1)]),
)
UNIT_INDEXES = (
    Index("open", [("moved_at", 1)], where={"state": {"$in": ["ready", "leased"]}}),
    Index("by_batch", [("batch_id", 1), ("state", 1), ("_id", 1)]),
    Index("by_member", [("items.batch_id", 1), ("items.object_id", 1), ("items.run", 1)], unique=True),
    Index("expiry", [("finished_at", 1)], expire_after_seconds=30 * 24 * 3600),
)
WAITING_INDEXES = (
    Index("by_object", [("object_id", 1)]),
    Index("by_batch", [("batch_id", 1), ("_id", 1)]),
    Index("since", [("since", 1)]),
)


class Batches:
    """The repository of batches."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[BatchDocument] = database.collection("batches")
        self.outbox = PendingStore(database.collection("batches"))

    async def insert(self, documents: Sequence[BatchDocument]) -> None:
        """Writes those that are not there yet; one round trip."""
        await self.collection.bulk([InsertOne(document) for document in documents])

    async def get(self, batch_id: str) -> BatchDocument | None:
        return await self.collection.get(batch_id)

    async def many(self, batch_ids: Sequence[str]) -> dict[str, BatchDocument]:
        found = await self.collection.find({"_id": {"$in": list(batch_ids)}}, limit=len(batch_ids))
        return {document["_id"]: document for document in found}

    async def stalled(self, before: datetime, *, limit: int) -> list[BatchDocument]:
        """Submitted batches that have not moved since ``before``."""
        return await self.collection.find(
            {"status": {"$in": _ACTIVE}, "moved_at": {"$lt": before}}, limit=limit, sort=[("moved_at", 1)]
        )


class Units:
    """The repository of work units."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[UnitDocument] = database.collection("units")

    async def insert(self, documents: Sequence[UnitDocument]) -> set[int]:
        """Writes the units in one round trip; returns the places of those that were refused.

        A unit is refused when it, or one of its items, is in the database already: a unique index sees to it that an
        item (an object in a run of a batch) is never in two units, whoever plans at the same time.
        """
        return set((await self.collection.bulk([InsertOne(document) for document in documents])).refused)

    async def planned(self, items: Sequence[Item]) -> set[tuple[str, str, int]]:
        """Which of these items are in a unit: (batch, object, run)."""
        wanted = {(item["batch_id"], item["object_id"], item["run"]) for item in items}
        where = {
            "items.batch_id": {"$in": list({batch_id for batch_id, _, _ in wanted})},
            "items.object_id": {"$in": list({object_id for _, object_id, _ in wanted})},
        }
        found = await self.collection.find(where, limit=len(wanted), fields=["items"])
        known = {(item["batch_id"], item["object_id"], item["run"]) for unit in found for item in unit["items"]}
        return known & wanted

    async def release_held(self, batch_id: str, places: int, now: datetime) -> list[UnitDocument]:
        """Makes at most ``places`` held units of the batch ready; returns them."""
        released = []
        for _ in range(places):
            unit = await self.collection.find_and_update(
                {"batch_id": batch_id, "state": "held"},
                {"$set": {"state": "ready", "moved_at": now}},
                sort=[("_id", 1)],
                fields=["size", "trace"],
            )
            if unit is None:
                break
            released.append(unit)
        return released

    async def tally(self, batch_id: str) -> "Tally":
        """The sums over a batch's units."""
        rows = await self.collection.aggregate(
            [
                {"$match": {"batch_id": batch_id}},
                {
                    "$group": {
                        "_id": "$state",
                        "units": {"$sum": 1},
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
            open=states.get("ready", 0) + states.get("leased", 0),
            finished=sum(row["finished"] for row in rows),
            failed=sum(row["failed"] for row in rows),
            documents=sum(row["documents"] for row in rows),
        )

    async def failures(self, batch_id: str, *, limit: int) -> list[UnitDocument]:
        """Units of the batch in which something failed."""
        return await self.collection.find(
            {"batch_id": batch_id, "failed": {"$gt": 0}}, limit=limit, fields=["items", "results"]
        )

    async def lease(self, unit_id: str, owner: str, *, now: datetime, until: datetime) -> UnitDocument | None:
        """Takes the unit, if it is ready or its owner's lease ran out. None: somebody has it, or it is over."""
        return await self.collection.find_and_update(
            {
                "_id": unit_id,
                "$or": [{"state": "ready"}, {"state": "leased", "lease.until": {"$lt": now}}],
            },
            {
                "$set": {"state": "leased", "lease": {"owner": owner, "until": until}, "moved_at": now},
                "$inc": {"attempts": 1},
            },
        )

    async def extend(self, unit_ids: Sequence[str], owner: str, *, until: datetime) -> int:
        """The heartbeat of a processor; returns how many of the units it still holds."""
        where = {"_id": {"$in": list(unit_ids)}, "lease.owner": owner, "state": "leased"}
        return await self.collection.update_many(where, {"$set": {"lease.until": until}})

    async def release(self, unit_id: str, owner: str, *, now: datetime) -> None:
        """Gives an unfinished unit back."""
        await self.collection.update_one(
            {"_id": unit_id, "lease.owner": owner, "state": "leased"},
            {"$set": {"state": "ready", "moved_at": now}, "$unset": {"lease": ""}},
        )

    async def record(self, results: Mapping[str, Mapping[int, Result]], *, now: datetime) -> None:
        """Adds results; the first of an item stays. A unit all of whose items have one becomes ``done``."""
        await self.collection.bulk([_record(unit_id, rows, now) for unit_id, rows in results.items()])

    async def many(self, unit_ids: Sequence[str]) -> dict[str, UnitDocument]:
        found = await self.collection.find({"_id": {"$in": list(unit_ids)}}, limit=len(unit_ids))
        return {document["_id"]: document for document in found}

    async def stalled(self, before: datetime, now: datetime, *, limit: int) -> list[UnitDocument]:
        """Open units that have not moved since ``before`` and that nobody holds."""
        return await self.collection.find(
            {
                "state": {"$in": ["ready", "leased"]},
                "moved_at": {"$lt": before},
                "$or": [{"state": "ready"}, {"lease.until": {"$lt": now}}],
            },
            limit=limit,
            sort=[("moved_at", 1)],
        )


def _record(unit_id: str, rows: Mapping[int, Result], now: datetime) -> UpdateOne:
    results = {f"results.{place}": {"$ifNull": [f"$results.{place}", row]} for place, row in rows.items()}
    complete = {"$gte": [{"$size": "$rows"}, "$size"]}
    failing = {"$in": ["$$this.status", sorted(FAILURES)]}
    return UpdateOne(
        {"_id": unit_id, "state": {"$in": ["ready", "leased"]}},
        [
            {"$set": {**results, "moved_at": now}},
            {"$set": {"rows": {"$map": {"input": {"$objectToArray": "$results"}, "in": "$$this.v"}}}},
            {
                "$set": {
                    "state": {"$cond": [complete, "done", "$state"]},
                    "finished_at": {"$cond": [complete, now, "$$REMOVE"]},
                    "finished": {"$size": "$rows"},
                    "failed": {"$size": {"$filter": {"input": "$rows", "cond": failing}}},
                    "documents": {"$sum": "$rows.documents"},
                }
            },
            {"$unset": "rows"},
        ],
    )


@dataclass(frozen=True)
class Tally:
    """How a batch stands: units by what is to be done, objects by what became of them."""

    held: int
    open: int
    finished: int
    failed: int
    documents: int


class Waiting:
    """Objects that submitted batches wait for."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[WaitingDocument] = database.collection("waiting")

    async def add(self, batch_id: str, object_ids: Sequence[str], since: datetime) -> None:
        await self.collection.bulk(
            [
                UpdateOne(
                    {"_id": f"{batch_id}:{object_id}"},
                    {"$setOnInsert": {"batch_id": batch_id, "object_id": object_id, "since": since}},
                    upsert=True,
                )
                for object_id in object_ids
            ]
        )

    async def of_objects(self, object_ids: Sequence[str], *, limit: int) -> list[WaitingDocument]:
        return await self.collection.find({"object_id": {"$in": list(object_ids)}}, limit=limit)

    async def remove(self, identifiers: Sequence[str]) -> int:
        return await self.collection.delete_many({"_id": {"$in": list(identifiers)}})

    async def count(self, batch_id: str) -> int:
        return await self.collection.count({"batch_id": batch_id})
