"""Counts for the overview, at a bounded cost, and the dead letters of all services."""

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from aiokafka.errors import KafkaError

from bucketline.db.mongo import QueryTimeout, query_timeout
from bucketline.domain.status import FAILURES, FINAL, Status
from bucketline.errors import RetryableError, ServiceUnavailable
from bucketline.kafka.admin import measure_lag
from bucketline.kafka.dead_letters import DeadLetter, DeadLetterStore
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.operations.schemas import Backlog, Content, DeadLettersHandled, Lag, Minute, Overview

T = TypeVar("T")

MAX_COUNT = 100_000
MAX_BUCKETS = 1000
MAX_CONTENT_OBJECTS = 50_000
COUNT_SECONDS = 5.0
HOUR = timedelta(hours=1)
SHOWN_STATUSES = (Status.DRAFT, Status.QUEUED, Status.PROCESSING, *sorted(FINAL))
BINS_PER_DOUBLING = 8
"""Latencies are grouped by the logarithm of their milliseconds: each bin is nine percent wider than the one before."""


async def get_overview(container: Container, namespace_id: str) -> Overview:
    """Return the counts of a namespace, which may be a few seconds old."""
    if (cached := container.overviews.get(namespace_id)) is not None:
        return cached
    now = container.clock.now()
    buckets = await container.buckets.search({"namespace_id": namespace_id}, limit=MAX_BUCKETS, fields=["_id"])
    ids = [bucket["_id"] for bucket in buckets]
    by_status, minutes, content = {}, None, None
    with suppress(QueryTimeout), query_timeout(COUNT_SECONDS):
        for status in SHOWN_STATUSES:
            where = {"bucket_id": {"$in": ids}, "status": str(status)}
            by_status[str(status)] = await container.objects.count_matching(where, limit=MAX_COUNT)
        minutes = await _count_last_hour(container, ids, now)
        content = await _count_content(container, ids)
    overview = Overview(objects_by_status=by_status, last_hour=minutes, content=content, counted_at=now)
    container.overviews[namespace_id] = overview
    return overview


async def get_backlog(container: Container) -> Backlog:
    """Return how much work waits in MongoDB, from partial indexes, and in Kafka; it may be a few seconds old."""
    if (cached := container.backlog.get("")) is not None:
        return cached
    now = container.clock.now()
    unpublished, due = {"pending_since": {"$exists": True}}, {"due_at": {"$lte": now}}
    lag, dead_letters = None, None
    with suppress(KafkaError, RetryableError, TimeoutError, OSError):
        async with asyncio.timeout(COUNT_SECONDS):
            lag = [Lag(**vars(row)) for row in await measure_lag(container.kafka_settings)]
            dead_letters = await container.dead_letters.count()
    backlog = Backlog(
        consumer_lag=lag,
        dead_letters=dead_letters,
        unpublished_events=await container.objects.count_matching(unpublished, limit=MAX_COUNT)
        + await container.batches.count_matching(unpublished, limit=MAX_COUNT),
        mirroring=await container.mirror_queue.count_due(now, "small", limit=MAX_COUNT),
        mirroring_large=await container.mirror_queue.count_due(now, "large", limit=MAX_COUNT),
        work_units=await container.units.count_open(limit=MAX_COUNT),
        webhook_deliveries=await container.webhook_deliveries.count_matching(due, limit=MAX_COUNT),
    )
    container.backlog[""] = backlog
    return backlog


async def list_dead_letters(store: DeadLetterStore, *, limit: int, include_all: bool) -> Sequence[DeadLetter]:
    """Return dead letters; 503 while Kafka does not answer."""
    return await _answer(store.list(limit=limit, include_all=include_all))


async def replay_dead_letters(store: DeadLetterStore, addresses: Iterable[str]) -> DeadLettersHandled:
    """Publish the records to the topics that they came from and remove them from the list."""

    async def replay(row: DeadLetter) -> None:
        await store.replay_one(row)
        await store.discard(row)

    return await _handle(store, addresses, replay, skip_incomplete=True)


async def discard_dead_letters(store: DeadLetterStore, addresses: Iterable[str]) -> DeadLettersHandled:
    """Exclude the records from lists and replays."""
    return await _handle(store, addresses, store.discard, skip_incomplete=False)


