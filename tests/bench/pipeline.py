"""The pipeline itself: creates a second, objects a second from request to COMPLETED, latency at idle, memory."""

import asyncio
import os
import time
from collections.abc import Callable

import orjson
import psutil
from tests.bench.limits import BLOB_BYTES
from tests.bench.load import request, run
from tests.bench.rows import Row
from tests.conftest import ADMIN_KEY, Api

from bucketline.cli.client import ApiClient
from bucketline.db.mongo import Database
from bucketline.devstack.supervisor import Supervisor

CONNECTIONS = 64
DEADLINE = 300.0


async def creates(api: Api, database: Database, limits: dict[str, Row], *, requests: int = 10_000) -> list[Row]:
    """POST of one object with a 10 kB text at 64 connections; drafts, so that only the API is measured.

    Returns when dedup has mirrored them all: the next measurement starts on an idle pipeline.
    """
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    load = await run(api.url, _posts(api, namespace, bucket, auto=False), requests=requests, connections=CONNECTIONS)
    assert not load.failures, f"{load.failures} creates failed"
    single = limits["insert_one"].value
    await _until(database, {"bucket_id": bucket, "mirror.state": "done"}, requests)
    return [
        Row("creates, 64 connections", load.rate, "1/s", "insert_one", single),
        Row("creates, p50", load.quantile(0.5) * 1000, "ms"),
        Row("creates, p99", load.quantile(0.99) * 1000, "ms"),
    ]


async def whole(api: Api, database: Database, limits: dict[str, Row], *, objects: int = 5_000) -> list[Row]:
    """Objects with distinct 10 kB blobs, from the first request to the last COMPLETED."""
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    started = time.perf_counter()
    load = await run(api.url, _posts(api, namespace, bucket, auto=True), requests=objects, connections=CONNECTIONS)
    assert not load.failures, f"{load.failures} creates failed"
    await _until(database, {"bucket_id": bucket, "status": "COMPLETED"}, objects)
    rate = objects / (time.perf_counter() - started)
    return [Row("whole pipeline, 10 kB blobs", rate, "1/s", "S3 PUT", limits["put"].value)]


async def latency(api: Api, *, rounds: int = 50) -> list[Row]:
    """POST to COMPLETED, one object at a time."""
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    client = api.client(namespace)
    times = sorted([await _one(client, bucket, number) for number in range(rounds)])
    return [
        Row("POST to COMPLETED at idle, p50", times[rounds // 2] * 1000, "ms"),
        Row("POST to COMPLETED at idle, p95", times[int(rounds * 0.95)] * 1000, "ms"),
    ]


def memory(supervisor: Supervisor, moment: str) -> list[Row]:
    """Resident memory of each service."""
    rows = []
    for name, pid in supervisor.pids().items():
        rows.append(Row(f"memory of {name}, {moment}", psutil.Process(pid).memory_info().rss / 2**20, "MiB"))
    return rows


async def _until(database: Database, where: dict[str, object], count: int) -> None:
    started = time.perf_counter()
    while await database.collection("objects").count(where) < count:
        assert time.perf_counter() - started < DEADLINE, "not every object got there in time"
        await asyncio.sleep(0.1)


async def _one(client: ApiClient, bucket: str, number: int) -> float:
    body = {"blobs": [{"property": "note", "type": "text", "data": f"{number} {os.urandom(4000).hex()}"}]}
    started = time.perf_counter()
    created = await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")
    path = f"/v1/buckets/{bucket}/objects/{created['object_id']}"
    while (await client.get(path))["status"] != "COMPLETED":
        assert time.perf_counter() - started < DEADLINE, "the object was not completed in time"
        await asyncio.sleep(0.001)
    return time.perf_counter() - started


def _posts(api: Api, namespace: str, bucket: str, *, auto: bool) -> Callable[[int], bytes]:
    headers = {
        "Authorization": f"Bearer {ADMIN_KEY}",
        "X-Namespace": namespace,
        "Content-Type": "application/json",
    }
    path = f"/v1/buckets/{bucket}/objects" + ("?auto_process=true" if auto else "")
    text = os.urandom(BLOB_BYTES // 2 - 10).hex()

    def make(number: int) -> bytes:
        blob = {"property": "note", "type": "text", "data": f"{number:020d}{text}"}
        return request(api.url, path, headers, orjson.dumps({"blobs": [blob], "name": f"n{number}"}))

    return make
