"""Two consumers: ``mirror`` stores the blob in S3, ``process`` writes the result and the status."""

import asyncio
import sys
from typing import Any

import aioboto3
import job
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from botocore.exceptions import ClientError
from motor.motor_asyncio import AsyncIOMotorClient


async def mirror(database: Any, object_id: str, s3: Any, producer: AIOKafkaProducer) -> None:
    document = await database.objects.find_one({"_id": object_id})
    data, key = job.content(document)
    try:
        await s3.put_object(Bucket=job.BUCKET, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
            raise
    await database.objects.update_one({"_id": object_id}, {"$set": {"blob_key": key, "status": "PROCESSING"}})
    await producer.send_and_wait("peer.mirrored", object_id.encode(), key=object_id.encode())


async def process(database: Any, object_id: str) -> None:
    document = await database.objects.find_one({"_id": object_id})
    made = job.result(document)
    await database.results.replace_one({"_id": made["_id"]}, made, upsert=True)
    await database.objects.update_one({"_id": object_id}, {"$set": {"status": "COMPLETED"}})


async def main(stage: str) -> None:
    database: Any = AsyncIOMotorClient(job.MONGODB_URL, w="majority")[job.DATABASE]
    topic = {"mirror": "peer.objects", "process": "peer.mirrored"}[stage]
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=job.KAFKA,
        group_id=f"peer.{stage}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=20,
        session_timeout_ms=6000,
    )
    producer = AIOKafkaProducer(bootstrap_servers=job.KAFKA, acks="all")
    async with consumer, producer, aioboto3.Session().client("s3", **job.S3) as s3:
        async for record in consumer:
            object_id = record.value.decode()
            if stage == "mirror":
                await mirror(database, object_id, s3, producer)
            else:
                await process(database, object_id)
            await consumer.commit()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
