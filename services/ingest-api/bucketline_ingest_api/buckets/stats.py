"""Statistics of buckets, at a bounded cost.

A small bucket is counted on every read, so its numbers are exact. A large one is counted in the background by one
replica at a time, in short queries, and rarely enough to cost a twentieth of one core; reads get the latest result,
and ``stats_updated_at`` shows how old it is.
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

SMALL_BUCKET = 1000
CHUNK_SIZE = 20_000
MIN_LIFETIME_SECONDS = 5.0
LIFETIME_PER_COUNTING_SECOND = 20
MAX_WAIT_SECONDS = 0.5
MAX_CONCURRENCY = 8
FIRST_COUNT_TIMEOUT = timedelta(minutes=1)

_ACTIVE = {str(Status.DRAFT), *map(str, BATCH_ACTIVE)}
_COMPLETED = {str(Status.COMPLETED), str(Status.COMPLETED_WITH_ERRORS)}


class BucketCounts:
    """Counts objects, bytes and batches of buckets."""

    def __init__(self, buckets: Buckets, objects: Objects, batches: Batches, *, clock: Clock) -> None:
        self._buckets = buckets
        self._objects = objects
        self._batches = batches
        self._clock = clock
        self._running: dict[str, asyncio.Task[BucketStats | None]] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENCY)

    async def of(self, bucket: BucketDocument) -> BucketStats:
        """Return the statistics of a bucket; exact if it is small."""
        async with self._slots:
            where = {"bucket_id": bucket["_id"]}
            sizes = await asyncio.gather(
                self._objects.count_matching(where, limit=SMALL_BUCKET + 1),
                self._batches.count_matching(where, limit=SMALL_BUCKET + 1),
            )
            if max(sizes) <= SMALL_BUCKET:
                return await self._count(bucket["_id"])
            return await self._latest(bucket)

    async def of_all(self, buckets: Sequence[BucketDocument]) -> list[BucketStats]:
        """Return the statistics of several buckets, with bounded concurrency."""
        return list(await asyncio.gather(*(self.of(bucket) for bucket in buckets)))

    async def close(self) -> None:
        """Cancel the counts that are running."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _latest(self, bucket: BucketDocument) -> BucketStats:
        latest, now = bucket.get("stats"), self._clock.now()
        if latest is not None and latest["at"] is not None and now - latest["at"] < _lifetime(latest):
            return latest
        task = self._running.get(bucket["_id"])
        if task is None:
            task = asyncio.create_task(self._refresh(bucket["_id"], now, latest))
            self._running[bucket["_id"]] = task
            task.add_done_callback(lambda _: self._running.pop(bucket["_id"], None))
        done, _ = await asyncio.wait([task], timeout=MAX_WAIT_SECONDS)
        if done and not task.cancelled() and (counted := task.result()):
            return counted
        return latest or await self._count_objects(bucket["_id"])

    async def _refresh(self, bucket_id: str, now: datetime, latest: BucketStats | None) -> BucketStats | None:
        pause = _lifetime(latest) if latest else FIRST_COUNT_TIMEOUT
        try:
            if not await self._buckets.take_stats(bucket_id, now=now, before=now - pause):
                return None
            stats = await self._count(bucket_id)
            await self._buckets.put_stats(bucket_id, stats)
        except BucketlineError as error:
            log.warning("bucket count failed", bucket_id=bucket_id, error=error.message)
            return None
        return stats

    async def _count_objects(self, bucket_id: str) -> BucketStats:
        """Return only the number of objects, from the index, while the rest has not been counted yet."""
        stats = _empty_stats(None)
        stats["objects"] = await self._objects.count_matching({"bucket_id": bucket_id})
        return stats

    async def _count(self, bucket_id: str) -> BucketStats:
        started = self._clock.now()
        stats = _empty_stats(started)
        after: Mapping[str, Any] | None = None
        while rows := await self._objects.aggregate(_chunk_pipeline(bucket_id, after), limit=1):
            after = rows[0]
            _add_chunk(stats, after)
            if after["objects"] < CHUNK_SIZE:
                break
        stats["batches"] = await self._count_batches(bucket_id)
        stats["seconds"] = (self._clock.now() - started).total_seconds()
        return stats

    async def _count_batches(self, bucket_id: str) -> dict[str, int]:
        by_status = await self._batches.count_by_status(bucket_id)
        return {
            "total": sum(by_status.values()),
            "active": sum(by_status.get(status, 0) for status in _ACTIVE),
            "completed": sum(by_status.get(status, 0) for status in _COMPLETED),
            "failed": by_status.get(str(Status.FAILED), 0),
        }


def _lifetime(stats: BucketStats) -> timedelta:
    return timedelta(seconds=max(MIN_LIFETIME_SECONDS, LIFETIME_PER_COUNTING_SECOND * stats["seconds"]))


def _chunk_pipeline(bucket_id: str, after: Mapping[str, Any] | None) -> list[dict[str, object]]:
    """Return a pipeline that sums over the next ``CHUNK_SIZE`` objects, in the order of their index."""
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
        {"$limit": CHUNK_SIZE},
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


def _empty_stats(at: datetime | None) -> BucketStats:
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


def _add_chunk(stats: BucketStats, row: Mapping[str, Any]) -> None:
    smallest = int(row["min"])
    stats["min_size"] = min(stats["min_size"], smallest) if stats["objects"] else smallest
    stats["objects"] += int(row["objects"])
    stats["failed_objects"] += int(row["failed"])
    stats["total_size"] += int(row["total"])
    stats["max_size"] = max(stats["max_size"], int(row["max"]))
    stats["last_object_at"] = row["created_at"]
