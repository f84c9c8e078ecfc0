"""Sources as a producer sees them through the API, and replay of dead letters."""

import asyncio
from typing import Any

import pytest
from tests.conftest import Api, Services
from tests.integration.dedup.harness import MIB, sha
from tests.integration.dedup.sources import Page, Sources
from tests.waiting import eventually
from typer.testing import CliRunner

from bucketline.cli.dlq import app
from bucketline.db.blobs import blob_key

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"file": {"type": "image"}, "name": {"type": "string"}}}


async def bucket_of(api: Api) -> tuple[Any, str]:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_schema=SCHEMA)
    await api.collection(namespace, bucket)
    return api.client(namespace), f"/v1/buckets/{bucket}/objects"


async def ended(client: Any, path: str, object_id: str) -> dict[str, Any]:
    async def final() -> dict[str, Any] | None:
        found: dict[str, Any] = await client.get(f"{path}/{object_id}")
        return found if found["status"] in ("COMPLETED", "FAILED", "SKIPPED") else None

    found = await eventually(final, deadline=90)
    assert found is not None
    return found


def blob(url: str, **rest: object) -> dict[str, object]:
    return {"property": "file", "type": "image", "data": {"url": url}, **rest}


async def test_object_with_urls_is_processed_to_documents(api: Api, sources: Sources) -> None:
    client, path = await bucket_of(api)
    data = b"\x89PNG\r\n\x1a\n" + bytes(3 * MIB)
    url = sources.put("/picture.png", Page(data=data, content_type="image/png"))
    made = await client.post(f"{path}?auto_process=true", {"blobs": [blob(url)], "name": "n"})
    found = await ended(client, path, made["object_id"])
    assert (found["status"], found["document_count"]) == ("COMPLETED", 1)
    (shown,) = found["blobs"]
    assert shown["details"] == {
        "filename": "picture.png",
        "size_bytes": len(data),
        "mime_type": "image/png",
        "hash": f"sha256:{sha(data)}",
    }
    assert shown["properties"]["url"].endswith(blob_key(sha(data)))


async def test_draft_with_a_missing_source_fails(api: Api, sources: Sources) -> None:
    client, path = await bucket_of(api)
    made = await client.post(path, {"blobs": [blob(sources.put("/gone", Page(failures=[404] * 9)))]})
    found = await ended(client, path, made["object_id"])
    assert (found["status"], found["error"]) == ("FAILED", "file: the source does not exist")


async def test_dead_lettered_object_is_replayed_to_its_end(api: Api, services: Services, sources: Sources) -> None:
    client, path = await bucket_of(api)
    page = Page(data=b"\xff\xd8\xff\xe0 here again", failures=[503] * 6)
    made = await client.post(f"{path}?auto_process=true", {"blobs": [blob(sources.put("/away", page))]})
    failed = await ended(client, path, made["object_id"])
    assert failed["error"] == "file: the source answered 503; given up after 6 attempts"
    runner = CliRunner(env={**services.environment, "COLUMNS": "300"})
    listed = await in_thread(runner, "list")
    assert made["object_id"] in listed
    assert "records replayed" in await in_thread(runner, "replay")

    async def completed() -> bool:
        return (await client.get(f"{path}/{made['object_id']}"))["status"] == "COMPLETED"  # type: ignore[no-any-return]

    await eventually(completed, deadline=90)


async def in_thread(runner: CliRunner, *arguments: str) -> str:
    result = await asyncio.to_thread(runner.invoke, app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output
