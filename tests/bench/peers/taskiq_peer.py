"""Taskiq with Redis streams: the API and two chained tasks, acknowledged after they ran."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3
import job
from botocore.exceptions import ClientError
from fastapi import FastAPI
from motor.motor_asyncio import AsyncIOMotorClient
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(url=job.REDIS_URL)
shared: dict[str, Any] = {}


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def start(state: TaskiqState) -> None:
    shared["database"] = AsyncIOMotorClient(job.MONGODB_URL, w="majority")[job.DATABASE]
    shared["s3"] = await aioboto3.Session().client("s3", **job.S3).__aenter__()


@broker.task
async def mirror(object_id: str) -> None:
    objects = shared["database"].objects
    document = await objects.find_one({"_id": object_id})
    data, key = job.content(document)
    try:
        await shared["s3"].put_object(Bucket=job.BUCKET, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
            raise
    await objects.update_one({"_id": object_id}, {"$set": {"blob_key": key, "status": "PROCESSING"}})
    await process.kiq(object_id)


@broker.task
async def process(object_id: str) -> None:
    database = shared["database"]
    made = job.result(await database.objects.find_one({"_id": object_id}))
    await database.results.replace_one({"_id": made["_id"]}, made, upsert=True)
    await database.objects.update_one({"_id": object_id}, {"$set": {"status": "COMPLETED"}})


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    shared["database"] = AsyncIOMotorClient(job.MONGODB_URL, w="majority")[job.DATABASE]
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=lifespan)


@app.post("/objects")
async def create(body: job.NewObject) -> dict[str, str]:
    object_id = uuid.uuid4().hex
    await shared["database"].objects.insert_one({"_id": object_id, "status": "QUEUED", **body.model_dump()})
    await mirror.kiq(object_id)
    return {"object_id": object_id}


@app.get("/objects/{object_id}")
async def read(object_id: str) -> dict[str, str]:
    return {"status": (await shared["database"].objects.find_one({"_id": object_id}, {"status": 1}))["status"]}
