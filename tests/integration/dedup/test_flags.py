"""The flags of the contract, and uploads."""

import base64
import hashlib
from dataclasses import replace

import aiohttp
import pytest
from tests.integration.dedup.conftest import Open, proxied
from tests.integration.dedup.harness import MIB, Bench, sha
from tests.integration.dedup.sources import Page, Sources
from yarl import URL

from bucketline.db.blobs import blob_key
from bucketline.devstack.stack import LocalStack
from bucketline.domain.blob_sources import content_key
from bucketline.events.cloudevents import REPLAY
from bucketline.events.models import ObjectMirrored, ObjectStatusChanged
from bucketline_dedup.subscribers import mirror_objects

pytestmark = pytest.mark.stack


async def upload(bench: Bench, data: bytes, *, checked: bool) -> dict[str, object]:
    """PUT content as a client does; return the source that the API stores for the confirmed upload."""
    key = f"uploads/{bench.runtime.ids.new('upl')}/a.txt"
    url = await bench.store.presign_put(
        key, expires=60, content_type="text/plain", sha256=sha(data) if checked else None
    )
    async with (
        aiohttp.ClientSession() as session,
        session.put(URL(url, encoded=True), data=data, headers={"Content-Type": "text/plain"}) as answer,
    ):
        assert answer.status == 200
    return {
        "kind": "upload",
        "upload_id": "upl_1",
        "key": key,
        "size": len(data),
        "mime_type": "text/plain",
        "filename": "a.txt",
    }


@pytest.mark.parametrize("size", [10, 17 * MIB])
async def test_upload_verified_by_s3_is_not_read(opened: Open, stack: LocalStack, size: int) -> None:
    data = b"u" * size
    async with (
        proxied(stack) as proxy,
        opened(s3_endpoint=proxy.url) as bench,
    ):
        source = await upload(bench, data, checked=True)
        obj = await bench.mirror_one(source)
        details = obj["blobs"][0]["details"]
        assert details == {
            "filename": "a.txt",
            "size_bytes": size,
            "mime_type": "text/plain",
            "hash": f"sha256:{sha(data)}",
        }
        again = await bench.mirror_one(source)
        assert again["blobs"][0]["storage"]["duplicate"]
        assert proxy.count("GET", "uploads/") == 0
        # Only the client sent a body of this size.
        assert proxy.count("PUT", where=lambda seen: int(seen.headers.get("content-length", 0)) >= size) == 1
        assert len(await bench.content(obj)) == size


@pytest.mark.parametrize("size", [10, 17 * MIB])
async def test_upload_without_a_verified_checksum_is_read(bench: Bench, size: int) -> None:
    obj = await bench.mirror_one(await upload(bench, b"v" * size, checked=False))
    assert obj["blobs"][0]["details"]["hash"] == f"sha256:{sha(b'v' * size)}"  # type: ignore[index]
    assert await bench.leftovers() == []


async def test_checksum_of_the_producer_is_checked_for_verified_uploads(bench: Bench) -> None:
    source = await upload(bench, b"verified", checked=True)
    obj = await bench.mirror_one(source, checksum=f"sha256:{sha(b'other')}")
    assert str(obj["mirror"]["error"]).startswith("main: the checksum does not match")
    md5 = hashlib.md5(b"verified", usedforsecurity=False).hexdigest()
    obj = await bench.mirror_one(source, checksum=f"md5:{md5}")
    assert obj["mirror"]["state"] == "done"


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha1", "sha512", "blake2b", "sha3-256", "crc32"])
async def test_checksum_of_each_algorithm_is_verified(bench: Bench, sources: Sources, algorithm: str) -> None:
    data = b"123456789"
    if algorithm == "crc32":
        right = "cbf43926"
    else:
        right = hashlib.new(algorithm.replace("-", "_"), data, usedforsecurity=False).hexdigest()
    url = sources.put("/c", data)
    for source in ({"kind": "url", "url": url}, {"kind": "text", "text": data.decode()}):
        good = await bench.mirror_one(source, checksum=f"{algorithm}:{right}")
        assert good["mirror"]["state"] == "done"
        wrong = f"{algorithm}:{'0' * len(right)}"
        bad = await bench.mirror_one(source, checksum=wrong)
        expected = f"main: the checksum does not match: expected {wrong}, the source has {algorithm}:{right}"
        assert (bad["mirror"]["state"], bad["mirror"]["error"]) == ("failed", expected)


async def test_checksum_of_an_unknown_algorithm_fails_the_object(bench: Bench) -> None:
    obj = await bench.mirror_one({"kind": "text", "text": "x"}, checksum="adler:00000001")
    assert obj["mirror"]["error"] == "main: checksums by 'adler' cannot be verified"


