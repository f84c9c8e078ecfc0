"""An object that kills its processor with SIGKILL, as a pod's memory limit does, fails alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.conftest import ADMIN_KEY, FAST, Api
from tests.database import drop_database
from tests.waiting import eventually, over

from bucketline.cli.client import ApiClient, Json
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.devstack.supervisor import Event, Exited, RestartPolicy, Supervisor, bucketline_services
from bucketline.settings import MongoSettings

pytestmark = [pytest.mark.stack, pytest.mark.chaos, pytest.mark.timeout(180)]

OBJECTS = 20
KILLER = 7
SOON = {
    "BUCKETLINE_KAFKA_TOPIC_PREFIX": "killers.",
    "BUCKETLINE_KAFKA_GROUP_PREFIX": "killers.",
    "BUCKETLINE_MONGODB_DATABASE": "chaos_killers",
    "BUCKETLINE_PROCESSOR_LEASE_SECONDS": "2",
    "BUCKETLINE_PROCESSOR_ORPHAN_CLAIM_DELAY_SECONDS": "0.5",
    "BUCKETLINE_RECONCILE_STALE_AFTER_SECONDS": "1",
    "BUCKETLINE_RECONCILE_INTERVAL_SECONDS": "0.5",
}
"""Separates these services from those of other tests on the same servers; crashes are detected fast."""

EXTRACTOR = """
import asyncio, os, signal
from bucketline.extractors import Document, ExtractorInfo

class Killing:
    info = ExtractorInfo(name="killing", version="v1", description="", accepts=("text",), cpu_bound=False)

    async def extract(self, obj, context):
        if obj.fields["name"] == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        if obj.fields["name"] == "slow":
            await asyncio.sleep(0.2)
        yield Document({"name": obj.fields["name"]})
"""
KILLING = {"feature_extractor_name": "killing", "version": "v1"}


@dataclass(frozen=True)
class Deployment:
    """The services; ``killed`` are the processors that ended by SIGKILL."""

    database: Database
    api: Api
    killed: list[str]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Install the extractor as a third-party distribution does."""
    info = tmp_path / "killing-1.0.dist-info"
    info.mkdir()
    (tmp_path / "killing.py").write_text(EXTRACTOR)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: killing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bucketline.extractors]\nkilling_v1 = killing:Killing\n")
    return tmp_path


@pytest.fixture
async def deployment(stack: LocalStack, site: Path) -> AsyncIterator[Deployment]:
    own = {"BUCKETLINE_API_KEY": ADMIN_KEY, "PYTHONPATH": str(site)}
    environment = {**stack.environment(), **FAST, **SOON, **own}
    database = Database(
        MongoSettings(url=SecretStr(stack.mongodb_url), database=SOON["BUCKETLINE_MONGODB_DATABASE"]),
    )
    killed: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Exited) and event.code == -9:
            killed.append(event.instance)

    supervisor = Supervisor(
        bucketline_services(environment, replicas={"processor": 2}),
        on_event=on_event,
        policy=RestartPolicy(first_delay=0.1, longest_delay=0.1, start_attempts=50),
    )
    try:
        async with supervisor:
            api = Api(supervisor.url("ingest-api"))
            yield Deployment(database, api, killed)
            await api.close()
    finally:
        await drop_database(database)
        database.close()


async def submitted(client: ApiClient, bucket: str, names: list[str]) -> tuple[str, list[str]]:
    """Submit a batch; return its path and its objects."""
    rows = [{"name": name} for name in names]
    answer = await client.post(f"/v1/buckets/{bucket}/objects/batch", {"objects": rows})
    ids = [str(row["object_id"]) for row in answer["succeeded"]]
    batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": ids})
    path = f"/v1/buckets/{bucket}/batches/{batch['batch_id']}"
    await client.post(f"{path}/submit")
    return path, ids


async def settled(client: ApiClient, bucket: str) -> dict[str, Json] | None:
    """Return the objects of the bucket when all of them have a final status."""
    rows = (await client.get(f"/v1/buckets/{bucket}/objects", limit="100"))["results"]
    return (
        {row["object_id"]: row for row in rows} if all(r["status"] in ("COMPLETED", "FAILED") for r in rows) else None
    )


async def test_object_that_kills_its_processor_fails_alone(deployment: Deployment) -> None:
    api, database = deployment.api, deployment.database
    namespace = await api.namespace()
    client = api.client(namespace)
    buckets = [await api.bucket(namespace), await api.bucket(namespace)]
    deadly, harmless = [await api.collection(namespace, bucket, **KILLING) for bucket in buckets]
    names = [f"n{number}" for number in range(OBJECTS)]
    names[KILLER] = "killer"
    (path, ids), (other_path, others) = await asyncio.gather(
        submitted(client, buckets[0], names), submitted(client, buckets[1], ["slow"] * OBJECTS)
    )
    killer = ids[KILLER]
    done = await eventually(lambda: over(client, path), deadline=60, pause=0.2)
    other = await eventually(lambda: over(client, other_path), deadline=30, pause=0.2)

    error = "processing this object ended its processor 2 times: a file may be damaged or too large"
    assert done["status"] == "COMPLETED_WITH_ERRORS", done
    assert (done["progress"]["processed"], done["documents_written"]) == (OBJECTS, OBJECTS - 1)
    [row] = done["failed_objects"]
    assert (row["object_id"], row["error_type"], row["error"]) == (killer, "resource", error)
    assert (other["status"], other["documents_written"]) == ("COMPLETED", OBJECTS), other
    assert len(deployment.killed) == 4, "two crashes before the isolation and two in it"

    objects = await eventually(lambda: settled(client, buckets[0]), deadline=20)
    assert {oid for oid, found in objects.items() if found["status"] == "FAILED"} == {killer}
    assert objects[killer]["error"] == error
    for collection, expected in ((deadly, set(ids) - {killer}), (harmless, set(others))):
        found = await database.collection("documents").find({"collection_id": collection}, limit=OBJECTS * 2)
        assert Counter(document["object_id"] for document in found) == Counter(expected)
