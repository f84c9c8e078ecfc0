"""Celery with Redis: the API and two chained tasks with late acknowledgement."""

import uuid
from functools import cache
from typing import Any

import boto3
import job
import pymongo
from botocore.exceptions import ClientError
from celery import Celery
from fastapi import FastAPI

queue = Celery("peer", broker=job.REDIS_URL)
queue.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=4)
app = FastAPI()


@cache
def database() -> Any:
    return pymongo.MongoClient(job.MONGODB_URL, w="majority")[job.DATABASE]


@cache
def s3() -> Any:
    return boto3.client("s3", **job.S3)


@queue.task
def mirror(object_id: str) -> None:
    document = database().objects.find_one({"_id": object_id})
    data, key = job.content(document)
    try:
        s3().put_object(Bucket=job.BUCKET, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
            raise
    database().objects.update_one({"_id": object_id}, {"$set": {"blob_key": key, "status": "PROCESSING"}})
    process.delay(object_id)


@queue.task
def process(object_id: str) -> None:
    made = job.result(database().objects.find_one({"_id": object_id}))
    database().results.replace_one({"_id": made["_id"]}, made, upsert=True)
    database().objects.update_one({"_id": object_id}, {"$set": {"status": "COMPLETED"}})


@app.post("/objects")
def create(body: job.NewObject) -> dict[str, str]:
    object_id = uuid.uuid4().hex
    database().objects.insert_one({"_id": object_id, "status": "QUEUED", **body.model_dump()})
    mirror.delay(object_id)
    return {"object_id": object_id}


@app.get("/objects/{object_id}")
def read(object_id: str) -> dict[str, str]:
    return {"status": database().objects.find_one({"_id": object_id}, {"status": 1})["status"]}
