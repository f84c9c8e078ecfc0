"""Sources of every kind, through the whole service."""

import base64
import gzip
from pathlib import Path

import pytest
from tests.integration.dedup.conftest import Open
from tests.integration.dedup.harness import MIB, Bench, sha
from tests.integration.dedup.sources import Page, Sources
from tests.waiting import eventually, present

from bucketline.db.blobs import blob_key
from bucketline.devstack.stack import LocalStack
from bucketline.events.models import ObjectMirrored, ObjectStatusChanged

pytestmark = pytest.mark.stack

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


@pytest.mark.parametrize(
    ("source", "content", "mime_type", "filename"),
    [
        ({"kind": "text", "text": "héllo"}, "héllo".encode(), "text/plain", None),
        ({"kind": "json", "value": {"b": 1, "a": [2]}}, b'{"a":[2],"b":1}', "application/json", None),
        ({"kind": "data_uri", "media_type": "text/csv", "base64": "YSxiCjEsMgo="}, b"a,b\n1,2\n", "text/csv", None),
        (
            {
                "kind": "base64",
                "base64": base64.b64encode(PNG).decode(),
                "mime_type": "text/plain",
                "filename": "../a.png",
            },
            PNG,
            "image/png",
            "a.png",
        ),
    ],
)
async def test_inline_content_is_stored(
    bench: Bench, source: dict[str, object], content: bytes, mime_type: str, filename: str | None
) -> None:
    obj = await bench.mirror_one(source)
    blob = obj["blobs"][0]
    assert blob["details"] == {
        "filename": filename,
        "size_bytes": len(content),
        "mime_type": mime_type,
        "hash": f"sha256:{sha(content)}",
        **({"charset": "utf-8"} if source["kind"] == "text" else {}),
    }
    assert (obj["mirror"]["state"], blob["state"], blob["source"]) == ("done", "stored", None)
    assert await bench.content(obj) == content


async def test_url_of_small_and_large_content_is_stored(bench: Bench, sources: Sources) -> None:
    for size in (0, 10, 3 * MIB, 17 * MIB):
        page = Page(size=size, headers={"Content-Disposition": 'attachment; filename="some file.bin"'})
        obj = await bench.mirror_one({"kind": "url", "url": sources.put(f"/f{size}", page)})
        details = obj["blobs"][0]["details"]
        assert details is not None, obj["mirror"]
        assert (details["size_bytes"], details["filename"]) == (size, "some file.bin")
        assert details["hash"] == f"sha256:{sha(await bench.content(obj))}"
    assert await bench.leftovers() == []


async def test_declared_charset_is_stored_with_each_object(bench: Bench, sources: Sources) -> None:
    content = "привет, мир".encode("cp1251")
    encoded = base64.b64encode(content).decode()
    page = Page(data=content, content_type="text/plain; charset=Windows-1251")
    kept = []
    for source in (
        {"kind": "url", "url": sources.put("/note", page)},
        {"kind": "data_uri", "media_type": "text/plain;charset=koi8-r", "base64": encoded},
        {"kind": "base64", "base64": encoded, "mime_type": 'text/html; charset="iso-8859-5"'},
        {"kind": "base64", "base64": encoded, "mime_type": "text/plain; charset=no-such-charset"},
    ):
        details = (await bench.mirror_one(source))["blobs"][0]["details"]
        assert details is not None
        kept.append((details["mime_type"], details.get("charset")))
    assert kept == [
        ("text/plain", "windows-1251"),
        ("text/plain", "koi8-r"),
        ("text/html", "iso-8859-5"),
        ("text/plain", None),
    ]


async def test_url_without_a_length_is_stored(bench: Bench, sources: Sources) -> None:
    obj = await bench.mirror_one({"kind": "url", "url": sources.put("/chunked", Page(size=12 * MIB, announced=False))})
    assert len(await bench.content(obj)) == 12 * MIB


