"""Starts Bucketline and its peers on the servers of one stack, so that they do the same job side by side."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import boto3
import psutil
from pydantic import SecretStr
from tests.conftest import ADMIN_KEY, Api

from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services
from bucketline.settings import MongoSettings

PEERS = Path(__file__).with_name("peers")
START_SECONDS = 30.0
BUCKET = "peers"


@dataclass(frozen=True)
class Contestant:
    """One implementation of the job.

    ``create_path`` takes the body ``{"name", "blobs"}`` and answers with ``object_id``; ``read_path`` is a folder below
    which an object is read. ``count_completed`` reads the database. ``processes`` are its own processes, without the
    servers, and ``kill_workers`` ends all but the API with SIGKILL; they are started again at once.
    """

    name: str
    url: str
    create_path: str
    read_path: str
    headers: Mapping[str, str]
    count_completed: Callable[[], Awaitable[int]]
    processes: Callable[[], list[psutil.Process]]
    kill_workers: Callable[[], Awaitable[None]]


@asynccontextmanager
async def bucketline(stack: LocalStack) -> AsyncIterator[Contestant]:
    """Start the four services and create a bucket that a collection reads."""
    environment = {**stack.environment(), "BUCKETLINE_API_KEY": ADMIN_KEY}
    async with AsyncExitStack() as resources:
        supervisor = await resources.enter_async_context(Supervisor(bucketline_services(environment)))
        database = Database(MongoSettings(url=SecretStr(stack.mongodb_url)))
        resources.callback(database.close)
        api = Api(supervisor.url("ingest-api"))
        resources.push_async_callback(api.close)
        namespace = await api.namespace()
        bucket = await api.bucket(namespace)
        await api.collection(namespace, bucket)

        async def count_completed() -> int:
            return await database.collection("objects").count({"bucket_id": bucket, "status": "COMPLETED"})

        async def kill_workers() -> None:
            for service in ("dedup", "batcher", "processor"):
                await supervisor.kill(service)

        path = f"/v1/buckets/{bucket}/objects"
        yield Contestant(
            name="Bucketline",
            url=api.url,
            create_path=f"{path}?auto_process=true",
            read_path=path,
            headers={"Authorization": f"Bearer {ADMIN_KEY}", "X-Namespace": namespace},
            count_completed=count_completed,
            processes=lambda: _with_children(supervisor.pids().values()),
            kill_workers=kill_workers,
        )


@asynccontextmanager
async def peer(name: str, stack: LocalStack, python: Path) -> AsyncIterator[Contestant]:
    """Start the API and the workers of a peer with ``python``, the interpreter of its own environment."""
    uvicorn = ("-m", "uvicorn", "--log-level", "warning", "--no-access-log", "--port")
    commands: dict[str, tuple[str, list[tuple[str, ...]]]] = {
        "plain": ("plain_api:app", [("plain_worker.py", "mirror"), ("plain_worker.py", "process")]),
        "celery": (
            "celery_peer:app",
            [("-m", "celery", "-A", "celery_peer:queue", "worker", "--concurrency", "2", "--loglevel", "error")],
        ),
        "taskiq": (
            "taskiq_peer:app",
            [("-m", "taskiq", "worker", "--workers", "2", "--log-level", "ERROR", "taskiq_peer:broker")],
        ),
    }
    api, workers = commands[name]
    async with AsyncExitStack() as resources:
        redis = await resources.enter_async_context(_redis()) if name != "plain" else ""
        database = Database(MongoSettings(url=SecretStr(stack.mongodb_url), database=f"peer_{name}"))
        resources.callback(database.close)
        _create_bucket(stack)
        environment = {
            **os.environ,
            "PEER_MONGODB_URL": stack.mongodb_url,
            "PEER_DATABASE": f"peer_{name}",
            "PEER_KAFKA": stack.kafka_bootstrap,
            "PEER_REDIS_URL": redis,
            "PEER_S3_ENDPOINT": stack.s3.endpoint,
            "PEER_S3_ACCESS_KEY": stack.s3.access_key,
            "PEER_S3_SECRET_KEY": stack.s3.secret_key,
            "PEER_S3_BUCKET": BUCKET,
        }
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        running: list[subprocess.Popen[bytes]] = []

        def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
            return subprocess.Popen([str(python), *arguments], cwd=PEERS, env=environment, start_new_session=True)

        def stop(process: subprocess.Popen[bytes]) -> None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

        web = start([*uvicorn, str(port), api])
        resources.callback(stop, web)
        running.extend(start(worker) for worker in workers)

        def stop_workers() -> None:
            for process in running:
                stop(process)

        resources.callback(stop_workers)
        await _answers(url)

        async def count_completed() -> int:
            return await database.collection("objects").count({"status": "COMPLETED"})

        async def kill_workers() -> None:
            for index, worker in enumerate(workers):
                await asyncio.to_thread(stop, running[index])
                running[index] = start(worker)

        yield Contestant(
            name=name,
            url=url,
            create_path="/objects",
            read_path="/objects",
            headers={},
            count_completed=count_completed,
            processes=lambda: _with_children([web.pid, *(process.pid for process in running)]),
            kill_workers=kill_workers,
        )


def install_peers(cache: Path) -> Path:
    """Return the interpreter of an environment with what the peers need; it is made once."""
    lock = PEERS / "requirements.lock"
    folder = cache / "peers"
    python, stamp = folder / "bin" / "python", folder / "installed.lock"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
        install = (
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            str(lock),
        )
        subprocess.run([str(python), *install], check=True, timeout=600)
        stamp.write_bytes(lock.read_bytes())
    return python


def _create_bucket(stack: LocalStack) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=stack.s3.endpoint,
        aws_access_key_id=stack.s3.access_key,
        aws_secret_access_key=stack.s3.secret_key,
        region_name="us-east-1",
    )
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)


@asynccontextmanager
async def _redis() -> AsyncIterator[str]:
    """Start a Redis server that keeps its data in memory and yield its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("redis-server is not installed (Debian: apt-get install redis-server)")
    port = _free_port()
    arguments = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning")
    process = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def _answers(url: str) -> None:
    ends = asyncio.get_running_loop().time() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/openapi.json") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            assert asyncio.get_running_loop().time() < ends, f"{url} did not start in time"
            await asyncio.sleep(0.05)


def _with_children(pids: Iterable[int]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found
