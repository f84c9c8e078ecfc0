"""FastAPI, motor and aiokafka: store the object, publish its id, answer."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import job
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI
from motor.motor_asyncio import AsyncIOMotorClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    client: Any = AsyncIOMotorClient(job.MONGODB_URL, w="majority")
    producer = AIOKafkaProducer(bootstrap_servers=job.KAFKA, acks="all")
    await producer.start()
    app.state.objects = client[job.DATABASE].objects
    app.state.producer = producer
    yield
    await producer.stop()
    client.close()


app = FastAPI(lifespan=lifespan)


@app.post("/objects")
async def create(body: job.NewObject) -> dict[str, str]:
    object_id = uuid.uuid4().hex
    await app.state.objects.insert_one({"_id": object_id, "status": "QUEUED", **body.model_dump()})
    await app.state.producer.send_and_wait("peer.objects", object_id.encode(), key=object_id.encode())
    return {"object_id": object_id}


@app.get("/objects/{object_id}")
async def read(object_id: str) -> dict[str, str]:
    document = await app.state.objects.find_one({"_id": object_id}, {"status": 1})
    return {"status": document["status"]}
