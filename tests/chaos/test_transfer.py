"""A dedup is killed in the middle of a large transfer; another one does it: once, whole, and nothing is left behind."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.conftest import ADMIN_KEY, FAST, Api
from tests.database import drop_database
from tests.waiting import completed, eventually
from yarl import URL

from bucketline.blobs.s3 import S3BlobStore
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services
from bucketline.settings import MongoSettings, S3Settings

pytestmark = [pytest.mark.stack, pytest.mark.chaos, pytest.mark.timeout(180)]

MIB = 1024 * 1024
SIZE = 96 * MIB
HELD_AT = 40 * MIB
OWN = {
    "BUCKETLINE_KAFKA_TOPIC_PREFIX": "transfer.",
    "BUCKETLINE_KAFKA_GROUP_PREFIX": "transfer.",
    "BUCKETLINE_MONGODB_DATABASE": "chaos_transfer",
    "BUCKETLINE_S3_BUCKET": "chaos-transfer",
    "BUCKETLINE_DEDUP_LEASE_SECONDS": "4",
    "BUCKETLINE_DEDUP_STAGING_CLEANUP_INTERVAL_SECONDS": "1",
    "BUCKETLINE_DEDUP_STAGING_CLEANUP_MIN_AGE_SECONDS": "2",
}
"""Beside the services that other tests use, on the same servers; a dead dedup is noticed after four seconds."""


@dataclass
class SlowSource:
    """Serves ``SIZE`` bytes. The first transfer is held after ``HELD_AT`` of them, for as long as its reader lives.

    ``readers`` are the ports that the connections came from, in their order.
    """

    url: str = ""
    readers: list[int] = field(default_factory=list)

    @staticmethod
    def pieces() -> Iterator[bytes]:
        """No two MiB are the same, so that a part in the wrong place would show."""
        for number in range(SIZE // MIB):
            yield hashlib.sha256(str(number).encode()).digest() * (MIB // 32)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.readers.append(request.transport.get_extra_info("peername")[1])
        held = len(self.readers) == 1
        response = web.StreamResponse(headers={"Content-Length": str(SIZE)})
        await response.prepare(request)
        sent = 0
        with suppress(ConnectionError):
            for piece in self.pieces():
                while held and sent >= HELD_AT:
                    await asyncio.sleep(0.05)  # until the kill closes the connection
                    if request.transport is None or request.transport.is_closing():
                        return response
                await response.write(piece)
                sent += len(piece)
            await response.write_eof()
        return response


@dataclass(frozen=True)
class Deployment:
    supervisor: Supervisor
    api: Api
    database: Database
    store: S3BlobStore


@pytest.fixture
async def source() -> AsyncIterator[SlowSource]:
    found = SlowSource()
    app = web.Application()
    app.router.add_get("/large", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/large"
    yield found
    await runner.cleanup()


@pytest.fixture
async def deployment(stack: LocalStack) -> AsyncIterator[Deployment]:
    environment = {**stack.environment(), **FAST, **OWN, "BUCKETLINE_API_KEY": ADMIN_KEY}
    mongo = MongoSettings(url=SecretStr(stack.mongodb_url), database=OWN["BUCKETLINE_MONGODB_DATABASE"])
    s3 = S3Settings(
        endpoint_url=stack.s3.endpoint,
        access_key=stack.s3.access_key,
        secret_key=SecretStr(stack.s3.secret_key),
        bucket=OWN["BUCKETLINE_S3_BUCKET"],
    )
    database = Database(mongo)
    try:
        async with (
            S3BlobStore(s3) as store,
            Supervisor(bucketline_services(environment, replicas={"dedup": 2})) as supervisor,
        ):
            api = Api(supervisor.url("ingest-api"))
            yield Deployment(supervisor, api, database, store)
            await api.close()
    finally:
        await drop_database(database)
        database.close()


async def test_objects_of_a_killed_dedup_are_finished_by_another(deployment: Deployment, source: SlowSource) -> None:
    api, store = deployment.api, deployment.store
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    collection = await api.collection(namespace, bucket)
    body = {"blobs": [{"property": "note", "type": "text", "data": source.url}], "name": "large"}
    made = await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")
    path = f"/v1/buckets/{bucket}/objects/{made['object_id']}"

    [upload] = await eventually(lambda: store.list_multipart("staging/dedup/"), deadline=30)
    pids = deployment.supervisor.pids()
    holder = holder_of(source, {name: pids[name] for name in deployment.supervisor.names("dedup")})
    await deployment.supervisor.kill(holder)
    assert (await client.get(path))["status"] == "QUEUED"

    await eventually(lambda: completed(client, path), deadline=60, pause=0.2)
    assert len(source.readers) == 2, "the content was fetched again, once"
    found = await client.get(path, return_presigned_urls="true")
    [blob] = found["blobs"]
    assert found["document_count"] == 1
    assert blob["details"]["size_bytes"] == SIZE
    assert blob["details"]["hash"] == f"sha256:{await sha256_behind(blob['presigned_url'])}"
    assert blob["details"]["hash"] == f"sha256:{sha256_of(source.pieces())}"

    assert len(await store.list("blobs/", limit=10)) == 1, "one copy"
    assert await deployment.database.collection("blobs").count({}) == 1
    assert await deployment.database.collection("documents").count({"collection_id": collection}) == 1
    await eventually(lambda: nothing_left(store), deadline=30, pause=0.2)
    assert upload.key.startswith(f"staging/dedup/{made['object_id']}/"), "what was left had its owner's name"


def holder_of(source: SlowSource, pids: Mapping[str, int]) -> str:
    """The instance that has the first connection to the source."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # Both ends: a connection to elsewhere may have come from the same port, and linger.
    ends = [f"0100007F:{port:04X}" for port in (source.readers[0], URL(source.url).port)]
    [inode] = [row[9] for row in rows if row[1:3] == ends]
    for name, pid in pids.items():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return name
    raise AssertionError("no instance has the connection")


def sha256_of(pieces: Iterator[bytes]) -> str:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


async def sha256_behind(url: str) -> str:
    whole = hashlib.sha256()
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        async for chunk in response.content.iter_chunked(MIB):
            whole.update(chunk)
    return whole.hexdigest()


async def nothing_left(store: S3BlobStore) -> bool:
    """Neither an upload that nobody will complete, nor anything staged."""
    return not await store.list_multipart("") and not await store.list("staging/", limit=1)
