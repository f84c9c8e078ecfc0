"""Nothing is lost: each service and then the broker is killed while objects flow, and all of them end COMPLETED.

Faults come from here with SIGKILL; the check is made on what the API and MongoDB say afterwards.
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.conftest import ADMIN_KEY, FAST, Api
from tests.waiting import eventually

from bucketline.cli.client import ApiClient, Json
from bucketline.db.documents import Documents
from bucketline.db.mongo import Database
from bucketline.devstack.stack import Broker, LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services
from bucketline.errors import BucketlineError
from bucketline.settings import SERVICES, MongoSettings

pytestmark = [pytest.mark.stack, pytest.mark.chaos, pytest.mark.timeout(420)]

OBJECTS = 200
WRITERS = 4


@pytest.fixture
async def own_stack(tmp_path: Path, broker: Broker) -> AsyncIterator[LocalStack]:
    """A stack of its own: this test kills its broker."""
    async with LocalStack(tmp_path / "stack", broker=broker) as running:
        yield running


@pytest.fixture
async def supervisor(own_stack: LocalStack) -> AsyncIterator[Supervisor]:
    environment = {**own_stack.environment(), **FAST, "BUCKETLINE_API_KEY": ADMIN_KEY}
    async with Supervisor(bucketline_services(environment)) as running:
        yield running


async def test_every_object_survives_every_kill(own_stack: LocalStack, supervisor: Supervisor) -> None:
    api = Api(supervisor.url("ingest-api"))
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    collection = await api.collection(namespace, bucket)
    client = api.client(namespace)

    accepted: list[str] = []
    writing = asyncio.create_task(write(client, bucket, accepted))
    for number, service in enumerate(SERVICES, start=1):
        await eventually(partial(enough, accepted, number * OBJECTS // 6), deadline=90)
        await supervisor.kill(service)
    await eventually(lambda: enough(accepted, OBJECTS * 5 // 6), deadline=120)
    await own_stack.kill("kafka")
    await own_stack.start("kafka")
    await writing

    assert len(accepted) == OBJECTS
    await eventually(lambda: all_completed(client, bucket), deadline=180, pause=1)
    await exactly_one_document_each(own_stack, collection, accepted)
    await api.close()


async def test_subscribers_receive_every_event_although_services_are_killed(supervisor: Supervisor) -> None:
    """A webhook and a stream follow the objects while each service is killed in turn."""
    url = supervisor.url("ingest-api")
    api = Api(url)
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    client = api.client(namespace)
    async with receiving() as (receiver, delivered), following(url, namespace) as streamed:
        channels = [{"channel": "webhook", "configs": {"url": receiver}}]
        webhook = {"webhook_name": "w", "event_types": ["object.created", "object.updated"], "channels": channels}
        await client.post("/v1/organizations/webhooks", webhook)
        accepted: list[str] = []
        writing = asyncio.create_task(write(client, bucket, accepted))
        for number, service in enumerate(SERVICES, start=1):
            await eventually(partial(enough, accepted, number * OBJECTS // 6), deadline=90)
            await supervisor.kill(service)
        await writing
        for received in (streamed, delivered):
            await eventually(partial(has_all, received, accepted), deadline=120, pause=0.5)
    for events in by_object(streamed).values():
        statuses = [event["metadata"]["status"] for event in events]
        assert list(dict.fromkeys(statuses)) == ["QUEUED", "PROCESSING", "COMPLETED"]
    await api.close()


Payload = dict[str, Any]
"""An event as the stream and webhooks send it."""


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[str, list[Payload]]]:
    """A webhook's receiver, and what it has received."""
    received: list[Payload] = []

    async def receive(request: web.Request) -> web.Response:
        received.append(await request.json())
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", received
    finally:
        await runner.cleanup()


@asynccontextmanager
async def following(url: str, namespace: str) -> AsyncIterator[list[Payload]]:
    """A client of the stream that reconnects, as browsers do, and what it has received."""
    received: list[Payload] = []
    connected = asyncio.Event()

    async def follow() -> None:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "X-Namespace": namespace}
        while True:
            with suppress(aiohttp.ClientError):
                async with aiohttp.request("GET", f"{url}/v1/events/stream", headers=headers) as response:
                    async for line in response.content:
                        if line.startswith(b"data: "):
                            received.append(json.loads(line[6:])["payload"])
                        elif line.startswith(b"id: "):
                            headers["Last-Event-ID"] = line[4:].strip().decode()
                            connected.set()
            await asyncio.sleep(0.2)  # the service is being started again

    task = asyncio.create_task(follow())
    try:
        await asyncio.wait_for(connected.wait(), 30)
        yield received
    finally:
        task.cancel()


def by_object(received: list[Payload]) -> dict[str, list[Payload]]:
    found: dict[str, list[Payload]] = defaultdict(list)
    for payload in received:
        if payload["event_type"] in ("object.created", "object.updated"):
            found[payload["subject"]["id"]].append(payload)
    return found


async def has_all(received: list[Payload], accepted: list[str]) -> bool:
    """Return whether the creation and the final status of every object have been received."""
    found = {(payload["subject"]["id"], payload["metadata"].get("status")) for payload in received}
    return {(object_id, status) for object_id in accepted for status in ("QUEUED", "COMPLETED")} <= found


async def write(client: ApiClient, bucket: str, accepted: list[str]) -> None:
    """Creates the objects; one that was not answered is sent again under its idempotency key."""

    async def one(number: int) -> None:
        blob = {"property": "note", "type": "text", "data": f"object {number}, content {number % 150}"}
        body: Json = {"blobs": [blob], "name": f"n{number}", "idempotency_key": f"key-{number}"}

        async def attempt() -> Json | None:
            try:
                return await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")
            except BucketlineError:
                return None

        answer = await eventually(attempt, deadline=60, pause=0.2)
        accepted.append(str((answer or {})["object_id"]))
        await asyncio.sleep(0.05)  # a rate, so that the kills fall among the writes

    async def lane(start: int) -> None:
        for number in range(start, OBJECTS, WRITERS):
            await one(number)

    await asyncio.gather(*(lane(start) for start in range(WRITERS)))


async def enough(accepted: list[str], count: int) -> bool:
    return len(accepted) >= count


async def all_completed(client: ApiClient, bucket: str) -> Counter[str] | None:
    try:
        answer = await client.get(f"/v1/buckets/{bucket}/objects", limit="1000")
    except BucketlineError:
        return None
    counts = Counter(str(row["status"]) for row in answer["results"])
    return counts if counts == {"COMPLETED": OBJECTS} else None


async def exactly_one_document_each(stack: LocalStack, collection: str, accepted: list[str]) -> None:
    database = Database(MongoSettings(url=SecretStr(stack.mongodb_url)))
    try:
        found = await Documents(database).collection.find({"collection_id": collection}, limit=OBJECTS * 2)
    finally:
        database.close()
    assert Counter(document["object_id"] for document in found) == Counter(accepted)
