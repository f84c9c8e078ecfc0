"""What answers show of blobs before dedup has seen them: no dedup runs here."""

import base64
import hashlib
from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica, World
from tests.integration.ingest_api.test_uploads_and_batches import put

from bucketline.db.blobs import blob_key

pytestmark = pytest.mark.stack

SCHEMA = {
    "properties": {
        "note": {"type": "text"},
        "file": {"type": "pdf"},
        "photo": {"type": "image"},
        "size": {"type": "integer"},
        "sku": {"type": "string"},
    }
}
PDF = b"%PDF-1.4 %%EOF"


async def bucket(replica: Replica, **more: object) -> str:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    body = {"bucket_name": "b", "bucket_schema": SCHEMA, **more}
    return f"/v1/buckets/{(await replica.make('/v1/buckets', body, namespace='home'))['bucket_id']}"


async def collection(replica: Replica, path: str, *, enabled: bool = True) -> str:
    body = {
        "collection_name": "docs",
        "source": {"type": "bucket", "bucket_ids": [path.rpartition("/")[2]]},
        "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"},
        "enabled": enabled,
    }
    return str((await replica.make("/v1/collections", body, namespace="home"))["collection_id"])


async def uploaded(replica: Replica, path: str, **more: object) -> str:
    body = {"filename": "a 1.pdf", "content_type": "application/pdf", "create_object_on_confirm": False, **more}
    made = await replica.make(f"{path}/uploads", body, namespace="home")
    await put(replica, made["s3_key"])
    assert (await replica.call("POST", f"{path}/uploads/{made['upload_id']}/confirm", namespace="home")).status == 200
    return str(made["upload_id"])


def details(content: bytes, mime_type: str | None, filename: str | None = None) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"filename": filename, "size_bytes": len(content), "mime_type": mime_type, "hash": f"sha256:{digest}"}


def url(replica: Replica, content: bytes) -> str:
    return replica.deps.blobstore.url_of(blob_key(hashlib.sha256(content).hexdigest()))


LARGE = "ä" * 200_000
INLINE: list[tuple[dict[str, Any], dict[str, object], bytes]] = [
    ({"property": "note", "data": "häl"}, details("häl".encode(), "text/plain"), "häl".encode()),
    ({"property": "note", "data": LARGE}, details(LARGE.encode(), "text/plain"), LARGE.encode()),
    ({"property": "size", "data": 3}, details(b"3", "application/json"), b"3"),
    (
        {"property": "file", "data": {"base64": base64.b64encode(PDF).decode(), "filename": "../../a.pdf"}},
        details(PDF, None, "a.pdf"),
        PDF,
    ),
    (
        {"property": "photo", "data": f"data:image/gif;base64,{base64.b64encode(b'GIF89a').decode()}"},
        details(b"GIF89a", "image/gif"),
        b"GIF89a",
    ),
]


@pytest.mark.parametrize(("blob", "known", "content"), INLINE, ids=["text", "large text", "json", "base64", "data URI"])
async def test_every_answer_about_new_inline_content_has_its_details_and_url(
    replica: Replica, blob: dict[str, Any], known: dict[str, object], content: bytes
) -> None:
    path = await bucket(replica)
    created = await replica.make(f"{path}/objects", {"blobs": [blob]}, namespace="home")
    at = f"{path}/objects/{created['object_id']}"
    batch = await replica.make(f"{path}/objects/batch", {"objects": [{"blobs": [blob]}]}, namespace="home")
    answers = [
        created,
        batch["succeeded"][0],
        (await replica.call("GET", at, namespace="home")).body,
        (await replica.call("PATCH", at, {"sku": "A"}, namespace="home")).body,
        (await replica.call("PUT", at, {"metadata": {"sku": "B"}}, namespace="home")).body,
        (await replica.call("GET", f"{path}/objects", namespace="home")).body["results"][0],
        (await replica.make(f"{path}/objects/list", {}, namespace="home"))["results"][1],
    ]
    for answer in answers:
        (shown,) = answer["blobs"]
        assert shown["details"] == known
        assert shown["properties"]["url"] == url(replica, content)
    (stored,) = (await replica.deps.objects.collection.get(created["object_id"]))["blobs"]  # type: ignore[index]
    assert (stored["details"], stored["storage"]) == (None, None), "these are for dedup to write"


