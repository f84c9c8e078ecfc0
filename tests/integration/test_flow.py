"""The main job, over HTTP alone: what a producer sends ends COMPLETED, with its documents."""

import hashlib
from functools import partial

import pytest
from tests.conftest import Api
from tests.waiting import completed, eventually

pytestmark = pytest.mark.stack


async def test_an_object_with_auto_process_is_completed(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    collection = await api.collection(namespace, bucket)

    text = "Call the supplier on Friday."
    body = {"blobs": [{"property": "note", "type": "text", "data": text}], "name": "first"}
    created = await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")
    assert created["status"] == "QUEUED"

    path = f"/v1/buckets/{bucket}/objects/{created['object_id']}"
    done = await eventually(lambda: completed(client, path))
    blob = done["blobs"][0]
    assert blob["details"]["hash"] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert blob["details"]["size_bytes"] == len(text)
    assert done["document_count"] == 1

    listed = await client.post(f"/v1/collections/{collection}/documents/list", {})
    assert [document["name"] for document in listed["results"]] == ["first"]
    assert listed["results"][0]["_internal"]["lineage"]["root_object_id"] == created["object_id"]


async def test_drafts_wait_for_their_batch(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    bodies = [{"blobs": [{"property": "note", "type": "text", "data": f"n {n}"}], "name": str(n)} for n in range(7)]
    drafts = [await client.post(f"/v1/buckets/{bucket}/objects", body) for body in bodies]
    assert {draft["status"] for draft in drafts} == {"DRAFT"}

    ids = [draft["object_id"] for draft in drafts]
    batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": ids})
    assert batch["status"] == "DRAFT"
    assert batch["object_ids"] == ids
    task = await client.post(f"/v1/buckets/{bucket}/batches/{batch['batch_id']}/submit")
    assert task["task_type"] == "api_buckets_batches_process"

    done = await eventually(lambda: completed(client, f"/v1/buckets/{bucket}/batches/{batch['batch_id']}"))
    assert done["progress"]["processed"] == done["progress"]["total"] == 7
    assert done["documents_written"] == 7
    for object_id in ids:
        found = await eventually(partial(completed, client, f"/v1/buckets/{bucket}/objects/{object_id}"))
        assert found["document_count"] == 1


async def test_the_same_content_is_stored_once(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    body = {"blobs": [{"property": "note", "type": "text", "data": "the same"}]}
    created = [await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true") for _ in range(3)]
    paths = [f"/v1/buckets/{bucket}/objects/{obj['object_id']}" for obj in created]
    done = [await eventually(partial(completed, client, path)) for path in paths]
    assert len({obj["blobs"][0]["properties"]["url"] for obj in done}) == 1
