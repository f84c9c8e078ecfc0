"""Collections, tiers and doing it again, over HTTP, with the services running."""

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from tests.conftest import Api, Services
from tests.waiting import eventually, over

from bucketline.cli.client import ApiClient

pytestmark = pytest.mark.stack


async def run(client: ApiClient, bucket: str, ids: list[str], **body: object) -> tuple[dict[str, Any], list[Any]]:
    """The batch and its objects when the batch is over and they know."""
    place = f"/v1/buckets/{bucket}"
    batch = await client.post(f"{place}/batches", {"object_ids": ids, **body})
    path = f"{place}/batches/{batch['batch_id']}"
    await client.post(f"{path}/submit")
    done = await eventually(lambda: over(client, path))

    async def settled(object_id: str) -> dict[str, Any] | None:
        found = await over(client, f"{place}/objects/{object_id}")
        return found if found and found.get("batch_id", batch["batch_id"]) == batch["batch_id"] else None

    return done, [await eventually(partial(settled, oid)) for oid in ids]


async def collection(client: ApiClient, name: str, source: Mapping[str, object], **extractor: object) -> str:
    config = {"feature_extractor_name": "passthrough_extractor", "version": "v1", **extractor}
    body = {"collection_name": name, "source": source, "feature_extractor": config}
    return str((await client.post("/v1/collections", body))["collection_id"])


async def rows(client: ApiClient, collection_id: str) -> list[dict[str, Any]]:
    return list((await client.post(f"/v1/collections/{collection_id}/documents/list", {"limit": 100}))["results"])


async def paged(client: ApiClient, collection_id: str, **body: object) -> list[dict[str, Any]]:
    """The same, two at a time."""
    found: list[dict[str, Any]] = []
    cursor = None
    while cursor or not found:
        asked = {"limit": 2, **body, **({"cursor": cursor} if cursor else {})}
        page = await client.post(f"/v1/collections/{collection_id}/documents/list", asked)
        found += page["results"]
        cursor = page["pagination"]["next_cursor"]
    return found


async def draft(client: ApiClient, bucket: str, text: str, **fields: object) -> str:
    blob = {"property": "note", "type": "text", "data": text}
    return str((await client.post(f"/v1/buckets/{bucket}/objects", {"blobs": [blob], **fields}))["object_id"])


