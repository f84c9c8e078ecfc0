"""The contract of ``S3BlobStore``: one suite on the fake and on the real server."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from tests.fakes.blob_store import MemoryBlobStore
from yarl import URL

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import (
    AccessRefused,
    ChecksumRefused,
    ContentTooLarge,
    ExternalBucket,
    ObjectMissing,
)
from bucketline.db.blobs import blob_key
from bucketline.errors import DependencyUnavailable
from bucketline.settings import S3Settings

MIB = 1024 * 1024
PART = 5 * MIB
EXTERNAL = b"a file of somebody else"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fresh() -> str:
    """Return a prefix for one test; all tests share the bucket."""
    return f"t/{secrets.token_hex(8)}/"


def real_settings(stack: Any, **changes: Any) -> S3Settings:
    return S3Settings(
        endpoint_url=stack.s3.endpoint,
        access_key=stack.s3.access_key,
        secret_key=SecretStr(stack.s3.secret_key),
        bucket="contract",
        part_size_bytes=PART,
        **changes,
    )


@dataclass
class Case:
    store: S3BlobStore
    external_url: str


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.stack)])
def server(request: pytest.FixtureRequest) -> Any:
    """Return the stack for the real store, None for the fake."""
    return request.getfixturevalue("stack") if request.param == "real" else None


@pytest.fixture
async def case(server: Any) -> AsyncIterator[Case]:
    url = "s3://elsewhere/some/file.txt"
    if server is None:
        yield Case(MemoryBlobStore("contract", external={url: EXTERNAL}, part_size=PART), url)
        return
    settings = real_settings(server)
    access = ExternalBucket(
        buckets=("elsewhere",),
        endpoint=server.s3.endpoint,
        access_key=server.s3.access_key,
        secret_key=server.s3.secret_key,
    )
    async with S3BlobStore(settings.model_copy(update={"bucket": "elsewhere"})) as other:
        await other.ensure_bucket()
        await other.put_if_absent("some/file.txt", EXTERNAL, sha256=sha(EXTERNAL), content_type="text/plain")
    # Lower thresholds, so that copying in parts needs no gigabytes.
    async with S3BlobStore(settings, external_buckets=[access], max_single_copy=12 * MIB, copy_part_size=PART) as real:
        await real.ensure_bucket()
        yield Case(real, url)


@pytest.fixture
def store(case: Case) -> S3BlobStore:
    return case.store


async def put(store: S3BlobStore, key: str, data: bytes, content_type: str = "text/plain") -> bool:
    return await store.put_if_absent(key, data, sha256=sha(data), content_type=content_type)


async def stream(store: S3BlobStore, staging: str, final: str, data: bytes, *, announced: int | None = None) -> bool:
    size = len(data) if announced is None else announced
    async with store.upload(staging) as upload:
        for start in range(0, len(data), MIB):
            await upload.write(data[start : start + MIB])
        return await upload.finish_to(final, sha256=sha(data), size=size, content_type="video/mp4")


async def leftovers(store: S3BlobStore, prefix: str) -> list[str]:
    objects = [row.key for row in await store.list(prefix, limit=100)]
    return objects + [row.key for row in await store.list_multipart(prefix)]


async def test_read_after_put_returns_the_content(store: S3BlobStore) -> None:
    key, data = fresh() + "ü b+c%/ä?#.txt", b"hello " * 1000
    assert await put(store, key, data, "text/markdown")
    assert await store.read(key, limit=len(data)) == data
    head = await store.head(key)
    assert (head.size, head.sha256, head.content_type) == (len(data), sha(data), "text/markdown")


async def test_put_of_an_existing_key_does_not_overwrite(store: S3BlobStore) -> None:
    key = fresh() + "k"
    assert await put(store, key, b"first")
    assert not await put(store, key, b"second")
    assert await store.read(key, limit=100) == b"first"


async def test_put_of_empty_content_stores_an_object(store: S3BlobStore) -> None:
    key = fresh() + "empty"
    assert await put(store, key, b"")
    assert await store.read(key, limit=0) == b""
    assert (await store.head(key)).size == 0


async def test_put_by_twenty_concurrent_writers_stores_once(store: S3BlobStore) -> None:
    data = os.urandom(10_000)
    results = await asyncio.gather(*(put(store, blob_key(sha(data)), data) for _ in range(20)))
    assert sorted(results) == [False] * 19 + [True]
    assert sha(await store.read(blob_key(sha(data)), limit=10_000)) == sha(data)


@pytest.mark.parametrize("size", [10, MIB])
async def test_put_with_a_wrong_checksum_stores_nothing(store: S3BlobStore, size: int) -> None:
    key = fresh() + "k"
    with pytest.raises(ChecksumRefused):
        await store.put_if_absent(key, os.urandom(size), sha256=sha(b"other"), content_type="text/plain")
    with pytest.raises(ObjectMissing):
        await store.head(key)


async def test_missing_object_raises_object_missing(store: S3BlobStore) -> None:
    key = fresh() + "nothing"
    with pytest.raises(ObjectMissing):
        await store.head(key)
    with pytest.raises(ObjectMissing):
        await store.read(key, limit=10)
    with pytest.raises(ObjectMissing):
        await store.copy_if_absent(key, key + "2", size=1, content_type="text/plain")
    await store.delete([key])


async def test_get_beyond_the_limit_raises_content_too_large(store: S3BlobStore) -> None:
    key = fresh() + "k"
    await put(store, key, b"0123456789")
    with pytest.raises(ContentTooLarge):
        await anext(store.get(key, limit=9))


@pytest.mark.parametrize(("span", "expected"), [((0, 0), b"0"), ((3, 5), b"345"), ((8, 99), b"89")])
async def test_get_with_a_range_returns_the_range(store: S3BlobStore, span: tuple[int, int], expected: bytes) -> None:
    key = fresh() + "k"
    await put(store, key, b"0123456789")
    assert b"".join([chunk async for chunk in store.get(key, range=span, limit=5)]) == expected


async def test_get_closed_early_leaves_the_store_usable(store: S3BlobStore) -> None:
    key, data = fresh() + "k", os.urandom(2 * MIB)
    await put(store, key, data)
    for _ in range(3):
        async with aclosing(store.get(key, limit=len(data))) as chunks:
            assert data.startswith(await anext(chunks))
    assert await store.read(key, limit=len(data)) == data


async def test_list_after_the_last_key_continues(store: S3BlobStore) -> None:
    prefix = fresh()
    for name in ("a", "b/1", "b/2", "c"):
        await put(store, prefix + name, name.encode())
    first = await store.list(prefix, limit=2)
    rest = await store.list(prefix, limit=10, after=first[-1].key)
    assert [row.key.removeprefix(prefix) for row in [*first, *rest]] == ["a", "b/1", "b/2", "c"]
    assert [row.size for row in first] == [1, 3]
    assert await store.list(prefix + "zzz", limit=10) == []


@pytest.mark.parametrize("count", [1001])
async def test_list_of_more_than_one_page_returns_all_keys(store: S3BlobStore, count: int) -> None:
    prefix = fresh()
    keys = [f"{prefix}{number:04}" for number in range(count)]
    for start in range(0, count, 50):
        await asyncio.gather(*(put(store, key, b"x") for key in keys[start : start + 50]))
    assert [row.key for row in await store.list(prefix, limit=5000)] == keys
    assert [row.key for row in await store.list(prefix, limit=1000, after=keys[0])] == keys[1:]
    await store.delete(keys)
    assert await store.list(prefix, limit=10) == []


async def test_delete_removes_the_given_keys_only(store: S3BlobStore) -> None:
    prefix = fresh()
    for name in ("a", "b", "c"):
        await put(store, prefix + name, b"x")
    await store.delete([prefix + "a", prefix + "c", prefix + "never"])
    await store.delete([])
    assert [row.key for row in await store.list(prefix, limit=10)] == [prefix + "b"]


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 11 * MIB, 16 * MIB])
async def test_upload_stores_the_content_and_nothing_else(store: S3BlobStore, size: int) -> None:
    prefix, data = fresh(), os.urandom(size)
    assert await stream(store, prefix + "staging/1", prefix + "final", data)
    assert sha(await store.read(prefix + "final", limit=size)) == sha(data)
    head = await store.head(prefix + "final")
    assert (head.size, head.content_type) == (size, "video/mp4")
    assert await leftovers(store, prefix) == [prefix + "final"]


@pytest.mark.parametrize("size", [100, 6 * MIB, 16 * MIB])
async def test_upload_of_existing_content_stores_nothing(store: S3BlobStore, size: int) -> None:
    prefix, data = fresh(), os.urandom(size)
    assert await stream(store, prefix + "staging/1", prefix + "final", data)
    assert not await stream(store, prefix + "staging/2", prefix + "final", data)
    assert await leftovers(store, prefix) == [prefix + "final"]


async def test_upload_by_four_concurrent_writers_stores_once(store: S3BlobStore) -> None:
    prefix, data = fresh(), os.urandom(6 * MIB)
    streams = (stream(store, f"{prefix}staging/{n}", prefix + "final", data) for n in range(4))
    assert sorted(await asyncio.gather(*streams)) == [False, False, False, True]
    assert await leftovers(store, prefix) == [prefix + "final"]


@pytest.mark.parametrize("size", [100, 11 * MIB])
async def test_upload_with_an_error_leaves_nothing(store: S3BlobStore, size: int) -> None:
    prefix = fresh()

    async def broken() -> None:
        async with store.upload(prefix + "staging/1") as upload:
            await upload.write(os.urandom(size))
            raise KeyError

    with pytest.raises(KeyError):
        await broken()
    assert await leftovers(store, prefix) == []


async def test_upload_when_cancelled_leaves_nothing(store: S3BlobStore) -> None:
    prefix, started = fresh(), asyncio.Event()

    async def endless() -> None:
        async with store.upload(prefix + "staging/1") as upload:
            while True:
                await upload.write(bytes(PART))
                if upload.size > 3 * PART:
                    started.set()
                await asyncio.sleep(0)

    task = asyncio.create_task(endless())
    await asyncio.wait_for(started.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await leftovers(store, prefix) == []


@pytest.mark.parametrize("size", [100, 6 * MIB])
async def test_upload_of_another_size_is_refused(store: S3BlobStore, size: int) -> None:
    prefix, data = fresh(), os.urandom(size)
    with pytest.raises(ChecksumRefused):
        await stream(store, prefix + "staging/1", prefix + "final", data, announced=size + 1)
    assert await leftovers(store, prefix) == []


@pytest.mark.parametrize("size", [0, 10, 6 * MIB, 13 * MIB])
async def test_copy_has_the_same_content(store: S3BlobStore, size: int) -> None:
    prefix, data = fresh(), os.urandom(size)
    await put(store, prefix + "source", data)
    head = await store.head(prefix + "source")
    made = await store.copy_if_absent(
        prefix + "source",
        prefix + "copy",
        size=size,
        content_type="image/png",
        sha256=sha(data),
        source_etag=head.etag,
    )
    assert made
    assert sha(await store.read(prefix + "copy", limit=size)) == sha(data)
    assert (await store.head(prefix + "copy")).content_type == "image/png"
    assert await leftovers(store, prefix) == [prefix + "copy", prefix + "source"]


@pytest.mark.parametrize(("size", "in_parts"), [(10, False), (13 * MIB, True)])
async def test_copy_by_five_concurrent_callers_stores_once(store: S3BlobStore, size: int, in_parts: bool) -> None:
    prefix, data = fresh(), os.urandom(size)
    await put(store, prefix + "source", data)
    copies = (
        store.copy_if_absent(prefix + "source", prefix + "copy", size=size, content_type="a/b", sha256=sha(data))
        for _ in range(5)
    )
    made = await asyncio.gather(*copies)
    # SeaweedFS checks and completes in two steps, so that two copies in parts may both be reported as first.
    assert made.count(True) >= 1 if in_parts else made.count(True) == 1
    assert sha(await store.read(prefix + "copy", limit=size)) == sha(data)
    assert await leftovers(store, prefix) == [prefix + "copy", prefix + "source"]


async def test_copy_of_a_changed_source_is_refused(store: S3BlobStore) -> None:
    prefix = fresh()
    await put(store, prefix + "source", b"0123456789")
    etag = (await store.head(prefix + "source")).etag
    wrong: list[dict[str, Any]] = [
        {"size": 9, "source_etag": etag},
        {"size": 10, "source_etag": "0" * 32},
        {"size": 10, "sha256": sha(b"other")},
    ]
    for arguments in wrong:
        with pytest.raises(ChecksumRefused):
            await store.copy_if_absent(prefix + "source", prefix + "copy", content_type="a/b", **arguments)
    assert await leftovers(store, prefix) == [prefix + "source"]


async def test_urls_and_keys_convert_both_ways(store: S3BlobStore) -> None:
    assert store.url_of("a/b c") == "s3://contract/a/b c"
    assert store.key_of("s3://contract/a/b c") == "a/b c"
    assert store.key_of("s3://another/a") is None
    assert store.key_of("s3://contract/") is None


async def test_open_external_of_a_configured_bucket_reads_it(case: Case) -> None:
    async with case.store.open_external(case.external_url, limit=100) as content:
        assert content.info.size == len(EXTERNAL)
        assert b"".join([chunk async for chunk in content.chunks]) == EXTERNAL


async def test_open_external_refuses_other_buckets_and_large_objects(case: Case) -> None:
    refused = [("s3://unknown/key", AccessRefused), ("s3://contract/key", AccessRefused)]
    for url, error in [*refused, (case.external_url + ".nothing", ObjectMissing)]:
        with pytest.raises(error):
            async with case.store.open_external(url, limit=100):
                pass
    with pytest.raises(ContentTooLarge):
        async with case.store.open_external(case.external_url, limit=len(EXTERNAL) - 1):
            pass


async def test_ensure_bucket_can_be_repeated(store: S3BlobStore) -> None:
    await asyncio.gather(store.ensure_bucket(), store.ensure_bucket())
    await store.ping()


# Behaviour of a real server only


@pytest.mark.stack
async def test_put_by_twenty_writers_in_four_replicas_stores_once(stack: Any) -> None:
    data = os.urandom(10_000)
    async with AsyncExitStack() as replicas:
        stores = [await replicas.enter_async_context(S3BlobStore(real_settings(stack))) for _ in range(4)]
        await stores[0].ensure_bucket()
        writers = (put(stores[n % 4], blob_key(sha(data)), data) for n in range(20))
        assert sorted(await asyncio.gather(*writers)) == [False] * 19 + [True]
        assert await stores[0].read(blob_key(sha(data)), limit=10_000) == data


@pytest.fixture
async def real(stack: Any) -> AsyncIterator[S3BlobStore]:
    async with S3BlobStore(real_settings(stack)) as store:
        await store.ensure_bucket()
        yield store


async def http(method: str, url: str, **options: Any) -> tuple[int, bytes, dict[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(url, encoded=True), **options) as answer,
    ):
        return answer.status, await answer.read(), {k.lower(): v for k, v in answer.headers.items()}


@pytest.mark.stack
async def test_presigned_get_serves_the_file_under_its_name(real: S3BlobStore) -> None:
    key = fresh() + "a b"
    await put(real, key, b"content")
    for name in ("plain.txt", 'bücher "1".txt', "書" * 255 + ".txt"):
        url = await real.presign_get(key, expires=60, filename=name)
        assert len(url) <= 2083
        status, body, headers = await http("GET", url)
        assert (status, body) == (200, b"content")
        assert headers["content-disposition"].startswith("attachment; filename=")
        assert ".txt" in headers["content-disposition"]
    status, _, _ = await http("GET", url.replace("a%20b", "other"))
    assert status == 403


@pytest.mark.stack
async def test_presigned_put_binds_type_size_and_checksum(real: S3BlobStore) -> None:
    key, data = fresh() + "upload", b"0123456789"
    url = await real.presign_put(key, expires=60, content_type="text/plain", size=10, sha256=sha(data))
    assert len(url) <= 2083
    refused = [(b"012345678", "text/plain"), (data, "text/html"), (b"x123456789", "text/plain")]
    for body, content_type in refused:
        status, _, _ = await http("PUT", url, data=body, headers={"content-type": content_type})
        assert status in (400, 403)
        with pytest.raises(ObjectMissing):
            await real.head(key)
    status, _, headers = await http("PUT", url, data=data, headers={"content-type": "text/plain"})
    assert status == 200
    head = await real.head(key)
    assert headers["etag"].strip('"') == head.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert head.sha256 == sha(data), "the store verified the checksum, so the upload need not be read"


@pytest.mark.stack
async def test_presigned_put_without_checksum_has_no_verified_sha256(real: S3BlobStore) -> None:
    key = fresh() + "upload"
    url = await real.presign_put(key, expires=60)
    assert (await http("PUT", url, data=b"anything"))[0] == 200
    assert (await real.head(key)).sha256 is None


@pytest.mark.stack
async def test_presigned_urls_use_the_public_endpoint(stack: Any) -> None:
    settings = real_settings(stack, public_endpoint_url="https://files.example.com")
    async with S3BlobStore(settings) as store:
        assert (await store.presign_put("k", expires=60)).startswith("https://files.example.com/contract/k?")
        assert (await store.presign_get("k", expires=60)).startswith("https://files.example.com/contract/k?")
        inside = await store.presign_get("k", expires=60, public=False)
        assert inside.startswith(stack.s3.endpoint)


@pytest.mark.stack
async def test_wrong_credentials_raise_dependency_unavailable(stack: Any) -> None:
    settings = real_settings(stack).model_copy(update={"secret_key": SecretStr("wrong")})
    async with S3BlobStore(settings) as store:
        with pytest.raises(DependencyUnavailable, match="SignatureDoesNotMatch"):
            await put(store, fresh() + "k", b"x")
        with pytest.raises(DependencyUnavailable, match="403"):
            await store.ping()


@pytest.mark.stack
async def test_ensure_bucket_without_permission_to_create_raises(stack: Any) -> None:
    settings = real_settings(stack, create_bucket=False).model_copy(update={"bucket": "never-made"})
    async with S3BlobStore(settings) as store:
        with pytest.raises(DependencyUnavailable, match="never-made does not exist"):
            await store.ensure_bucket()
        with pytest.raises(DependencyUnavailable, match="never-made does not exist"):
            await store.ping()
