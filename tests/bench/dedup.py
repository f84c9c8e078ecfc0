"""What mirroring costs: memory that does not grow with the source, and throughput beside hashing and storing alone.

Each function returns rows, and raises ``AssertionError`` where a promise is broken.
The source is a process of its own, so that only dedup is measured.
"""

import asyncio
import functools
import hashlib
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
from pydantic import SecretStr
from tests.bench.rows import Row
from tests.database import drop_database
from tests.fakes.publisher import RecordingPublisher

from bucketline.blobs.s3 import S3BlobStore
from bucketline.clock import SystemClock
from bucketline.db.blobs import blob_key
from bucketline.db.indexes import ensure_indexes
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.domain.blob_sources import UrlSource
from bucketline.kafka.broker import KafkaRuntime
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext
from bucketline.settings import MongoSettings, ReconcileSettings, S3Settings, read_settings
from bucketline_dedup.app import wire
from bucketline_dedup.content_store import ContentStore, LargeTransferSlot, PutRequest, StoredContent
from bucketline_dedup.http_fetcher import HttpFetcher
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import SourceOpener

SOURCE = Path(__file__).with_name("large_source.py")
MIB = 1024 * 1024
BLOCK = 256 * 1024
MOST_MEMORY = 100 * MIB
LEAST_RATIO = 1 / 1.25


class _Mirror:
    """Dedup's own path from a URL to stored content, without the objects around it."""

    def __init__(self, contents: ContentStore, fetcher: HttpFetcher, store: S3BlobStore) -> None:
        self._contents = contents
        self._opener = SourceOpener(fetcher=fetcher, store=store, external=store)
        self.store = store

    async def __call__(self, url: str) -> StoredContent:
        request = PutRequest(staging_key=f"staging/dedup/obj_bench/{secrets.token_hex(4)}/blob")
        async with self._opener.open(UrlSource(url), max_bytes=10 * 1024 * MIB) as stream:
            return await self._contents.store_stream(stream, request, LargeTransferSlot(asyncio.Semaphore(), wait=True))


async def memory(stack: LocalStack, *, sizes: tuple[int, ...] = (50 * MIB, 2048 * MIB)) -> list[Row]:
    """Growth of the process above idle while sources of these sizes are mirrored, one after the other."""
    rows = []
    async with _mirror(stack) as mirror, _source() as url:
        await mirror(url(20 * MIB))
        idle = psutil.Process().memory_info().rss
        for size in sizes:
            grown = await _peak(functools.partial(mirror, url(size))) - idle
            name = f"dedup: memory above idle, a source of {size // MIB} MiB"
            rows.append(Row(name, grown / MIB, "MiB", "the promise", MOST_MEMORY / MIB))
            assert grown <= MOST_MEMORY, f"{grown / MIB:.0f} MiB above idle for {size // MIB} MiB"
    return rows


async def throughput(stack: LocalStack, *, size: int = 1024 * MIB, tries: int = 3) -> list[Row]:
    """One large blob: the whole mirror beside hashing alone and storing alone, one after the other in the same run.

    The best of up to ``tries`` runs counts: other work on the machine is no fault of ours.
    """
    rows: list[Row] = []
    async with _mirror(stack) as mirror, _source() as url:
        await mirror(url(20 * MIB))
        for _ in range(tries):
            hashing = size / MIB / await _timed(lambda: asyncio.to_thread(_hash_only, size))
            storing = size / MIB / await _timed(lambda: _put_only(mirror.store, size))
            mirroring = size / MIB / await _timed(lambda: mirror(url(size)))
            slower = min(hashing, storing)
            rows = [
                Row("dedup: hash only", hashing, "MiB/s"),
                Row("dedup: put only", storing, "MiB/s"),
                Row("dedup: mirror a large URL", mirroring, "MiB/s", "the slower of the two", slower),
            ]
            if mirroring >= LEAST_RATIO * slower:
                return rows
    raise AssertionError(f"mirroring is too slow beside its parts: {rows}")


def _hash_only(size: int) -> None:
    digest, block = hashlib.sha256(), bytes(BLOCK)
    for _ in range(size // BLOCK):
        digest.update(block)


async def _put_only(store: S3BlobStore, size: int) -> None:
    """The same number of bytes into the store under a hash that is known: parts, staging, and into place."""
    block = os.urandom(BLOCK)
    name = secrets.token_hex(32)
    async with store.upload(f"staging/dedup/obj_bench/{name}/put") as upload:
        for _ in range(size // BLOCK):
            await upload.write(block)
        await upload.finish_to(blob_key(name), sha256=name, size=size, content_type="application/octet-stream")
    await store.delete([blob_key(name)])


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _peak(work: Callable[[], Awaitable[object]]) -> int:
    """The highest resident size while ``work`` runs, in bytes."""
    process, peak = psutil.Process(), 0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        await work()
    finally:
        watching.cancel()
    return peak


@asynccontextmanager
async def _mirror(stack: LocalStack) -> AsyncIterator[_Mirror]:
    own = DedupSettings(allow_networks=["127.0.0.0/8"], allowed_ports="*")
    settings = read_settings("dedup").model_copy(
        update={
            "mongo": MongoSettings(url=SecretStr(stack.mongodb_url), database=f"bench_{secrets.token_hex(4)}"),
            "s3": S3Settings(
                endpoint_url=stack.s3.endpoint,
                access_key=stack.s3.access_key,
                secret_key=SecretStr(stack.s3.secret_key),
                bucket=f"bench-{secrets.token_hex(4)}",
            ),
            "reconcile": ReconcileSettings(),
        }
    )
    database = Database(settings.mongo)
    try:
        async with S3BlobStore(settings.s3) as store, HttpFetcher(own.policy(), own.limits()) as fetcher:
            await ensure_indexes(database)
            await store.ensure_bucket()
            runtime = ServiceContext(
                settings=settings,
                database=database,
                kafka=cast("KafkaRuntime", SimpleNamespace(publisher=RecordingPublisher())),
                blobs=store,
                health=Health(),
                clock=SystemClock(),
            )
            dedup = wire(runtime, own, fetcher=fetcher, external=store)
            yield _Mirror(dedup.contents, fetcher, store)
            await store.delete([row.key for row in await store.list("blobs/", limit=1000)])
    finally:
        await drop_database(database)
        database.close()


@asynccontextmanager
async def _source() -> AsyncIterator[Callable[[int], str]]:
    """Gives the URL of fresh content of any size."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SOURCE), stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), 20))
        yield lambda size: f"http://127.0.0.1:{port}/{secrets.token_hex(8)}/{size}"
    finally:
        process.kill()
        await process.wait()