async def test_tiers_make_documents_with_lineage(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    source = {"type": "bucket", "bucket_ids": [bucket]}
    chunks = await collection(
        client,
        "chunks",
        source,
        feature_extractor_name="text_extractor",
        parameters={"chunk_size": 100, "chunk_overlap": 0},
        field_passthrough=[{"source_path": "name"}],
    )
    copies = await collection(client, "copies", source)
    second = await collection(
        client, "second", {"type": "collection", "collection_ids": [chunks]}, include_all_source_fields=True
    )
    third = await collection(
        client,
        "third",
        {"type": "collection", "collection_ids": [second]},
        field_passthrough=[{"source_path": "chunk_index", "target_path": "place.chunk"}],
    )
    object_id = await draft(client, bucket, "A sentence of some length. " * 20, name="deep", qty=3)
    _, [obj] = await run(client, bucket, [object_id])

    assert obj["status"] == "COMPLETED"
    first_rows, last_rows = await rows(client, chunks), await rows(client, third)
    assert len(first_rows) == len(await rows(client, second)) == len(last_rows) > 3
    assert obj["document_count"] == 3 * len(first_rows) + 1
    assert [row["chunk_index"] for row in first_rows] == list(range(len(first_rows))), "chunks in the order of the text"
    assert [row["place"]["chunk"] for row in last_rows] == list(range(len(last_rows))), "and so in every tier"
    assert [row["_internal"]["ordinal"] for row in last_rows] == list(range(len(last_rows)))
    [copy] = await rows(client, copies)
    assert (copy["name"], copy["qty"]) == ("deep", 3), "without a rule the passthrough copies every field"
    lineage = last_rows[0]["_internal"]["lineage"]
    assert lineage["root_object_id"] == object_id
    assert [link["collection_id"] for link in lineage["chain"]] == [chunks, second, third]
    assert lineage["chain"][0]["document_id"] in {row["document_id"] for row in first_rows}


async def test_documents_are_listed_object_by_object_in_their_order(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    chunks = await collection(
        client,
        "chunks",
        {"type": "bucket", "bucket_ids": [bucket]},
        feature_extractor_name="text_extractor",
        parameters={"chunk_size": 60, "chunk_overlap": 0},
        field_passthrough=[{"source_path": "name"}],
    )
    ids = [await draft(client, bucket, f"The {name} text has sentences. " * 12, name=name) for name in ("one", "two")]
    await run(client, bucket, ids)

    listed = await rows(client, chunks)
    for name in ("one", "two"):
        own = [row for row in listed if row["name"] == name]
        place = listed.index(own[0])
        assert len(own) > 3
        assert listed[place : place + len(own)] == own, "what an object has stands together"
        assert [row["chunk_index"] for row in own] == list(range(len(own)))
    order = [row["document_id"] for row in listed]
    assert [row["document_id"] for row in await paged(client, chunks)] == order
    newest = {"field": "created_at", "direction": "desc"}
    assert [row["document_id"] for row in await paged(client, chunks, sort=newest)] == order[::-1]
    by_name = await paged(client, chunks, sort={"field": "name"})
    for name in ("one", "two"):
        assert [row["document_id"] for row in by_name if row["name"] == name] == [
            row["document_id"] for row in listed if row["name"] == name
        ], "ties are in their order, too"


async def test_processing_again_does_not_duplicate_documents(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    source = {"type": "bucket", "bucket_ids": [bucket]}
    chunks = await collection(
        client,
        "chunks",
        source,
        feature_extractor_name="text_extractor",
        parameters={"chunk_size": 100, "chunk_overlap": 0},
        input_mappings={"text": "body"},
    )
    object_id = await draft(client, bucket, "a file", body="A sentence of some length. " * 30)
    batch, [obj] = await run(client, bucket, [object_id])
    before = {row["document_id"]: row["_internal"]["updated_at"] for row in await rows(client, chunks)}
    assert obj["document_count"] == batch["documents_written"] == len(before) > 5

    batch, [obj] = await run(client, bucket, [object_id])
    assert (obj["status"], obj["document_count"]) == ("SKIPPED", len(before))
    assert batch["documents_written"] == 0, "it wrote nothing"
    assert {row["document_id"]: row["_internal"]["updated_at"] for row in await rows(client, chunks)} == before

    batch, [obj] = await run(client, bucket, [object_id], dedup_strategy="replace")
    assert batch["documents_written"] == len(before)
    after = {row["document_id"]: row["_internal"]["updated_at"] for row in await rows(client, chunks)}
    assert (obj["status"], obj["document_count"], after.keys()) == ("COMPLETED", len(before), before.keys())
    assert all(after[key] > before[key] for key in before)

    copies = await collection(client, "copies", source)
    batch, [obj] = await run(client, bucket, [object_id])
    assert (obj["status"], obj["document_count"]) == ("COMPLETED", len(before) + 1), "only what is missing is made"
    assert batch["documents_written"] == batch["progress"]["documents_written"] == 1
    assert len(await rows(client, copies)) == 1

    _, [obj] = await run(client, bucket, [object_id], collection_ids=[copies], dedup_strategy="force")
    assert obj["document_count"] == len(before) + 1, "documents of other collections count as well"

    await client._request("PATCH", f"/v1/buckets/{bucket}/objects/{object_id}", {"body": "Short now."}, {})
    _, [obj] = await run(client, bucket, [object_id])
    assert (obj["status"], obj["document_count"]) == ("COMPLETED", 2), "what a changed object no longer has is gone"
    assert [row["text"] for row in await rows(client, chunks)] == ["Short now."]


async def test_deleted_document_is_made_again(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    source = {"type": "bucket", "bucket_ids": [bucket]}
    chunking = {"chunk_size": 100, "chunk_overlap": 0}
    chunks = await collection(client, "chunks", source, feature_extractor_name="text_extractor", parameters=chunking)
    copies = await collection(client, "copies", source)
    object_id = await draft(client, bucket, "A sentence of some length. " * 30)
    await run(client, bucket, [object_id])
    before = {row["document_id"]: row["_internal"]["updated_at"] for row in await rows(client, chunks)}
    [copy] = await rows(client, copies)
    last = list(before)[-1]
    await client._request("DELETE", f"/v1/collections/{chunks}/documents/{last}", None, {})

    _, [obj] = await run(client, bucket, [object_id])
    after = await rows(client, chunks)
    assert (obj["status"], obj["document_count"]) == ("COMPLETED", len(before) + 1)
    assert [row["document_id"] for row in after] == list(before)
    assert await rows(client, copies) == [copy], "what is complete is left alone"
    _, [obj] = await run(client, bucket, [object_id])
    assert (obj["status"], obj["document_count"]) == ("SKIPPED", len(before) + 1)


async def test_failed_collection_is_named_and_others_keep_their_documents(api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    source = {"type": "bucket", "bucket_ids": [bucket]}
    rules = [{"source_path": "qty", "required": True}]
    await collection(client, "strict", source, field_passthrough=rules)
    kept = await collection(client, "lenient", source, field_passthrough=[{"source_path": "name"}])
    ids = [await draft(client, bucket, "a", name="bad"), await draft(client, bucket, "b", name="good", qty=1)]
    batch, [bad, good] = await run(client, bucket, ids)

    assert (bad["status"], good["status"]) == ("COMPLETED_WITH_ERRORS", "COMPLETED")
    assert bad["error"] == "strict: the field 'qty' is required by the collection and missing"
    assert (bad["document_count"], good["document_count"]) == (1, 2)
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    assert {row["name"] for row in await rows(client, kept)} == {"bad", "good"}

    path = f"/v1/buckets/{bucket}/batches/{batch['batch_id']}"
    assert (await client.post(f"{path}/retry", {"retry_mode": "all"}))["retried_count"] == 1
    again = await eventually(lambda: over(client, path))
    assert (again["documents_written"], batch["documents_written"]) == (3, 3), "what was kept was written by this batch"


async def test_concurrent_batches_of_the_same_objects_complete(api: Api) -> None:
    """The last one takes the objects up while the first has hardly begun; the second is cancelled."""
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    source = {"type": "bucket", "bucket_ids": [bucket]}
    names = ("one", "two", "three")
    collections = [await collection(client, name, source) for name in names]
    ids = [await draft(client, bucket, f"n {n}") for n in range(40)]
    place = f"/v1/buckets/{bucket}/batches"
    made = [await client.post(place, {"object_ids": ids, "collection_ids": [one]}) for one in collections]
    paths = [f"{place}/{batch['batch_id']}" for batch in made]
    for path in paths:
        await client.post(f"{path}/submit")
    await client.post(f"{paths[1]}/cancel", {})
    ends = [await eventually(partial(over, client, path)) for path in paths]
    assert [end["status"] for end in ends[::2]] == ["COMPLETED", "COMPLETED"]
    assert [len(await rows(client, one)) for one in collections[::2]] == [40, 40]


async def test_restart_during_an_extraction_fails_no_object(api: Api, services: Services) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace, bucket_schema={"properties": {"table": {"type": "excel"}}})
    await collection(
        client, "rows", {"type": "bucket", "bucket_ids": [bucket]}, feature_extractor_name="table_extractor"
    )
    table = "id,name\n" + "".join(f"{number},name {number}\n" for number in range(60_000))
    data = {"base64": base64.b64encode(table.encode()).decode(), "mime_type": "text/csv", "filename": "t.csv"}
    body = {"blobs": [{"property": "table", "type": "excel", "data": data}]}
    created = await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")
    path = f"/v1/buckets/{bucket}/objects/{created['object_id']}"

    async def processing() -> bool:
        return bool((await client.get(path))["status"] == "PROCESSING")

    await eventually(processing, pause=0.01)
    await services.supervisor.terminate("processor")
    done = await eventually(lambda: over(client, path), deadline=90)
    assert (done["status"], done["document_count"]) == ("COMPLETED", 60_000), done
