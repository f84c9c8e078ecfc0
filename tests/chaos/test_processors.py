"""A batch of 20,000 objects completes although one of two processors is killed and the other is replaced."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest
from pydantic import SecretStr
from tests.bench.processing import drafts
from tests.conftest import ADMIN_KEY, FAST, Api
from tests.database import drop_database
from tests.waiting import eventually, over

from bucketline.cli.client import ApiClient, Json
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services
from bucketline.settings import MongoSettings

pytestmark = [pytest.mark.stack, pytest.mark.chaos, pytest.mark.timeout(420)]

OBJECTS = 20_000
OWN = {
    "BUCKETLINE_KAFKA_TOPIC_PREFIX": "processors.",
    "BUCKETLINE_KAFKA_GROUP_PREFIX": "processors.",
    "BUCKETLINE_MONGODB_DATABASE": "chaos_processors",
}
"""Separates these services from those of other tests on the same servers."""


@dataclass(frozen=True)
class Deployment:
    supervisor: Supervisor
    database: Database
    api: Api


@pytest.fixture
async def deployment(stack: LocalStack) -> AsyncIterator[Deployment]:
    environment = {**stack.environment(), **FAST, **OWN, "BUCKETLINE_API_KEY": ADMIN_KEY}
    database = Database(
        MongoSettings(url=SecretStr(stack.mongodb_url), database=OWN["BUCKETLINE_MONGODB_DATABASE"]),
    )
    try:
        async with Supervisor(bucketline_services(environment, replicas={"processor": 2})) as supervisor:
            api = Api(supervisor.url("ingest-api"))
            yield Deployment(supervisor, database, api)
            await api.close()
    finally:
        await drop_database(database)
        database.close()


async def test_large_batch_completes_when_processors_are_killed(deployment: Deployment) -> None:
    api, database, supervisor = deployment.api, deployment.database, deployment.supervisor
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    collection = await api.collection(namespace, bucket)
    ids = await drafts(client, bucket, OBJECTS)
    mirrored = {"bucket_id": bucket, "mirror.state": "done"}
    await eventually(lambda: counted(database, "objects", mirrored), deadline=120, pause=0.5)

    place = f"/v1/buckets/{bucket}/batches"
    batch = await client.post(place, {"object_ids": ids})
    path = f"{place}/{batch['batch_id']}"
    await client.post(f"{path}/submit")
    seen: list[int] = []
    watching = asyncio.create_task(watch(client, path, seen))
    await eventually(lambda: beyond(seen, OBJECTS // 5), deadline=120)
    # Before the kill: afterwards, one of two owners may be a restarted processor.
    await eventually(lambda: owners(database, str(batch["batch_id"]), 2))
    await supervisor.kill("processor.1")
    await eventually(lambda: beyond(seen, OBJECTS * 3 // 5), deadline=120)
    await supervisor.terminate("processor.2")
    done = await watching

    assert done["status"] == "COMPLETED", done
    assert (done["progress"]["processed"], done["progress"]["total"]) == (OBJECTS, OBJECTS)
    assert done["documents_written"] == OBJECTS
    assert done["failed_objects"] == []
    assert seen == sorted(seen), "progress never decreases"
    ended = {"bucket_id": bucket, "status": "COMPLETED", "document_count": 1}
    await eventually(lambda: counted(database, "objects", ended), deadline=60, pause=0.5)
    documents = database.collection("documents")
    assert await documents.count({"collection_id": collection}) == OBJECTS
    made_of = {document["object_id"] async for document in documents.stream({"collection_id": collection})}
    assert len(made_of) == OBJECTS
    assert await owners(database, str(batch["batch_id"]), 3), "a restarted processor had units too"


async def watch(client: ApiClient, path: str, seen: list[int]) -> Json:
    """Record the progress until the batch has ended."""

    async def look() -> Json | None:
        seen.append((await client.get(path))["progress"]["processed"])
        return await over(client, path)

    return await eventually(look, deadline=240, pause=0.25)


async def beyond(seen: list[int], count: int) -> bool:
    return bool(seen) and seen[-1] >= count


async def owners(database: Database, batch_id: str, count: int) -> bool:
    """Return whether ``count`` processors have had units of the batch."""
    units = database.collection("work_units").stream({"batch_id": batch_id, "lease": {"$exists": True}})
    return len({unit["lease"]["owner"] async for unit in units}) >= count


async def counted(database: Database, collection: str, where: Mapping[str, object]) -> bool:
    return await database.collection(collection).count(where) == OBJECTS
