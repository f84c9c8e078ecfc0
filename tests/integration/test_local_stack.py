"""The local stack: each server does what Bucketline needs, and none is left running."""

import asyncio
import base64
import contextlib
import hashlib
import os
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aioboto3
import psutil
import pytest
from aiobotocore.config import AioConfig
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from botocore.exceptions import ClientError
from pymongo import AsyncMongoClient
from tests.brokers import EACH_BROKER, needs_java
from tests.waiting import eventually

from bucketline.devstack.reservations import reserve_port
from bucketline.devstack.servers import S3Endpoint, SeaweedFS
from bucketline.devstack.stack import Broker, LocalStack
from bucketline.devstack.supervisor import Event, Exited, Ready
from bucketline.errors import LocalStackError

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

pytestmark = pytest.mark.stack

DEADLINE = 60.0
START_GOAL = 8.0


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    async with LocalStack(tmp_path_factory.mktemp("stack")) as running:
        yield running


async def test_killed_servers_are_restarted_and_stopped_servers_are_not(tmp_path: Path) -> None:
    told: list[Event] = []
    async with LocalStack(tmp_path / "data", on_event=told.append) as stack:
        before = stack.pids()
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(stack.mongodb_url)
        await client.kept.rows.insert_one({"_id": 1})
        for pid in before.values():
            os.kill(pid, SIGKILL)

        async def all_back() -> bool:
            return {event.instance for event in told if isinstance(event, Ready)} == set(before)

        await eventually(all_back, deadline=DEADLINE)
        after = stack.pids()
        assert all(after[part] != before[part] for part in before)
        assert {event.instance for event in told if isinstance(event, Exited)} == set(before)
        assert await client.kept.rows.find_one() == {"_id": 1}
        await create_topic(stack.kafka_bootstrap, "again")
        async with s3_client(stack.s3) as s3:
            await s3.put_object(Bucket="bucketline", Key="a", Body=b"x")
        await client.close()

        told.clear()
        await stack.kill("kafka")
        await stack.stop("mongodb")
        await stack.start("mongodb")
        assert set(stack.pids()) == {"mongodb", "s3"}
    assert told == []


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@asynccontextmanager
async def s3_client(address: S3Endpoint) -> "AsyncIterator[S3Client]":
    session = aioboto3.Session(address.access_key, address.secret_key, region_name="us-east-1")
    once = AioConfig(retries={"total_max_attempts": 1})
    async with session.client("s3", endpoint_url=address.endpoint, config=once) as client:
        yield client


async def create_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
    finally:
        await admin.close()


