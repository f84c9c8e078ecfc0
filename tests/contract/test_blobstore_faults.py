"""Faults of the network and of S3 at chosen moments leave one whole object and nothing else."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pydantic import SecretStr
from tenacity import wait_fixed
from tests.faults.proxy import Fault, FaultyProxy

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import ChecksumRefused, ObjectMissing
from bucketline.errors import DependencyUnavailable
from bucketline.settings import S3Settings

pytestmark = pytest.mark.stack

MIB = 1024 * 1024
PART = 5 * MIB
PUT = "PUT"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fresh() -> str:
    return f"f/{secrets.token_hex(8)}/"


@pytest.fixture
async def proxy(stack: Any) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(stack.s3.endpoint) as proxy:
        yield proxy


def through(proxy: FaultyProxy, stack: Any, *, read_timeout: float = 1) -> S3BlobStore:
    settings = S3Settings(
        endpoint_url=proxy.url,
        access_key=stack.s3.access_key,
        secret_key=SecretStr(stack.s3.secret_key),
        bucket="faults",
        part_size_bytes=PART,
        connect_timeout_seconds=1,
        read_timeout_seconds=read_timeout,
    )
    return S3BlobStore(settings, retry_wait=wait_fixed(0.01))


@pytest.fixture
async def store(stack: Any, proxy: FaultyProxy) -> AsyncIterator[S3BlobStore]:
    async with through(proxy, stack) as store:
        await store.ensure_bucket()
        # From here on a connection is reused, as in production, where HTTP clients may resend on their own.
        await store.put_if_absent("warm", b"up", sha256=sha(b"up"), content_type="text/plain")
        proxy.seen.clear()
        yield store


async def put(store: S3BlobStore, key: str, data: bytes) -> bool:
    return await store.put_if_absent(key, data, sha256=sha(data), content_type="text/plain")


async def stream(store: S3BlobStore, prefix: str, data: bytes) -> bool:
    async with store.upload(prefix + "staging") as upload:
        for start in range(0, len(data), MIB):
            await upload.write(data[start : start + MIB])
        return await upload.finish_to(prefix + "final", sha256=sha(data), size=len(data), content_type="a/b")


async def everything(store: S3BlobStore, prefix: str) -> list[str]:
    objects = [row.key for row in await store.list(prefix, limit=100)]
    return objects + [f"open {row.key}" for row in await store.list_multipart(prefix)]


async def is_whole(store: S3BlobStore, key: str, data: bytes) -> bool:
    head = await store.head(key)
    return head.sha256 == sha(data) and await store.read(key, limit=len(data)) == data


@pytest.mark.parametrize("size", [10_000, MIB])
@pytest.mark.parametrize("kind", ["drop_reply", "hang"])
async def test_put_with_a_lost_response_checks_the_object(
    store: S3BlobStore, proxy: FaultyProxy, kind: Any, size: int
) -> None:
    key, data = fresh() + "k", os.urandom(size)
    proxy.plan(Fault(kind, method=PUT))
    await put(store, key, data)
    assert proxy.count(PUT) == 1, "the object exists, so it is not sent twice"
    assert await is_whole(store, key, data)


async def test_put_with_two_lost_responses_checks_the_object(store: S3BlobStore, proxy: FaultyProxy) -> None:
    key, data = fresh() + "k", os.urandom(10_000)
    proxy.plan(Fault("cut_request", method=PUT, after=100), Fault("drop_reply", method=PUT))
    await put(store, key, data)
    assert proxy.count(PUT) == 2
    assert await is_whole(store, key, data)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", status=409, code="ConditionalRequestConflict"),
        Fault("answer", status=503, code="SlowDown"),
        Fault("answer", status=500, code="InternalError"),
        Fault("answer", status=429, code="TooManyRequests"),
        Fault("answer", status=400, code="RequestTimeout"),
        Fault("cut_request", after=100),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
@pytest.mark.parametrize("size", [10_000, MIB])
async def test_put_refused_for_now_is_sent_again(
    store: S3BlobStore, proxy: FaultyProxy, fault: Fault, size: int
) -> None:
    key, data = fresh() + "k", os.urandom(size)
    proxy.plan(Fault(fault.kind, method=PUT, status=fault.status, code=fault.code, after=fault.after))
    assert await put(store, key, data)
    assert proxy.count(PUT) == 2
    assert await is_whole(store, key, data)


async def test_put_of_an_existing_key_is_sent_once(store: S3BlobStore, proxy: FaultyProxy) -> None:
    key, data = fresh() + "k", os.urandom(10_000)
    proxy.plan(Fault("answer", method=PUT, status=412, code="PreconditionFailed"))
    assert not await put(store, key, data)
    assert proxy.count(PUT) == 1
    assert proxy.count("HEAD") == 0


async def test_put_with_a_lost_response_and_other_content_is_refused(store: S3BlobStore, proxy: FaultyProxy) -> None:
    key = fresh() + "k"
    await put(store, key, b"not what the key says")
    proxy.plan(Fault("drop_reply", method=PUT))
    with pytest.raises(ChecksumRefused):
        await put(store, key, b"content")


@pytest.mark.parametrize(
    ("fault", "most"),
    [
        (Fault("answer", times=99, method=PUT, status=503), 4),
        (Fault("answer", times=99, method=PUT, status=500), 2),
        (Fault("cut_request", times=99, method=PUT), 2),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
async def test_put_attempts_are_bounded(store: S3BlobStore, proxy: FaultyProxy, fault: Fault, most: int) -> None:
    prefix = fresh()
    proxy.plan(Fault(fault.kind, times=99, method=PUT, status=fault.status))
    with pytest.raises(DependencyUnavailable):
        await put(store, prefix + "k", os.urandom(10_000))
    assert proxy.count(PUT) == most
    assert await everything(store, prefix) == []


async def test_put_by_replicas_with_lost_responses_stores_one_object(
    store: S3BlobStore, proxy: FaultyProxy, stack: Any
) -> None:
    key, data = fresh() + "k", os.urandom(10_000)
    proxy.plan(Fault("drop_reply", times=2, method=PUT), Fault("answer", times=2, method=PUT, status=409))
    async with AsyncExitStack() as replicas:
        # SeaweedFS makes writers of one key wait for each other for seconds.
        stores = [await replicas.enter_async_context(through(proxy, stack, read_timeout=20)) for _ in range(6)]
        results = await asyncio.gather(*(put(each, key, data) for each in stores))
    assert results.count(True) <= 1
    assert proxy.count(PUT) <= 6 + 2, "only refused requests are sent again"
    assert await is_whole(store, key, data)


async def test_put_waiting_for_a_failed_writer_writes_itself(store: S3BlobStore, proxy: FaultyProxy) -> None:
    key, data = fresh() + "k", os.urandom(10_000)
    proxy.plan(Fault("answer", times=4, method=PUT, status=503))
    results = await asyncio.gather(*(put(store, key, data) for _ in range(3)), return_exceptions=True)
    assert [isinstance(result, DependencyUnavailable) for result in results] == [True, False, False]
    assert results.count(True) == results.count(False) == 1
    assert proxy.count(PUT) == 5
    assert await is_whole(store, key, data)


async def test_unreachable_store_raises_in_time(stack: Any, proxy: FaultyProxy) -> None:
    settings = S3Settings(
        endpoint_url="http://127.0.0.1:9", access_key="a", secret_key=SecretStr("b"), connect_timeout_seconds=1
    )
    async with S3BlobStore(settings, retry_wait=wait_fixed(0.01)) as away:
        for call in (put(away, "k", b"x"), away.head("k"), away.read("k", limit=1), away.ping()):
            with pytest.raises(DependencyUnavailable):
                await asyncio.wait_for(call, 20)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("drop_reply", method=PUT, path="partNumber=2"),
        Fault("cut_request", method=PUT, path="partNumber=1", after=MIB),
        Fault("answer", method=PUT, path="partNumber=3", times=2, status=503),
        Fault("answer", method=PUT, path="partNumber=1", status=500, code="InternalError"),
        Fault("drop_reply", method="POST", path="staging.*uploadId="),
        Fault("answer", method="POST", path="staging.*uploadId=", status=503),
        Fault("drop_reply", method=PUT, path="/final"),
        Fault("answer", method=PUT, path="/final", status=409, code="ConditionalRequestConflict"),
        Fault("answer", method=PUT, path="/final", status=503),
        Fault("drop_reply", method="DELETE"),
        Fault("answer", method="HEAD", status=503),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.method}-{fault.path}-{fault.status}",
)
async def test_upload_with_a_fault_succeeds(store: S3BlobStore, proxy: FaultyProxy, fault: Fault) -> None:
    prefix, data = fresh(), os.urandom(3 * PART + 10)
    proxy.plan(Fault(**vars(fault)))
    await stream(store, prefix, data)
    assert any(request.fault for request in proxy.seen), "the fault did not happen"
    assert sha(await store.read(prefix + "final", limit=len(data))) == sha(data)
    assert await everything(store, prefix) == [prefix + "final"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", method=PUT, path="partNumber=2", times=9, status=503),
        Fault("answer", method="POST", path="uploadId=", times=9, status=503),
        Fault("drop_reply", method="POST", path=r"\?uploads", times=9),
        Fault("answer", method=PUT, path="/final", times=9, status=503),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.method}-{fault.path}",
)
async def test_upload_with_a_lasting_fault_leaves_nothing(store: S3BlobStore, proxy: FaultyProxy, fault: Fault) -> None:
    prefix, data = fresh(), os.urandom(3 * PART + 10)
    proxy.plan(Fault(**vars(fault)))
    with pytest.raises(DependencyUnavailable):
        await stream(store, prefix, data)
    assert await everything(store, prefix) == []
    with pytest.raises(ObjectMissing):
        await store.head(prefix + "final")


async def test_read_with_broken_connections_resumes(store: S3BlobStore, proxy: FaultyProxy) -> None:
    key, data = fresh() + "k", os.urandom(4 * MIB)
    await put(store, key, data)
    proxy.plan(
        Fault("cut_reply", method="GET", after=MIB),
        Fault("cut_reply", method="GET", after=MIB),
        Fault("answer", method="GET", status=503),
    )
    assert sha(await store.read(key, limit=len(data))) == sha(data)
    ranges = [request.headers.get("range") for request in proxy.seen if request.method == "GET"]
    assert ranges[0] is None
    assert all(span is not None and span > "bytes=0" for span in ranges[1:])


async def test_read_of_a_replaced_object_raises(store: S3BlobStore, proxy: FaultyProxy) -> None:
    key, data = fresh() + "k", os.urandom(4 * MIB)
    await put(store, key, data)
    proxy.plan(Fault("cut_reply", method="GET", after=MIB))
    got = bytearray()

    async def read() -> None:
        async for chunk in store.get(key, limit=len(data)):
            if not got:
                await store.delete([key])
                await put(store, key, os.urandom(4 * MIB))
            got.extend(chunk)

    with pytest.raises(DependencyUnavailable):
        await read()
    assert data.startswith(bytes(got))


async def test_put_to_a_slow_store_succeeds(store: S3BlobStore, proxy: FaultyProxy) -> None:
    key = fresh() + "k"
    proxy.plan(Fault("delay", method=PUT, seconds=0.3))
    assert await put(store, key, b"content")
    assert proxy.count(PUT) == 1
