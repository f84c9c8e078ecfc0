"""Processing alone: mirrored drafts, from the submission of their batch to its end, in batches of growing size."""

import asyncio
import time

from tests.bench.rows import Row
from tests.conftest import Api

from bucketline.cli.client import ApiClient
from bucketline.db.mongo import Database

COUNTS = (1_000, 20_000, 100_000)
MOST_IN_A_BATCH = 50_000
A_REQUEST = 100
WRITERS = 4
DEADLINE = 900.0


async def growth(api: Api, database: Database) -> list[Row]:
    """Cost of an object in batches of growing size, each beside the smallest; a flat cost has the ratio 1.

    More than 50,000 objects are several batches, submitted together. An unmeasured batch goes first: the services load
    their code and fill their caches in it.
    """
    await process(api, database, 500)
    rows: list[Row] = []
    for count in COUNTS:
        seconds = await process(api, database, count)
        cost = seconds / count * 1e6
        first = rows[1].value if rows else None
        rows += [
            Row(f"processing, batch of {count:,}", count / seconds, "1/s"),
            Row(f"processing, an object of {count:,}", cost, "µs", f"of {COUNTS[0]:,}" if first else None, first),
        ]
    return rows


async def process(api: Api, database: Database, count: int) -> float:
    """Seconds from the submission of ``count`` small objects to the last of them COMPLETED, one document each."""
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    collection = await api.collection(namespace, bucket)
    client = api.client(namespace)
    ids = await drafts(client, bucket, count)
    await _until(database, "objects", {"bucket_id": bucket, "mirror.state": "done"}, count)
    parts = [ids[start : start + MOST_IN_A_BATCH] for start in range(0, count, MOST_IN_A_BATCH)]
    path = f"/v1/buckets/{bucket}/batches"
    batches = [(await client.post(path, {"object_ids": part}))["batch_id"] for part in parts]
    started = time.perf_counter()
    for batch_id in batches:
        await client.post(f"{path}/{batch_id}/submit")
    # The batches first: to count 100,000 objects again and again would be work for the store that is measured.
    await _until(database, "batches", {"_id": {"$in": batches}, "status": "COMPLETED"}, len(batches))
    await _until(database, "objects", {"bucket_id": bucket, "status": "COMPLETED"}, count)
    seconds = time.perf_counter() - started
    documents = await database.collection("documents").count({"collection_id": collection})
    assert documents == count, f"{documents} documents of {count} objects"
    return seconds


async def drafts(client: ApiClient, bucket: str, count: int) -> list[str]:
    """The ids of ``count`` new objects with a name and nothing else."""
    starts = iter(range(0, count, A_REQUEST))
    ids: list[str] = []

    async def write() -> None:
        for start in starts:
            rows = [{"name": f"n{number}"} for number in range(start, min(start + A_REQUEST, count))]
            answer = await client.post(f"/v1/buckets/{bucket}/objects/batch", {"objects": rows})
            ids.extend(str(row["object_id"]) for row in answer["succeeded"])

    await asyncio.gather(*(write() for _ in range(WRITERS)))
    assert len(ids) == count, f"{len(ids)} of {count} objects were created"
    return ids


async def _until(database: Database, collection: str, where: dict[str, object], count: int) -> None:
    """Counts by index, ten times a second."""
    ends = time.perf_counter() + DEADLINE
    while await database.collection(collection).count(where) < count:
        assert time.perf_counter() < ends, f"not {count} {collection} in time"
        await asyncio.sleep(0.1)
