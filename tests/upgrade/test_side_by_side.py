"""An upgrade as it happens: two releases of every service on the same topics and stores, then the newer one alone.

And back: the older one takes over again what the newer one wrote. Whatever is created at any time, through either
API, is processed once; there are no dead letters, and no release takes away what another stored.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from tests.conftest import ADMIN_KEY, FAST, Api
from tests.database import drop_database
from tests.requirements import lacking
from tests.upgrade.releases import NEXT, TODAY, Release, previous
from tests.waiting import eventually

from bucketline.cli.client import ApiClient, Json
from bucketline.db.job_cursors import JobCursors
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.devstack.supervisor import Supervisor
from bucketline.kafka.dead_letters import DeadLetterStore
from bucketline.settings import KafkaSettings, MongoSettings

pytestmark = [pytest.mark.stack, pytest.mark.chaos, pytest.mark.timeout(420)]

AT_ONCE = 30
"""Objects processed at once, in each phase and through each API that runs then."""

IN_A_BATCH = 30
TIMES = 20
"""Rounds of objects after which both releases have had something of every topic, or never will."""


@dataclass
class Upgrade:
    """The stores that both releases share, and what was created so far."""

    environment: dict[str, str]
    database: Database
    created: list[str] = field(default_factory=list)
    namespace: str = ""
    bucket: str = ""
    collection: str = ""

    def run(self, release: Release) -> Supervisor:
        return Supervisor(release.services(self.environment))

    async def set_up(self, running: Supervisor) -> None:
        api = Api(running.url("ingest-api"))
        self.namespace = await api.namespace()
        self.bucket = await api.bucket(self.namespace)
        self.collection = await api.collection(self.namespace, self.bucket)
        await api.close()

    async def create(self, running: Supervisor) -> None:
        """Objects that are processed at once, and others in a batch; through this release's API."""
        async with ApiClient(running.url("ingest-api"), ADMIN_KEY, self.namespace) as client:
            path = f"/v1/buckets/{self.bucket}"
            ids = await asyncio.gather(*(self._object(client, auto_process="true") for _ in range(AT_ONCE)))
            drafts = await asyncio.gather(*(self._object(client) for _ in range(IN_A_BATCH)))
            batch = await client.post(f"{path}/batches", {"object_ids": drafts})
            await client.post(f"{path}/batches/{batch['batch_id']}/submit")
        self.created += [*ids, *drafts]

    async def _object(self, client: ApiClient, **query: str) -> str:
        number = len(self.created)
        body: Json = {"name": f"n{number}", "blobs": [{"property": "note", "type": "text", "data": f"text {number}"}]}
        return str((await client.post(f"/v1/buckets/{self.bucket}/objects", body, **query))["object_id"])

    async def all_completed(self) -> bool:
        """Every object COMPLETED and every batch too; fails when there is more or other than that."""
        rows = await self.database.collection("objects").find({"bucket_id": self.bucket}, limit=10_000)
        statuses = Counter(row["status"] for row in rows)
        assert not statuses["FAILED"], [row["error"] for row in rows if row["status"] == "FAILED"]
        open_batches = {"bucket_id": self.bucket, "status": {"$ne": "COMPLETED"}}
        return statuses == {"COMPLETED": len(self.created)} and not await self.database.collection("batches").count(
            open_batches
        )


@pytest.fixture(params=["previous and today", "today and next"])
def releases(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> tuple[Release, Release]:
    """The older and the newer one."""
    if request.param == "today and next":
        return TODAY, NEXT
    before = previous(repository, tmp_path)
    if before is None:
        lacking("the history of this checkout does not reach back to the previous release")
    return before, TODAY


@pytest.fixture
async def upgrade(stack: LocalStack, releases: tuple[Release, Release]) -> AsyncIterator[Upgrade]:
    own = f"upgrade_{releases[0].name}_{releases[1].name}"
    environment = {
        **stack.environment(),
        **FAST,
        "BUCKETLINE_API_KEY": ADMIN_KEY,
        "BUCKETLINE_KAFKA_TOPIC_PREFIX": f"{own}.",
        "BUCKETLINE_KAFKA_GROUP_PREFIX": f"{own}.",
        "BUCKETLINE_MONGODB_DATABASE": own,
    }
    database = Database(MongoSettings(url=SecretStr(stack.mongodb_url), database=own))
    try:
        yield Upgrade(environment, database)
    finally:
        await drop_database(database)
        database.close()


async def test_two_releases_side_by_side(upgrade: Upgrade, releases: tuple[Release, Release]) -> None:
    older, newer = releases
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(upgrade.run(older))
        await upgrade.set_up(old)
        await upgrade.create(old)

        new = await stack.enter_async_context(upgrade.run(newer))
        await both_take_part(upgrade, {older: old, newer: new})
        await asyncio.gather(upgrade.create(new), old.stop())
        await upgrade.create(new)

        back = await stack.enter_async_context(upgrade.run(older))
        await asyncio.gather(upgrade.create(back), new.stop())
        await upgrade.create(back)
        await eventually(upgrade.all_completed, deadline=90, pause=0.5)

    documents = await upgrade.database.collection("documents").find({"collection_id": upgrade.collection}, limit=10_000)
    assert Counter(document["object_id"] for document in documents) == Counter(upgrade.created)
    assert await dead_letters(upgrade) == []
    if newer is NEXT:
        kept = {"bucket_id": upgrade.bucket, "added_later": {"$exists": True}}
        of_next = [row["_id"] for row in await upgrade.database.collection("objects").find(kept, limit=10_000)]
        assert len(of_next) >= 2 * (AT_ONCE + IN_A_BATCH), "what the newer one stored is still there"


async def both_take_part(upgrade: Upgrade, running: dict[Release, Supervisor]) -> None:
    """Create objects through both until both have handled records of every topic that their services read."""
    consumed = {release: await asyncio.to_thread(release.consumed) for release in running}
    for _ in range(TIMES):
        await asyncio.gather(*(upgrade.create(supervisor) for supervisor in running.values()))
        await eventually(upgrade.all_completed, deadline=60, pause=0.5)
        if not (missing := [row for release in running for row in await idle(running[release], consumed[release])]):
            return
    pytest.fail(f"never handled: {missing}")


async def idle(running: Supervisor, consumed: dict[str, list[str]]) -> list[str]:
    """Return the topics of which a service of this release has not handled a record yet."""
    found: list[str] = []
    async with aiohttp.ClientSession() as session:
        for service, topics in consumed.items():
            async with session.get(f"{running.url(service)}/metrics") as answer:
                handled = dict(records(await answer.text()))
            found += [f"{service} {topic}" for topic in topics if not any_of(handled, topic)]
    return found


def records(text: str) -> Iterable[tuple[str, float]]:
    """How many records of each topic were handled, by what the service exports."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "bucketline_records_total" and sample.labels["outcome"] == "handled":
                yield sample.labels["topic"], sample.value


def any_of(handled: dict[str, float], topic: str) -> bool:
    return any(count for name, count in handled.items() if name.endswith(topic))


async def dead_letters(upgrade: Upgrade) -> list[str]:
    """What the releases could not handle."""
    settings = KafkaSettings(
        bootstrap_servers=upgrade.environment["BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS"],
        topic_prefix=upgrade.environment["BUCKETLINE_KAFKA_TOPIC_PREFIX"],
        group_prefix=upgrade.environment["BUCKETLINE_KAFKA_GROUP_PREFIX"],
    )
    waiting = await DeadLetterStore(settings, JobCursors(upgrade.database)).list(limit=100)
    return [f"{row.topic}: {row.context}" for row in waiting]
