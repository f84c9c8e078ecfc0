"""Collections and their documents through the official clients."""

from functools import partial
from typing import Any

import pytest
from mixpeek import models
from mixpeek.api.collection_documents_api import CollectionDocumentsApi
from mixpeek.api.collections_api import CollectionsApi
from mixpeek.exceptions import BadRequestException, ConflictException, NotFoundException
from tests.conftest import PASSTHROUGH, Api
from tests.contract.sdk.conftest import Sdk, call, call_list, parse
from tests.waiting import eventually, present

pytestmark = pytest.mark.stack

UNKNOWN = "feature_extractor_not_found"
SCHEMA = {
    "properties": {
        "note": {"type": "text"},
        "sku": {"type": "string"},
        "qty": {"type": "integer", "required": False},
        "vendor": {"type": "object", "properties": {"name": {"type": "string"}}},
    }
}


def request(name: str, source: dict[str, Any], **extractor: Any) -> models.CreateCollectionRequest:
    return parse(
        models.CreateCollectionRequest,
        {
            "collection_name": name,
            "source": source,
            "feature_extractor": {**PASSTHROUGH, **extractor},
        },
    )


async def test_a_collection_is_given_back_as_it_was_made(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_name="invoices", bucket_schema=SCHEMA)
    collections = sdk.generated(CollectionsApi, namespace)
    made = await call(
        collections.create_collection,
        request(
            "invoice-docs",
            {"type": "bucket", "bucket_ids": ["invoices"]},
            field_passthrough=[
                {"source_path": "sku"},
                {"source_path": "vendor.name", "target_path": "vendor"},
                {"source_path": "colour"},
            ],
            input_mappings={"text": "note"},
        ),
    )
    assert made.collection_id is not None
    assert made.collection_id.startswith("col_")
    assert made.source.bucket_ids == [bucket]
    assert made.feature_extractor.feature_extractor_id == "passthrough_extractor_v1"
    assert made.document_count == 0
    assert made.enabled is True
    assert made.output_schema is not None
    assert {name: field.type for name, field in made.output_schema.properties.items()} == {
        "sku": "string",
        "vendor": "string",
    }
    assert made.warnings == ["'colour' is not declared in the schema of the source"]
    for identifier in (made.collection_id, "invoice-docs"):
        found = await call(collections.get_collection, identifier)
        assert found.collection_id == made.collection_id
        assert found.output_schema == made.output_schema
        assert found.input_schema is not None
        assert set(found.input_schema.properties) == set(SCHEMA["properties"])


