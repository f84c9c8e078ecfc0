"""The raw limits of the parts, measured with the same clients that the services use."""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable

from pydantic import SecretStr
from pymongo import InsertOne
from tests.bench.rows import Row
from tests.brokers import kafka_settings
from tests.database import drop_database

from bucketline.blobs.s3 import S3BlobStore
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.settings import MongoSettings, S3Settings

BLOB_BYTES = 10_000
CONCURRENCY = 64


async def limits(stack: LocalStack) -> dict[str, Row]:
    """``insert_one``, ``insert_many`` (13 kB documents), ``produce`` (1 kB records) and ``put`` (10 kB objects)."""
    return {**await _mongo(stack), **await _kafka(stack), **await _s3(stack)}


async def _mongo(stack: LocalStack) -> dict[str, Row]:
    database = Database(MongoSettings(url=SecretStr(stack.mongodb_url), database="bench_limits"))
    collection = database.collection("limits")
    try:
        text = os.urandom(BLOB_BYTES * 13 // 20).hex()
        single = await _rate(2_000, lambda n: collection.insert({"_id": f"one-{n}", "text": text}))

        async def many(group: int) -> None:
            await collection.bulk([InsertOne({"_id": f"{group}-{n}", "text": text}) for n in range(500)])

        grouped = 500 * await _rate(20, many, at_once=2)
    finally:
        await drop_database(database)
        database.close()
    return {
        "insert_one": Row("MongoDB insert_one, 13 kB", single, "1/s"),
        "insert_many": Row("MongoDB insert_many, 13 kB", grouped, "1/s"),
    }


async def _kafka(stack: LocalStack) -> dict[str, Row]:
    settings = kafka_settings(stack)
    record = b"x" * 1000
    async with KafkaPublisher(settings) as publisher:

        async def many(group: int) -> None:
            await publisher.publish_raw(
                ("bucketline.objects.v1.dedup.dlq", b"%d" % n, record, [("bench", b"%d" % group)]) for n in range(500)
            )

        await many(0)
        rate = 500 * await _rate(20, many, at_once=2)
    return {"produce": Row("Kafka produce, 1 kB", rate, "1/s")}


async def _s3(stack: LocalStack) -> dict[str, Row]:
    settings = S3Settings(
        endpoint_url=stack.s3.endpoint, access_key=stack.s3.access_key, secret_key=SecretStr(stack.s3.secret_key)
    )
    async with S3BlobStore(settings) as store:

        async def put(number: int) -> None:
            data = number.to_bytes(8, "big") + os.urandom(BLOB_BYTES - 8)
            sha256 = hashlib.sha256(data).hexdigest()
            await store.put_if_absent(f"bench/{sha256}", data, sha256=sha256, content_type="text/plain")

        rate = await _rate(2_000, put, at_once=32)
    return {"put": Row("S3 PUT, 10 kB", rate, "1/s")}


async def _rate(count: int, call: Callable[[int], Awaitable[object]], *, at_once: int = CONCURRENCY) -> float:
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await call(number)

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return count / (time.perf_counter() - started)