async def test_upsert_answers_with_the_details_of_the_new_blobs_and_repeats_change_nothing(replica: Replica) -> None:
    path = await bucket(replica, unique_key={"fields": ["sku"], "default_policy": "upsert"})
    for text in ("one", "two"):
        body = {"sku": "A", "blobs": [{"property": "note", "data": text}]}
        made = await replica.make(f"{path}/objects", body, namespace="home")
        assert made["blobs"][0]["details"] == details(text.encode(), "text/plain")
    again = await replica.make(f"{path}/objects", body, namespace="home")
    assert again["blobs"] == made["blobs"]


@pytest.mark.parametrize("announced", [True, False], ids=["with file_hash", "without"])
async def test_object_of_a_confirmed_upload_has_details_and_a_url_to_download_before_dedup(
    replica: Replica, announced: bool
) -> None:
    path = await bucket(replica)
    more = {"file_hash": hashlib.sha256(PDF).hexdigest()} if announced else {}
    upload_id = await uploaded(replica, path, **more)
    body = {"blobs": [{"property": "file", "upload_id": upload_id}]}
    made = await replica.make(f"{path}/objects", body, namespace="home")
    assert made["blobs"][0]["details"] == details(PDF, "application/pdf", "a 1.pdf")
    assert made["blobs"][0]["properties"]["url"] == url(replica, PDF)
    asked = f"{path}/objects/{made['object_id']}?return_presigned_urls=true"
    (blob,) = (await replica.call("GET", asked, namespace="home")).body["blobs"]
    upload = await replica.deps.uploads.collection.get(upload_id)
    assert upload is not None
    assert f"/{upload['key']}?" in blob["presigned_url"]
    assert "filename=a%201.pdf" in blob["presigned_url"]
    assert blob["properties"]["presigned_url"] == blob["presigned_url"]


async def test_list_of_uploads_signs_urls_of_confirmed_ones_only_when_asked(replica: Replica) -> None:
    path = await bucket(replica)
    waiting = {"filename": "b.pdf", "content_type": "application/pdf", "create_object_on_confirm": False}
    await replica.make(f"{path}/uploads", waiting, namespace="home")
    confirmed = await uploaded(replica, path)
    for asked in (True, False):
        listed = await replica.make(f"{path}/uploads/list", {"return_presigned_urls": asked}, namespace="home")
        urls = {row["upload_id"]: row["presigned_url"] for row in listed["results"]}
        assert len(urls) == 2
        assert (urls.pop(confirmed) is not None) == asked
        assert list(urls.values()) == [None]


async def test_consistency_advises_documents_only_while_a_collection_reads_the_bucket(
    world: World, replica: Replica
) -> None:
    path = await bucket(replica)

    async def polled(of: Replica = replica) -> set[str]:
        created = await of.make(f"{path}/objects", {}, namespace="home")
        batch = await of.make(f"{path}/objects/batch", {"objects": [{}]}, namespace="home")
        patched = await of.call("PATCH", f"{path}/objects/{created['object_id']}", {"sku": "A"}, namespace="home")
        answers = (created, batch["succeeded"][0], patched.body)
        return {answer["consistency"]["poll"]["field"] for answer in answers}

    assert await polled() == {"status"}
    made = await collection(replica, path)
    assert await polled() == {"document_count"}
    assert await polled(world.replica()) == {"document_count"}
    assert (await replica.call("PATCH", f"/v1/collections/{made}", {"enabled": False}, namespace="home")).status == 200
    assert await polled() == {"status"}
    assert (await replica.call("PATCH", f"/v1/collections/{made}", {"enabled": True}, namespace="home")).status == 200
    assert await polled() == {"document_count"}
    assert (await replica.call("DELETE", f"/v1/collections/{made}", namespace="home")).status == 200
    assert await polled() == {"status"}