async def test_invalid_collection_is_refused_with_the_reason(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    client = sdk.mixpeek(namespace)
    source = {"type": "bucket", "bucket_ids": [bucket]}
    cases: list[tuple[dict[str, Any], int, str | None]] = [
        (
            {"feature_extractor": {"feature_extractor_name": "nope", "version": "v1"}},
            422,
            "feature_extractor_not_found",
        ),
        ({"feature_extractor": {**PASSTHROUGH, "version": "v9"}}, 422, "feature_extractor_not_found"),
        ({"feature_extractor": {**PASSTHROUGH, "parameters": {"nope": 1}}}, 422, None),
        ({"feature_extractor": {**PASSTHROUGH, "field_passthrough": [{"source_path": "a..b"}]}}, 422, None),
        (
            {"feature_extractor": {**PASSTHROUGH, "field_passthrough": [{"source_path": "a", "target_path": "_id"}]}},
            422,
            None,
        ),
        ({"source": {"type": "bucket", "bucket_ids": ["bkt_nowhere"]}}, 404, None),
        ({"source": {"type": "bucket"}}, 422, None),
        ({"source": {"type": "collection", "collection_ids": ["col_nowhere"]}}, 404, None),
        ({"source": {"type": "collection", "bucket_ids": [bucket]}}, 422, None),
        ({"name": "ab"}, 422, None),
        ({"metadata": {"$where": "1"}}, 422, None),
    ]
    for changed, status, code in cases:
        body = {"name": "docs", "source": source, "feature_extractor": PASSTHROUGH, **changed}
        with pytest.raises(Exception, match=str(status)) as refused:
            await call(client.collections.create, **body)
        assert refused.value.detail["error"].get("code") == code, changed  # type: ignore[attr-defined]


async def test_names_are_taken_once_and_free_after_deletion(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    collections = sdk.generated(CollectionsApi, namespace)
    wanted = request("docs", {"type": "bucket", "bucket_ids": [bucket]})
    first = await call(collections.create_collection, wanted)
    with pytest.raises(ConflictException) as refused:
        await call(collections.create_collection, wanted)
    assert "collection_name_taken" in str(refused.value.body)
    deleted: Any = await call(collections.delete_collection, "docs")
    assert deleted["success"] is True
    with pytest.raises(NotFoundException):
        await call(collections.get_collection, present(first.collection_id))
    again = await call(collections.create_collection, wanted)
    assert again.collection_id != first.collection_id


async def test_lists_and_changes(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    collections, client = sdk.generated(CollectionsApi, namespace), sdk.mixpeek(namespace)
    for number in range(3):
        await call(collections.create_collection, request(f"docs-{number}", {"type": "bucket", "bucket_ids": [bucket]}))
    whole = await call_list(client.collections.list)
    assert [row["collection_name"] for row in whole["results"]] == ["docs-2", "docs-1", "docs-0"]
    assert whole["total_count"] == 3
    page = await call(collections.list_collections_get, limit=2)
    rest = await call(collections.list_collections_get, limit=2, cursor=page.pagination.next_cursor)
    assert [row.collection_name for row in rest.results] == ["docs-0"]
    found = await call(
        collections.list_collections,
        list_collections_request=models.ListCollectionsRequest(
            filters={"AND": [{"field": "collection_name", "operator": "ends_with", "value": "-1"}]}
        ),
    )
    assert [row.collection_name for row in found.results] == ["docs-1"]
    searched = await call(collections.list_collections_get, search="DOCS-2")
    assert [row.collection_name for row in searched.results] == ["docs-2"]
    changed = await call(client.collections.update, "docs-1", description="new", metadata={"team": "ap"})
    assert (changed["description"], changed["metadata"], changed["collection_name"]) == (
        "new",
        {"team": "ap"},
        "docs-1",
    )
    renamed = await call(collections.update_collection, "docs-1", {"collection_name": "papers", "enabled": False})
    assert (renamed.collection_name, renamed.enabled, renamed.description) == ("papers", False, "new")
    with pytest.raises(ConflictException):
        await call(collections.update_collection, "papers", {"collection_name": "docs-2"})
    with pytest.raises(BadRequestException):
        await call(collections.trigger_collection, "papers")


async def test_documents_of_a_triggered_collection(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    client = sdk.mixpeek(namespace)
    collections = sdk.generated(CollectionsApi, namespace)
    documents = sdk.generated(CollectionDocumentsApi, namespace)
    collection = await api.collection(namespace, bucket)
    with pytest.raises(BadRequestException):
        await call(collections.trigger_collection, collection)
    ids = {}
    for name in ("ada", "bob", "Cleo"):
        blobs = [{"property": "note", "type": "text", "data": f"note of {name}"}]
        made = await call(client.buckets.upload, bucket, blobs=blobs, name=name, qty=len(name))
        ids[name] = made["object_id"]
    triggered = await call(collections.trigger_collection, collection)
    assert triggered.collection_id == collection
    assert triggered.object_count == 3
    assert triggered.total_tiers == 1
    assert triggered.batch_id is not None
    await eventually(lambda: _completed(client, triggered.task_id), deadline=60)

    listed = await call_list(client.documents.list, collection)
    assert sorted(row["name"] for row in listed["results"]) == ["Cleo", "ada", "bob"]
    counted = await call(documents.count_documents, collection)
    assert (counted.collection_id, counted.count) == (collection, 3)
    assert (await call(collections.get_collection, collection)).document_count == 3
    paged = []
    cursor = None
    while True:
        page = await call_list(client.documents.list, collection, page_size=2, cursor=cursor)
        paged += [row["document_id"] for row in page["results"]]
        if (cursor := page["pagination"]["next_cursor"]) is None:
            break
    assert sorted(paged) == sorted(row["document_id"] for row in listed["results"])

    by_object = await call(
        client.documents.list,
        collection,
        filters={"AND": [{"field": "_internal.lineage.root_object_id", "operator": "eq", "value": ids["bob"]}]},
    )
    [bob] = by_object["results"]
    assert bob["name"] == "bob"
    insensitive = await call_list(client.documents.list, collection, filters={"name": "CLEO"})
    assert [row["name"] for row in insensitive["results"]] == ["Cleo"]
    ordered = await call_list(client.documents.list, collection, sort={"field": "name", "direction": "desc"})
    assert [row["name"] for row in ordered["results"]] == ["bob", "ada", "Cleo"]

    one = await call(documents.get_document, collection, bob["document_id"], return_presigned_urls=True)
    assert one.internal is not None
    assert one.internal.lineage is not None
    assert one.internal.lineage.root_object_id == ids["bob"]
    assert one.document_blobs is not None
    assert one.document_blobs[0].presigned_url is not None
    assert one.additional_properties["name"] == "bob"
    assert (await call(documents.delete_document, collection, bob["document_id"])).success is True
    for gone in (documents.get_document, documents.delete_document):
        with pytest.raises(NotFoundException):
            await call(gone, collection, bob["document_id"])
    parsed = await call(documents.list_documents, collection, include_total=True)
    assert parsed.results is not None
    assert len(parsed.results) == parsed.pagination.total == parsed.total_documents == 2

    await call(client.collections.delete, collection)
    assert (await call_list(sdk.mixpeek(namespace).collections.list))["results"] == []


async def test_a_trigger_takes_the_objects_that_it_names(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    client = sdk.mixpeek(namespace)
    collection = await api.collection(namespace, bucket)
    made = [(await call(client.buckets.upload, bucket, blobs=[], name=name))["object_id"] for name in "abcd"]
    one = await call(client.collections.trigger, collection, object_ids=made[:1])
    two = await call(
        client.collections.trigger,
        collection,
        source_filters={"OR": [{"field": "name", "operator": "in", "value": ["b", "c"]}]},
    )
    assert (one["object_count"], two["object_count"]) == (1, 2)
    for triggered in (one, two):
        await eventually(partial(_completed, client, triggered["task_id"]), deadline=60)
    listed = await call_list(client.documents.list, collection)
    assert sorted(row["name"] for row in listed["results"]) == ["a", "b", "c"]
    for refused in ({"include_buckets": ["elsewhere"]}, {"object_ids": ["obj_nowhere"]}):
        with pytest.raises(Exception, match=r"40[04]"):
            await call(client.collections.trigger, collection, **refused)


async def test_several_source_buckets_are_left_to_a_task(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    client = sdk.mixpeek(namespace)
    buckets = [await api.bucket(namespace) for _ in range(2)]
    collection = await call(
        client.collections.create,
        name="both",
        source={"type": "bucket", "bucket_ids": buckets},
        feature_extractor=PASSTHROUGH,
    )
    for bucket, name in zip(buckets, ("left", "right"), strict=True):
        await call(client.buckets.upload, bucket, blobs=[], name=name)
    triggered = await call(client.collections.trigger, collection["collection_id"])
    assert triggered.get("batch_id") is None
    task = await eventually(lambda: _completed(client, triggered["task_id"]))
    assert task["task_type"] == "api_collections_trigger"
    assert len(task["outputs"]) == 2
    assert task["additional_data"]["object_count"] == 2

    async def both() -> bool:
        listed = await call_list(client.documents.list, collection["collection_id"])
        return sorted(row["name"] for row in listed["results"]) == ["left", "right"]

    await eventually(both, deadline=60)


async def test_a_collection_may_read_a_collection(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    client = sdk.mixpeek(namespace)
    first = await api.collection(namespace, bucket)
    second = await call(
        client.collections.create,
        name="second",
        source={"type": "collection", "collection_id": first},
        feature_extractor={**PASSTHROUGH, "include_all_source_fields": True},
    )
    assert second["output_schema"] == {"properties": {"name": {"type": "string"}}}
    with pytest.raises(Exception, match="collection_in_use"):
        await call(client.collections.delete, first)
    await call(client.buckets.upload, bucket, blobs=[], name="ada")
    triggered = await call(client.collections.trigger, first)
    assert triggered["total_tiers"] == 2
    await eventually(lambda: _completed(client, triggered["task_id"]), deadline=60)
    [document] = (await call_list(client.documents.list, second["collection_id"]))["results"]
    assert document["name"] == "ada"
    again = await call(client.collections.trigger, second["collection_id"])
    assert again["source_bucket_ids"] == [bucket]


async def _completed(client: Any, task_id: str) -> Any:
    task = await call(client.tasks.get, task_id)
    assert task["status"] not in ("FAILED", "CANCELED"), task
    return task if task["status"] == "COMPLETED" else None