async def _handle(
    store: DeadLetterStore,
    addresses: Iterable[str],
    action: Callable[[DeadLetter], Awaitable[None]],
    *,
    skip_incomplete: bool,
) -> DeadLettersHandled:
    handled, missing, incomplete = 0, [], []
    for address in dict.fromkeys(addresses):
        topic, partition, offset = address.rsplit(":", 2)
        row = await _answer(store.get(topic, int(partition), int(offset)))
        if row is None or row.discarded:
            missing.append(address)
        elif skip_incomplete and row.incomplete is not None:
            incomplete.append(address)
        else:
            await _answer(action(row))
            handled += 1
    return DeadLettersHandled(handled=handled, missing=missing, incomplete=incomplete)


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except RetryableError as error:
        raise ServiceUnavailable(error.message) from error


async def _count_last_hour(container: Container, bucket_ids: Sequence[str], now: datetime) -> list[Minute]:
    since = now.replace(second=0, microsecond=0) - HOUR + timedelta(minutes=1)
    in_buckets = {"bucket_id": {"$in": list(bucket_ids)}}
    created = await container.objects.aggregate(
        [
            {"$match": {**in_buckets, "created_at": {"$gte": since}}},
            {"$group": {"_id": _minute_of("$created_at"), "count": {"$sum": 1}}},
        ],
        limit=100,
    )
    latency = {"$max": [1, {"$subtract": ["$moved_at", "$created_at"]}]}
    finished = await container.objects.aggregate(
        [
            {"$match": {**in_buckets, "updated_at": {"$gte": since}, "status": {"$in": sorted(FINAL)}}},
            {"$match": {"moved_at": {"$gte": since}}},
            {
                "$group": {
                    "_id": {
                        "minute": _minute_of("$moved_at"),
                        "bin": {"$floor": {"$multiply": [BINS_PER_DOUBLING, {"$log": [latency, 2]}]}},
                        "failed": {"$in": ["$status", sorted(FAILURES)]},
                    },
                    "count": {"$sum": 1},
                }
            },
        ],
        limit=60 * 40 * BINS_PER_DOUBLING,
    )
    created_by_minute = {row["_id"]: int(row["count"]) for row in created}
    bins: defaultdict[datetime, Counter[int]] = defaultdict(Counter)
    failed: Counter[datetime] = Counter()
    for row in finished:
        key, count = row["_id"], int(row["count"])
        bins[key["minute"]][int(key["bin"])] += count
        failed[key["minute"]] += count if key["failed"] else 0
    minutes = [since + timedelta(minutes=number) for number in range(60)]
    return [
        Minute(
            at=minute,
            created=created_by_minute.get(minute, 0),
            finished=bins[minute].total(),
            failed=failed[minute],
            p50_seconds=percentile(bins[minute], 0.5),
            p95_seconds=percentile(bins[minute], 0.95),
        )
        for minute in minutes
    ]


def percentile(bins: Counter[int], share: float) -> float | None:
    """Return the upper end, in seconds, of the bin that contains this share of the values; None without values."""
    remaining = math.ceil(bins.total() * share)
    for number in sorted(bins):
        remaining -= bins[number]
        if remaining <= 0:
            return round(2 ** ((number + 1) / BINS_PER_DOUBLING) / 1000, 4)
    return None


async def _count_content(container: Container, bucket_ids: Sequence[str]) -> Content:
    rows = await container.objects.aggregate(
        [
            {"$match": {"bucket_id": {"$in": list(bucket_ids)}}},
            {"$limit": MAX_CONTENT_OBJECTS + 1},
            {"$project": {"blobs.details": 1}},
            {"$unwind": {"path": "$blobs", "preserveNullAndEmptyArrays": True, "includeArrayIndex": "index"}},
            {
                "$group": {
                    "_id": "$blobs.details.hash",
                    "size": {"$max": "$blobs.details.size_bytes"},
                    "blobs": {"$sum": 1},
                    "objects": {"$sum": {"$cond": [{"$lte": ["$index", 0]}, 1, 0]}},
                }
            },
            {
                "$group": {
                    "_id": None,
                    "objects": {"$sum": "$objects"},
                    "blobs": {"$sum": {"$cond": [{"$gt": ["$size", None]}, "$blobs", 0]}},
                    "total": {"$sum": {"$multiply": ["$size", "$blobs"]}},
                    "unique": {"$sum": "$size"},
                }
            },
        ],
        limit=1,
    )
    if not rows:
        return Content(objects=0, blobs=0, total_bytes=0, unique_bytes=0, complete=True)
    [row] = rows
    objects = int(row["objects"])
    return Content(
        objects=objects,
        blobs=int(row["blobs"]),
        total_bytes=int(row["total"]),
        unique_bytes=int(row["unique"]),
        complete=objects <= MAX_CONTENT_OBJECTS,
    )


def _minute_of(field: str) -> dict[str, object]:
    return {"$dateTrunc": {"date": field, "unit": "minute"}}
