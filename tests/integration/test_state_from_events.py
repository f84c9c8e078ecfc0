"""A subscriber that reads only the topics knows the state of every object that the API shows."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer
from tests.conftest import Api, Services
from tests.waiting import eventually

from bucketline.cli.client import ApiClient, Json

pytestmark = pytest.mark.stack

OBJECTS = 200
TOPICS = ("bucketline.objects.v1", "bucketline.objects.status.v1")
KINDS = ("draft", "processed", "patched", "put", "upserted", "upserted and processed", "deleted", "failed", "canceled")


@dataclass
class Object:
    """What the events of one object say. Nothing depends on the order of the two topics."""

    revision: int = 0
    deleted: bool = False
    key_prefix: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    position: tuple[int, int] = (0, -1)
    status: str = ""
    error: str | None = None

    def apply(self, kind: str, event: dict[str, Any]) -> None:
        """Apply an event, unless a newer one has been applied."""
        if kind != "bucketline.object.status_changed.v1" and event["revision"] > self.revision:
            self.revision = event["revision"]
            if kind == "bucketline.object.deleted.v1":
                self.deleted = True
                return
            self.key_prefix, self.fields = event["key_prefix"], event["fields"]
        if "status" in event and (position := (event["run_id"], event["sequence"])) > self.position:
            self.position, self.status, self.error = position, event["status"], event["error"]


async def read_objects(bootstrap: str, ids: set[str]) -> dict[str, Object]:
    """Return the objects as the topics describe them, read from the start without a group."""
    objects: dict[str, Object] = {}
    consumer = AIOKafkaConsumer(
        *TOPICS, bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50
    )
    async with consumer:
        partitions = consumer.assignment()
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        while any([await consumer.position(one) < end for one, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    if (object_id := record.key.decode()) in ids:
                        kind = dict(record.headers)["ce_type"].decode()
                        objects.setdefault(object_id, Object()).apply(kind, json.loads(record.value))
    return objects


@asynccontextmanager
async def missing_file() -> AsyncIterator[str]:
    """The URL of a file that does not exist."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/missing.txt"
    finally:
        await runner.cleanup()


async def create(client: ApiClient, bucket: str, keyed: str, kind: str, number: int, missing: str) -> str:
    """Create an object and change it as its kind says; return its id."""
    objects, blobs = f"/v1/buckets/{bucket}/objects", [{"property": "note", "type": "text", "data": f"text {number}"}]
    body: Json = {"name": f"n{number}", "qty": number, "blobs": blobs}
    if kind.startswith("upserted"):
        objects = f"/v1/buckets/{keyed}/objects"
        await client.post(objects, body, policy="insert", auto_process="true")
        auto = "true" if kind == "upserted and processed" else "false"
        changed = await client.post(objects, {**body, "qty": -number}, policy="upsert", auto_process=auto)
        return str(changed["object_id"])
    if kind == "failed":
        body["blobs"] = [{"property": "note", "type": "text", "data": missing}]
    auto = "true" if kind in ("processed", "failed", "put") else "false"
    object_id = str((await client.post(objects, body, auto_process=auto))["object_id"])
    path = f"{objects}/{object_id}"
    if kind == "patched":
        await client._request("PATCH", path, {"name": f"patched {number}", "key_prefix": "/patched"}, {})
    elif kind == "put":
        await client._request("PUT", path, {"metadata": {"qty": number + 1000}}, {})
    elif kind == "deleted":
        await client._request("DELETE", path, None, {})
    return object_id


async def test_state_from_the_topics_is_that_of_the_api(services: Services, api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    keyed = await api.bucket(namespace, unique_key={"fields": ["name"], "default_policy": "insert"})
    for one in (bucket, keyed):
        await api.collection(namespace, one)
    kinds = [KINDS[number % len(KINDS)] for number in range(OBJECTS)]
    slots = asyncio.Semaphore(8)

    async def limited(number: int, missing: str) -> str:
        async with slots:
            return await create(client, bucket, keyed, kinds[number], number, missing)

    async with missing_file() as missing:
        ids = await asyncio.gather(*(limited(number, missing) for number in range(OBJECTS)))
        canceled = [object_id for object_id, kind in zip(ids, kinds, strict=True) if kind == "canceled"]
        batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": canceled})
        path = f"/v1/buckets/{bucket}/batches/{batch['batch_id']}"
        await client.post(f"{path}/submit", {})
        await client.post(f"{path}/cancel", {})

        async def shown() -> dict[str, Json] | None:
            """Return the objects of the API once none of them is being processed."""
            found: dict[str, Json] = {}
            for one in (bucket, keyed):
                rows = (await client.get(f"/v1/buckets/{one}/objects", limit="1000"))["results"]
                found |= {str(row["object_id"]): row for row in rows}
            busy = [row for row in found.values() if row["status"] in ("QUEUED", "PROCESSING")]
            return None if busy else found

        expected = await eventually(shown, deadline=120, pause=0.5)

    async def differences() -> dict[str, tuple[object, object]]:
        objects = await read_objects(services.stack.kafka_bootstrap, set(ids))
        assert objects.keys() == set(ids)
        found: dict[str, tuple[object, object]] = {}
        for object_id, kind in zip(ids, kinds, strict=True):
            seen, row = objects[object_id], expected.get(object_id)
            left: object = None if seen.deleted else (seen.status, seen.error, seen.key_prefix, seen.fields)
            right: object = None
            if row is not None:
                fields = {name: row[name] for name in ("name", "qty") if name in row}
                right = (row["status"], row.get("error"), row["key_prefix"], fields)
            if left != right:
                found[kind] = (left, right)
        return found

    async def equal() -> bool:
        return not await differences()

    try:
        await eventually(equal, deadline=30, pause=1)
    except AssertionError:
        assert await differences() == {}
    statuses = {str(row["status"]) for row in expected.values()}
    assert {"DRAFT", "COMPLETED", "FAILED"} <= statuses