async def round_trip(bootstrap: str, topic: str, *, idempotent: bool = False, group: str = "readers") -> list[bytes]:
    """Sends three records and reads what a new group finds."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=idempotent) as producer:
        for number in range(3):
            await producer.send_and_wait(topic, f"record {number}".encode(), key=b"one key")
    return await read(bootstrap, topic, group, 3)


async def read(bootstrap: str, topic: str, group: str, count: int) -> list[bytes]:
    found: list[bytes] = []
    options = {"group_id": group, "auto_offset_reset": "earliest", "enable_auto_commit": False}
    async with asyncio.timeout(DEADLINE), AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, **options) as consumer:
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [record.value for record in records]
        await consumer.commit()
    return found


async def test_mongodb_supports_transactions_and_majority_writes(stack: LocalStack) -> None:
    async with AsyncMongoClient[dict[str, Any]](stack.mongodb_url, w="majority") as client:
        box = client["probe"]["box"]
        await box.insert_one({"_id": "before"})
        async with client.start_session() as session:
            async with await session.start_transaction():
                await box.insert_one({"_id": "kept"}, session=session)
            async with await session.start_transaction():
                await box.insert_one({"_id": "dropped"}, session=session)
                await session.abort_transaction()
        assert [each["_id"] async for each in box.find().sort("_id")] == ["before", "kept"]


async def test_mongodb_closes_the_files_of_dropped_collections(stack: LocalStack) -> None:
    """It keeps one file a collection and one an index; how many a process may open is limited."""
    files = psutil.Process(stack.pids()["mongodb"]).num_fds
    async with AsyncMongoClient[dict[str, Any]](stack.mongodb_url, w="majority") as client:
        before = files()
        for number in range(50):
            await client["dropped"].create_collection(f"c{number}")
        assert files() >= before + 100
        await client.drop_database("dropped")
        await client.admin.command("fsync")

        async def closed() -> bool:
            return files() < before + 50

        await eventually(closed, deadline=DEADLINE)


async def test_mongodb_after_sigkill_has_acknowledged_writes(stack: LocalStack) -> None:
    async with AsyncMongoClient[dict[str, Any]](stack.mongodb_url, w="majority", journal=True) as client:
        await client["probe"]["kept"].insert_one({"_id": 1})
        await stack.kill("mongodb")
        assert "mongodb" not in stack.pids()
        await stack.start("mongodb")
        assert await client["probe"]["kept"].find_one() == {"_id": 1}


async def test_s3_conditional_write_of_an_existing_key_returns_412(stack: LocalStack) -> None:
    bucket = stack.environment()["BUCKETLINE_S3_BUCKET"]
    async with s3_client(stack.s3) as s3:
        await s3.put_object(Bucket=bucket, Key="once", Body=b"first", IfNoneMatch="*")
        with pytest.raises(ClientError) as caught:
            await s3.put_object(Bucket=bucket, Key="once", Body=b"second", IfNoneMatch="*")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
        answer = await s3.get_object(Bucket=bucket, Key="once")
        assert await answer["Body"].read() == b"first"


async def test_s3_put_with_a_wrong_checksum_returns_400(stack: LocalStack) -> None:
    bucket = stack.environment()["BUCKETLINE_S3_BUCKET"]
    right = base64.b64encode(hashlib.sha256(b"body").digest()).decode()
    async with s3_client(stack.s3) as s3:
        with pytest.raises(ClientError) as caught:
            await s3.put_object(Bucket=bucket, Key="sum", Body=b"another body", ChecksumSHA256=right)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        assert (await s3.list_objects_v2(Bucket=bucket, Prefix="sum"))["KeyCount"] == 0
        await s3.put_object(Bucket=bucket, Key="sum", Body=b"body", ChecksumSHA256=right)


async def test_s3_request_with_a_wrong_key_returns_403(stack: LocalStack) -> None:
    async with s3_client(S3Endpoint(stack.s3.endpoint, stack.s3.access_key, "wrong")) as s3:
        with pytest.raises(ClientError) as caught:
            await s3.list_objects_v2(Bucket="bucketline")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_s3_after_sigkill_has_acknowledged_objects(stack: LocalStack) -> None:
    async with s3_client(stack.s3) as s3:
        bodies = {f"kept/{size}": os.urandom(size) for size in (1, 100_000, 9_000_000)}
        for key, body in bodies.items():
            await s3.put_object(Bucket="bucketline", Key=key, Body=body)
        await stack.kill("s3")
        await stack.start("s3")
        await s3.put_object(Bucket="bucketline", Key="kept/after", Body=b"after")
        for key, body in bodies.items():
            answer = await s3.get_object(Bucket="bucketline", Key=key)
            assert await answer["Body"].read() == body


async def test_s3_write_probe_writes_to_every_shard_of_the_filer(stack: LocalStack) -> None:
    """SeaweedFS chooses one by a hash of the folder; each logs what is written to it."""
    server = stack._servers["s3"]
    assert isinstance(server, SeaweedFS)
    logs = sorted((stack.data_dir / "s3" / "files" / "filerldb2").glob("*/*.log"))
    assert len(logs) == 8
    before = [log.stat().st_size for log in logs]
    assert not await server.needs_restart()
    assert all(log.stat().st_size > size for log, size in zip(logs, before, strict=True))
    async with s3_client(stack.s3) as s3:
        listed = await s3.list_objects_v2(Bucket="bucketline")
        assert not [entry for entry in listed.get("Contents", []) if "probe" in entry["Key"]]
        assert [bucket["Name"] for bucket in (await s3.list_buckets())["Buckets"]] == ["bucketline"]


async def test_broker_returns_records_after_a_restart(stack: LocalStack) -> None:
    bootstrap = stack.kafka_bootstrap
    for _ in range(2):
        await create_topic(bootstrap, "probe.restarted")
        assert await round_trip(bootstrap, "probe.restarted") == [b"record 0", b"record 1", b"record 2"]
        await stack.kill("kafka")
        await stack.start("kafka")
        assert stack.kafka_bootstrap == bootstrap


def test_environment_has_the_addresses_of_all_servers(stack: LocalStack) -> None:
    environment = stack.environment()
    assert environment["BUCKETLINE_MONGODB_URL"] == stack.mongodb_url
    assert environment["BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS"] == stack.kafka_bootstrap
    assert environment["BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE"] == "false"
    assert environment["BUCKETLINE_S3_ENDPOINT_URL"] == stack.s3.endpoint
    assert environment["BUCKETLINE_S3_ACCESS_KEY"] == stack.s3.access_key
    assert environment["BUCKETLINE_S3_SECRET_KEY"] == stack.s3.secret_key


def test_servers_listen_on_the_loopback_only(stack: LocalStack) -> None:
    for name, pid in stack.pids().items():
        listening = [each for each in psutil.Process(pid).net_connections("inet") if each.status == "LISTEN"]
        assert listening, name
        assert {each.laddr.ip for each in listening} == {"127.0.0.1"}, name


async def test_second_stack_in_the_same_folder_fails(stack: LocalStack) -> None:
    with pytest.raises(LocalStackError, match="another local stack"):
        await LocalStack(stack.data_dir).__aenter__()
    assert len(stack.pids()) == 3


@pytest.mark.parametrize("broker", EACH_BROKER)
async def test_restart_keeps_data_and_free_ports_and_leaves_no_process(broker: Broker, tmp_path: Path) -> None:
    """In the second run the port that MongoDB had is taken."""
    seen: dict[str, int] = {}
    addresses: list[dict[str, str]] = []
    reported: list[str] = []
    taken = contextlib.ExitStack()
    for run in range(2):
        began = time.monotonic()
        async with LocalStack(tmp_path, broker=broker, progress=reported.append) as stack:
            took = time.monotonic() - began
            addresses.append(stack.environment())
            pids = stack.pids()
            async with AsyncMongoClient[dict[str, Any]](stack.mongodb_url) as client:
                await client["probe"]["runs"].insert_one({"_id": run})
                seen["mongodb"] = await client["probe"]["runs"].count_documents({})
            async with s3_client(stack.s3) as s3:
                await s3.put_object(Bucket="bucketline", Key=f"run/{run}", Body=b"x")
                seen["s3"] = (await s3.list_objects_v2(Bucket="bucketline", Prefix="run/"))["KeyCount"]
            if run == 0:
                await create_topic(stack.kafka_bootstrap, "runs")
            if broker == "kafka":
                async with AIOKafkaProducer(
                    bootstrap_servers=stack.kafka_bootstrap, acks="all", enable_idempotence=True
                ) as producer:
                    await producer.send_and_wait("runs", b"run")
                seen["kafka"] = len(await read(stack.kafka_bootstrap, "runs", f"group {run}", run + 1))
        assert not any(map(lives, pids.values()))
        assert set(seen.values()) == {run + 1}
        port = urlsplit(addresses[0]["BUCKETLINE_MONGODB_URL"]).port
        if run == 0:
            taken.callback(reserve_port(port or 0).release)
    taken.close()
    first, second = addresses
    assert {name for name in first if first[name] != second[name]} == {"BUCKETLINE_MONGODB_URL"}
    assert any(f"mongodb gets another port than before: port {port} of" in line for line in reported)
    # The goal is for the stack that people start; a JVM alone takes twice as long on a busy machine.
    assert broker == "kafka" or took < START_GOAL


@needs_java
async def test_kafka_after_sigkill_has_acknowledged_records(tmp_path: Path) -> None:
    async with LocalStack(
        tmp_path, broker="kafka", mongodb_url="mongodb://elsewhere", s3=S3Endpoint("http://elsewhere", "a", "b")
    ) as stack:
        assert list(stack.pids()) == ["kafka"]
        assert stack.environment()["BUCKETLINE_KAFKA_ENABLE_IDEMPOTENCE"] == "true"
        assert stack.environment()["BUCKETLINE_MONGODB_URL"] == "mongodb://elsewhere"
        await create_topic(stack.kafka_bootstrap, "kept")
        sent = await round_trip(stack.kafka_bootstrap, "kept", idempotent=True)
        await stack.kill("kafka")
        await stack.start("kafka")
        assert await read(stack.kafka_bootstrap, "kept", "others", 3) == sent


async def test_start_with_a_failing_server_stops_the_others(tmp_path: Path) -> None:
    (tmp_path / "mongodb").mkdir()
    (tmp_path / "mongodb" / "db").write_text("not a folder")
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(LocalStackError, match="mongodb could not start"):
        await LocalStack(tmp_path).__aenter__()
    assert set(psutil.Process().children(recursive=True)) == before


OWNER = """
import asyncio, sys
from pathlib import Path
from bucketline.devstack.stack import LocalStack

async def main():
    async with LocalStack(Path(sys.argv[1])) as stack:
        print(*stack.pids().values(), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="waits with pidfd")
def test_servers_are_killed_when_their_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        servers = [os.pidfd_open(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(servers) == 3
        assert select.select(servers, [], [], 0)[0] == []
        owner.send_signal(SIGKILL)
        owner.wait(timeout=DEADLINE)
    for server in servers:
        assert select.select([server], [], [], DEADLINE)[0] == [server]
        os.close(server)