async def test_source_without_canonicalize_is_linked_and_not_read(bench: Bench, sources: Sources) -> None:
    page = Page(data=b"stays there")
    url = sources.put("/stays", page)
    obj = await bench.mirror_one({"kind": "url", "url": url}, canonicalize=False)
    blob = obj["blobs"][0]
    assert (obj["mirror"]["state"], blob["state"], blob["storage"]) == ("done", "linked", None)
    assert blob["source"] == {"kind": "url", "url": url}
    assert page.requests == 0
    (said,) = bench.bus.of(ObjectMirrored, obj["_id"])
    assert (said.failed, said.blobs[0].state) == (False, "linked")
    # Inline content exists nowhere else, so it is stored anyway.
    inline = await bench.mirror_one({"kind": "text", "text": "inline"}, canonicalize=False)
    assert inline["blobs"][0]["state"] == "stored"


async def test_skip_duplicates_with_a_known_checksum_does_not_read_the_source(bench: Bench, sources: Sources) -> None:
    page = Page(data=b"held already")
    source = {"kind": "url", "url": sources.put("/held.txt", page)}
    checksum = f"sha256:{sha(b'held already')}"
    await bench.mirror_one(source)
    asked = page.requests
    skipped = await bench.mirror_one(source, checksum=checksum, skip_duplicates=True, bucket_id=bench.bucket)
    assert skipped["blobs"][0]["storage"]["duplicate"]  # type: ignore[index]
    assert skipped["blobs"][0]["details"]["filename"] == "held.txt"  # type: ignore[index]
    assert page.requests == asked
    # In another bucket the hash alone does not prove access.
    await bench.mirror_one(source, checksum=checksum, skip_duplicates=True, bucket_id="bkt_other")
    assert page.requests == asked + 1
    await bench.mirror_one(source, checksum=checksum, skip_duplicates=True, force=True)
    assert page.requests == asked + 2


async def test_skip_duplicates_skips_the_younger_of_two_equal_objects(bench: Bench, sources: Sources) -> None:
    source = {"kind": "url", "url": sources.put("/twin", b"twins")}
    first = await bench.mirror_one(source, skip_duplicates=True)
    assert first["content_key"] == content_key([("main", f"sha256:{sha(b'twins')}")])
    second = await bench.mirror_one(source, skip_duplicates=True)
    assert second["mirror"]["duplicate_of"] == first["_id"]
    (said,) = bench.bus.of(ObjectStatusChanged, second["_id"])
    assert (said.status, said.error) == ("SKIPPED", f"skipped: {first['_id']} of this bucket has the same content")
    assert bench.bus.of(ObjectStatusChanged, first["_id"]) == []
    third = await bench.mirror_one(source)
    assert "duplicate_of" not in third["mirror"]


async def test_force_remirror_replaces_broken_content(bench: Bench, sources: Sources) -> None:
    data = b"the right content"
    source = {"kind": "url", "url": sources.put("/mend", data)}
    obj = await bench.mirror_one(source)
    key = blob_key(sha(data))
    await bench.store.delete([key])
    await bench.store.put_if_absent(key, b"broken", sha256=sha(b"broken"), content_type="text/plain")
    await bench.mirror_one(source)
    assert await bench.content(obj) == b"broken"
    forced = await bench.mirror_one(source, force=True)
    assert forced["mirror"]["state"] == "done"
    assert await bench.content(obj) == data
    inline = await bench.mirror_one({"kind": "base64", "base64": base64.b64encode(data).decode()}, force=True)
    assert inline["blobs"][0]["storage"]["duplicate"]  # type: ignore[index]


async def test_staged_content_is_copied_and_deleted(bench: Bench) -> None:
    object_id = await bench.add()
    data = b"too large for a document"
    key = f"staging/inline/{object_id}/blob_1"
    await bench.store.put_if_absent(key, data, sha256=sha(data), content_type="application/octet-stream")
    source = {"kind": "staged", "key": key, "size": len(data), "sha256": sha(data), "mime_type": "text/plain"}
    obj = await bench.mirror_one(source)
    assert await bench.content(obj) == data
    assert await bench.store.list("staging/", limit=10) == []


async def test_replay_of_a_finished_object_is_not_published_again(bench: Bench) -> None:
    """The event replay publishes these events itself, with the same ids each time."""
    settled = await bench.mirror_one({"kind": "text", "text": "told before"})
    missed = await bench.add(bench.blob({"kind": "text", "text": "its record never came"}))
    before = len(bench.bus.of(ObjectMirrored, settled["_id"]))
    records = [replace(bench.record(object_id), source=REPLAY) for object_id in (settled["_id"], missed)]
    await mirror_objects(records, bench.dedup.mirroring)
    assert (await bench.mirrored(missed))["mirror"]["state"] == "done"
    assert len(bench.bus.of(ObjectMirrored, missed)) == 1
    assert len(bench.bus.of(ObjectMirrored, settled["_id"])) == before
    await bench.created(settled["_id"])
    assert len(bench.bus.of(ObjectMirrored, settled["_id"])) == before + 1, (
        "a record that comes again is another matter"
    )