@pytest.mark.parametrize("size", [100_000, 3 * MIB])
async def test_url_with_content_encoding_stores_the_decoded_content(bench: Bench, sources: Sources, size: int) -> None:
    content = b"%PDF-1.4 " + bytes(range(256)) * (size // 256)
    page = Page(data=gzip.compress(content), headers={"Content-Encoding": "gzip"}, content_type="application/pdf")
    obj = await bench.mirror_one({"kind": "url", "url": sources.put("/a.pdf", page)}, checksum=f"sha256:{sha(content)}")
    assert obj["blobs"][0]["details"] == {
        "filename": "a.pdf",
        "size_bytes": len(content),
        "mime_type": "application/pdf",
        "hash": f"sha256:{sha(content)}",
    }
    assert await bench.content(obj) == content


async def test_archive_with_its_format_as_content_encoding_is_stored_as_sent(bench: Bench, sources: Sources) -> None:
    archive = gzip.compress(b"tar" * 100)
    page = Page(data=archive, headers={"Content-Encoding": "x-gzip"}, content_type="application/x-gzip")
    obj = await bench.mirror_one({"kind": "url", "url": sources.put("/a.tar.gz", page)})
    assert await bench.content(obj) == archive
    assert present(obj["blobs"][0]["details"])["mime_type"] == "application/gzip"


async def test_decompression_bomb_fails_the_object(opened: Open, sources: Sources) -> None:
    page = Page(data=gzip.compress(bytes(20 * MIB)), headers={"Content-Encoding": "gzip"})
    async with opened(max_bytes=10 * MIB) as bench:
        obj = await bench.mirror_one({"kind": "url", "url": sources.put("/bomb", page)})
        assert obj["mirror"]["error"] == f"main: the source is larger than the limit of {10 * MIB} bytes"
        assert await bench.leftovers() == []


async def test_object_of_an_external_bucket_is_stored(opened: Open, stack: LocalStack, bench: Bench) -> None:
    store = bench.store
    data = b"of somebody else"
    await store.put_if_absent("theirs/report.txt", data, sha256=sha(data), content_type="text/plain")
    bucket = store.url_of("").removeprefix("s3://").rstrip("/")
    access = {
        "buckets": [bucket],
        "endpoint": stack.s3.endpoint,
        "access_key": stack.s3.access_key,
        "secret_key": stack.s3.secret_key,
    }
    async with opened(external_buckets=[access], s3={"bucket": f"{bucket}-own"}) as other:
        obj = await other.mirror_one({"kind": "s3", "url": f"s3://{bucket}/theirs/report.txt"})
        assert await other.content(obj) == data
        assert obj["blobs"][0]["details"]["filename"] == "report.txt"
        missing = await other.mirror_one({"kind": "s3", "url": f"s3://{bucket}/theirs/nothing"})
        assert missing["mirror"]["error"] == "main: the source does not exist"
        refused = await other.mirror_one({"kind": "s3", "url": "s3://not-configured/x"})
        assert refused["mirror"]["error"] == "main: the address is not allowed"


async def test_own_bucket_is_refused_except_prefixes_and_own_content(opened: Open) -> None:
    async with opened(allowed_key_prefixes=["import/"]) as bench:
        data = b"placed by an operator"
        await bench.store.put_if_absent("import/a.txt", data, sha256=sha(data), content_type="text/plain")
        await bench.store.put_if_absent("secret/a.txt", data, sha256=sha(data), content_type="text/plain")
        placed = await bench.mirror_one({"kind": "s3", "url": bench.store.url_of("import/a.txt")})
        assert await bench.content(placed) == data
        closed = await bench.mirror_one({"kind": "s3", "url": bench.store.url_of("secret/a.txt")})
        assert closed["mirror"]["state"] == "failed"
        again = await bench.mirror_one({"kind": "s3", "url": bench.store.url_of(blob_key(sha(data)))})
        assert again["blobs"][0]["storage"]["duplicate"]
        stranger = await bench.mirror_one(
            {"kind": "s3", "url": bench.store.url_of(blob_key(sha(data)))}, namespace_id="ns_other"
        )
        assert stranger["mirror"]["error"] == "main: the address is not allowed"


async def test_url_of_content_not_stored_yet_is_retried(opened: Open) -> None:
    async with opened(initial_backoff_seconds=0.5) as bench:
        later = await bench.add(bench.blob({"kind": "s3", "url": bench.store.url_of(blob_key(sha(b"soon")))}))
        await bench.created(later)

        async def tried() -> bool:
            found = await bench.objects.get_many([later])
            return bool(found[later]["mirror"]["attempts"] > 0)

        assert await eventually(tried)
        await bench.mirror_one({"kind": "text", "text": "soon"})
        assert await bench.content(await bench.mirrored(later)) == b"soon"


async def test_file_outside_the_allowed_directories_is_refused(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("from a disk")
    (tmp_path / "out.txt").write_text("not yours")
    async with opened(file_roots=[tmp_path / "in"]) as bench:
        obj = await bench.mirror_one({"kind": "file", "path": str(tmp_path / "in" / "a.txt")})
        assert await bench.content(obj) == b"from a disk"
        refused = await bench.mirror_one({"kind": "file", "path": str(tmp_path / "out.txt")})
        assert refused["mirror"]["error"] == "main: the address is not allowed"
    async with opened() as closed:
        refused = await closed.mirror_one({"kind": "file", "path": str(tmp_path / "in" / "a.txt")})
        assert refused["mirror"]["state"] == "failed"


async def test_object_with_several_blobs_and_properties_is_mirrored(bench: Bench, sources: Sources) -> None:
    object_id = await bench.add(
        bench.blob({"kind": "text", "text": "inline"}),
        bench.blob({"kind": "url", "url": sources.put("/a", b"fetched")}, property="file"),
        bench.blob({"kind": "properties", "value": {"a": 1}}, property="extra"),
    )
    await bench.created(object_id)
    obj = await bench.mirrored(object_id)
    assert [blob["state"] for blob in obj["blobs"]] == ["stored", "stored", "none"]
    (said,) = bench.bus.of(ObjectMirrored, object_id)
    assert [(b.property, b.size_bytes) for b in said.blobs] == [("main", 6), ("file", 7), ("extra", None)]
    assert bench.bus.of(ObjectStatusChanged, object_id) == []


async def test_refused_source_fails_the_object_without_revealing_why(opened: Open, sources: Sources) -> None:
    async with opened(allow_networks=[], max_bytes=2 * MIB) as bench:
        obj = await bench.mirror_one({"kind": "url", "url": sources.put("/a", b"x")})
        assert obj["mirror"]["error"] == "main: the address is not allowed"
        (said,) = bench.bus.of(ObjectStatusChanged, obj["_id"])
        assert (said.status, said.error, said.error_type) == ("FAILED", "main: the address is not allowed", "permanent")
    async with opened(max_bytes=2 * MIB) as bench:
        large = await bench.mirror_one({"kind": "url", "url": sources.put("/large", Page(size=3 * MIB))})
        assert large["mirror"]["error"] == f"main: the source is larger than the limit of {2 * MIB} bytes"
        endless = await bench.mirror_one(
            {"kind": "url", "url": sources.put("/endless", Page(size=9 * MIB, announced=False))}
        )
        assert endless["mirror"]["error"] == f"main: the source is larger than the limit of {2 * MIB} bytes"
        missing = await bench.mirror_one({"kind": "url", "url": sources.put("/gone", Page(failures=[410] * 9))})
        assert missing["mirror"]["error"] == "main: the source does not exist"
        assert await bench.leftovers() == []
