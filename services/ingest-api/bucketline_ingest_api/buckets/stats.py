"""What is in a bucket, told cheaply whatever its size.

A small bucket is counted on every read, so its numbers are exact. A large one is counted in the background, in pieces
that each end soon, at most one replica at a time, and rarely enough to cost a twentieth of one core; reads get the
latest result, and ``stats_updated_at`` says how old it is.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from bucketline.clock import Clock
from bucketline.db.batches import Batches
from bucketline.db.buckets import BucketDocument, Buckets, BucketStats
from bucketline.db.objects import Objects
from bucketline.domain.status import BATCH_ACTIVE, Status
from bucketline.errors import BucketlineError
from bucketline.observability.logging import get_logger

log = get_logger(__name__)

SMALL = 1000
PIECE = 20_000
YOUNGEST = 5.0
SHARE = 20
PATIENCE = 0.5
MAX_CONCURRENCY = 8
FIRST_COUNT = timedelta(minutes=1)

_ACTIVE = {str(Status.DRAFT), *map(str, BATCH_ACTIVE)}
_COMPLETED = {str(Status.COMPLETED), str(Status.COMPLETED_WITH_ERRORS)}


class BucketCounts:
    """Counts objects, bytes and batches of buckets. ``close`` gives up what is being counted."""

    def __init__(self, buckets: Buckets, objects: Objects, batches: Batches, *, clock: Clock) -> None:
        self._buckets = buckets
        self._objects = objects
        self._batches = batches
        self._clock = clock
        self._running: dict[str, asyncio.Task[BucketStats | None]] = {}
        self._gate = asyncio.Semaphore(MAX_CONCURRENCY)

    async def of(self, bucket: BucketDocument) -> BucketStats:
        """The numbers of one bucket; exact if it is small."""
        async with self._gate:
            where = {"bucket_id": bucket["_id"]}
            sizes = await asyncio.gather(
                self._objects.collection.count(where, limit=SMALL + 1),
                self._batches.collection.count(where, limit=SMALL + 1),
            )
            if max(sizes) <= SMALL:
                return await self._count(bucket["_id"])
            return await self._recent(bucket)

    async def of_all(self, buckets: Sequence[BucketDocument]) -> list[BucketStats]:
        """The same for many, a few at a time."""
        return list(await asyncio.gather(*(self.of(bucket) for bucket in buckets)))

    async def close(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _recent(self, bucket: BucketDocument) -> BucketStats:
        known, now = bucket.get("stats"), self._clock.now()
        if known is not None and known["at"] is not None and now - known["at"] < _lifetime(known):
            return known
        task = self._running.get(bucket["_id"])
        if task is None:
            task = asyncio.create_task(self._refresh(bucket["_id"], now, known))
            self._running[bucket["_id"]] = task
            task.add_done_callback(lambda _: self._running.pop(bucket["_id"], None))
        done, _ = await asyncio.wait([task], timeout=PATIENCE)
        if done and not task.cancelled() and (fresh := task.result()):
            return fresh
        return known or await self._roughly(bucket["_id"])

    async def _refresh(self, bucket_id: str, now: datetime, known: BucketStats | None) -> BucketStats | None:
        pause = _lifetime(known) if known else FIRST_COUNT
        try:
            if not await self._buckets.take_stats(bucket_id, now=now, before=now - pause):
                return None
            stats = await self._count(bucket_id)
            await self._buckets.put_stats(bucket_id, stats)
        except BucketlineError as error:
            log.warning("a bucket was not counted", bucket_id=bucket_id, error=error.message)
            return None
        return stats

    async def _roughly(self, bucket_id: str) -> BucketStats:
        """Only the number of objects, from the index: nobody has counted the rest yet."""
        stats = _nothing(None)
        stats["objects"] = await self._objects.collection.count({"bucket_id": bucket_id})
        return stats

    async def _count(self, bucket_id: str) -> BucketStats:
        started = self._clock.now()
        stats = _nothing(started)
        after: Mapping[str, Any] | None = None
        while rows := await self._objects.collection.aggregate(_piece(bucket_id, after), limit=1):
            after = rows[0]
            _add(stats, after)
            if after["objects"] < PIECE:
                break
        stats["batches"] = await self._count_batches(bucket_id)
        stats["seconds"] = (self._clock.now() - started).total_seconds()
        return stats

    async def _count_batches(self, bucket_id: str) -> dict[str, int]:
        rows = await self._batches.collection.aggregate(
            [{"$match": {"bucket_id": bucket_id}}, {"$group": {"_id": "$status", "count": {"$sum": 1}}}], limit=100
        )
        by_status = {str(row["_id"]): int(row["count"]) for row in rows}
        return {
            "total": sum(by_status.values()),
            "active": sum(by_status.get(status, 0) for status in _ACTIVE),
            "completed": sum(by_status.get(status, 0) for status in _COMPLETED),
            "failed": by_status.get(str(Status.FAILED), 0),
        }


def _lifetime(stats: BucketStats) -> timedelta:
    return timedelta(seconds=max(YOUNGEST, SHARE * stats["seconds"]))


def _piece(bucket_id: str, after: Mapping[str, Any] | None) -> list[dict[str, object]]:
    """Sums over the next ``PIECE`` objects, in the order of their index."""
    where: dict[str, object] = {"bucket_id": bucket_id}
    if after is not None:
        where["created_at"] = {"$gte": after["created_at"]}
        where["$or"] = [
            {"created_at": {"$gt": after["created_at"]}},
            {"created_at": after["created_at"], "_id": {"$gt": after["last"]}},
        ]
    return [
        {"$match": where},
        {"$sort": {"bucket_id": 1, "created_at": 1, "_id": 1}},
        {"$limit": PIECE},
        {"$project": {"status": 1, "created_at": 1, "size": {"$sum": "$blobs.details.size_bytes"}}},
        {
            "$group": {
                "_id": None,
                "objects": {"$sum": 1},
                "failed": {"$sum": {"$cond": [{"$eq": ["$status", str(Status.FAILED)]}, 1, 0]}},
                "total": {"$sum": "$size"},
                "max": {"$max": "$size"},
                "min": {"$min": "$size"},
                "created_at": {"$last": "$created_at"},
                "last": {"$last": "$_id"},
            }
        },
    ]


def _nothing(at: datetime | None) -> BucketStats:
    return {
        "objects": 0,
        "failed_objects": 0,
        "total_size": 0,
        "max_size": 0,
        "min_size": 0,
        "batches": {"total": 0, "active": 0, "completed": 0, "failed": 0},
        "last_object_at": None,
        "at": at,
        "seconds": 0.0,
    }


def _add(stats: BucketStats, row: Mapping[str, Any]) -> None:
    smallest = int(row["min"])
    stats["min_size"] = min(stats["min_size"], smallest) if stats["objects"] else smallest
    stats["objects"] += int(row["objects"])
    stats["failed_objects"] += int(row["failed"])
    stats["total_size"] += int(row["total"])
    stats["max_size"] = max(stats["max_size"], int(row["max"]))
    stats["last_object_at"] = row["created_at"]
