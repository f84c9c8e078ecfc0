"""Buckets through the official clients."""

from typing import Any

import pytest
from mixpeek import models
from mixpeek.api.buckets_api import BucketsApi
from mixpeek.exceptions import (
    BadRequestException,
    ConflictException,
    NotFoundException,
    UnprocessableEntityException,
)
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, call_list, parse
from tests.waiting import eventually

pytestmark = pytest.mark.stack

INVOICES = {
    "properties": {
        "invoice": {"type": "pdf", "description": "scanned invoice"},
        "sku": {"type": "string", "required": True},
        "qty": {"type": "integer", "default": 1, "examples": [1, 12]},
        "state": {"type": "string", "enum": ["open", "paid"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "vendor": {"type": "object", "properties": {"name": {"type": "string"}}},
        "due": {"type": "date"},
    }
}


def request(name: str, **more: Any) -> models.BucketCreateRequest:
    return parse(models.BucketCreateRequest, {"bucket_name": name, "bucket_schema": INVOICES, **more})


async def test_a_bucket_is_given_back_as_it_was_made(api: Api, sdk: Sdk) -> None:
    buckets = sdk.generated(BucketsApi, await api.namespace())
    key = {"fields": ["sku"], "default_policy": "upsert"}
    made = await call(
        buckets.create_bucket,
        request("invoices", unique_key=key, description="by SKU", metadata={"team": "ap"}, storage_class="nearline"),
    )
    assert made.bucket_id is not None
    assert made.bucket_id.startswith("bkt_")
    assert (made.object_count, made.total_size_bytes, made.failed_object_count) == (0, 0, 0)
    assert made.status == models.TaskStatusEnum.ACTIVE
    assert made.batch_stats == models.BatchStatistics(total=0, active=0, completed=0, failed=0)
    by_id = await call(buckets.get_bucket, made.bucket_id)
    by_name = await call(buckets.get_bucket, "invoices")
    for found in (by_id, by_name):
        assert found.bucket_id == made.bucket_id
        assert found.bucket_schema is not None
        assert found.bucket_schema.to_dict()["properties"]["vendor"]["properties"]["name"]["type"] == "string"
        assert found.unique_key is not None
        assert found.unique_key.to_dict() == key
        assert (found.description, found.metadata, found.storage_class) == ("by SKU", {"team": "ap"}, "nearline")
        assert found.created_at == made.created_at


async def test_a_name_is_taken_once_in_a_namespace(api: Api, sdk: Sdk) -> None:
    buckets = sdk.generated(BucketsApi, await api.namespace())
    elsewhere = sdk.generated(BucketsApi, await api.namespace())
    await call(buckets.create_bucket, request("invoices"))
    with pytest.raises(ConflictException) as refused:
        await call(buckets.create_bucket, request("invoices"))
    assert "bucket_name_taken" in str(refused.value.body)
    await call(elsewhere.create_bucket, request("invoices"))


async def test_schema_and_key_issues_have_one_row_each(api: Api, sdk: Sdk) -> None:
    client = sdk.mixpeek(await api.namespace())
    for body, place in (
        ({"bucket_schema": {"properties": {"a": {"type": "PDF"}}}}, "type"),
        ({"bucket_schema": {"properties": {"a": {"type": "dense_vector"}}}}, "type"),
        ({"bucket_schema": {"properties": {"_a": {"type": "string"}}}}, "_a"),
        ({"bucket_schema": INVOICES, "unique_key": {"fields": ["nope"]}}, "fields"),
        ({"bucket_schema": INVOICES, "unique_key": {"fields": ["tags"]}}, "fields"),
        ({"bucket_schema": INVOICES, "unique_key": {"fields": []}}, "fields"),
        ({"bucket_schema": INVOICES, "destination": {"type": "s3"}}, "destination"),
        ({"bucket_schema": INVOICES, "settings": {"batching": {"max_objects": 0}}}, "max_objects"),
        ({"bucket_schema": INVOICES, "metadata": {"n": 2**70}}, "n"),
        ({}, "bucket_schema"),
    ):
        with pytest.raises(Exception, match="422") as refused:
            await call(client.buckets.create, bucket_name="faulty", **body)
        rows = refused.value.detail["error"]["details"]["validation_errors"]  # type: ignore[attr-defined]
        assert any(place in row["location"] for row in rows), (body, rows)


async def test_lists_are_newest_first_and_paged_by_query_and_body(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    buckets, client = sdk.generated(BucketsApi, namespace), sdk.mixpeek(namespace)
    names = [f"bucket-{number}" for number in range(5)]
    for name in names:
        await call(buckets.create_bucket, request(name, metadata={"even": name[-1] in "024"}))
    newest = list(reversed(names))
    whole = await call_list(client.buckets.list)
    assert [row["bucket_name"] for row in whole["results"]] == newest
    assert whole["total_count"] == 5
    first = await call(buckets.list_buckets_get, limit=2)
    assert [row.bucket_name for row in first.results] == newest[:2]
    assert first.pagination.next_cursor is not None
    second = await call(buckets.list_buckets_get, limit=2, cursor=first.pagination.next_cursor)
    assert [row.bucket_name for row in second.results] == newest[2:4]
    by_page = await call(buckets.list_buckets, list_buckets_request=models.ListBucketsRequest(limit=2, page=3))
    assert [row.bucket_name for row in by_page.results] == newest[4:]
    assert by_page.pagination.next_cursor is None
    totalled = await call(buckets.list_buckets, include_total=True, limit=2)
    assert (totalled.pagination.total, totalled.pagination.total_pages) == (5, 3)
    filtered = await call(
        buckets.list_buckets, list_buckets_request=models.ListBucketsRequest(filters={"metadata.even": True})
    )
    assert [row.bucket_name for row in filtered.results] == ["bucket-4", "bucket-2", "bucket-0"]
    assert filtered.total_count == 3
    ordered = await call(
        buckets.list_buckets,
        list_buckets_request=models.ListBucketsRequest(sort={"field": "bucket_name", "direction": "asc"}),
    )
    assert [row.bucket_name for row in ordered.results] == names
    for searched in (
        await call(buckets.list_buckets_get, search="KET-3"),
        await call(buckets.list_buckets, list_buckets_request=models.ListBucketsRequest(search="ket-3")),
    ):
        assert [row.bucket_name for row in searched.results] == ["bucket-3"]
    strict = models.ListBucketsRequest(search="KET-3", case_sensitive=True)
    assert (await call(buckets.list_buckets, list_buckets_request=strict)).results == []
    with pytest.raises(BadRequestException):
        await call(buckets.list_buckets_get, cursor="nonsense")


async def test_patch_and_put_change_only_what_is_sent(api: Api, sdk: Sdk) -> None:
    buckets = sdk.generated(BucketsApi, await api.namespace())
    made = await call(buckets.create_bucket, request("invoices", metadata={"team": "ap"}, description="old"))
    patched = await call(buckets.patch_bucket, "invoices", models.BucketPatchRequest(description="new"))
    assert (patched.description, patched.metadata, patched.bucket_name) == ("new", {"team": "ap"}, "invoices")
    assert patched.updated_at is not None
    assert made.updated_at is not None
    assert patched.updated_at > made.updated_at
    put = await call(
        buckets.update_bucket, "invoices", models.BucketUpdateRequest(bucket_name="bills", storage_class="archive")
    )
    assert (put.bucket_id, put.bucket_name, put.description) == (made.bucket_id, "bills", "new")
    with pytest.raises(NotFoundException):
        await call(buckets.get_bucket, "invoices")
    await call(buckets.create_bucket, request("invoices"))
    with pytest.raises(ConflictException):
        await call(buckets.patch_bucket, "bills", models.BucketPatchRequest(bucket_name="invoices"))


async def test_a_schema_grows_freely_and_breaks_only_by_force(api: Api, sdk: Sdk) -> None:
    buckets = sdk.generated(BucketsApi, await api.namespace())
    await call(buckets.create_bucket, request("invoices", unique_key={"fields": ["sku"]}))

    def schema(**properties: Any) -> models.BucketPatchRequest:
        return parse(models.BucketPatchRequest, {"bucket_schema": {"properties": properties}})

    wider = await call(buckets.patch_bucket, "invoices", schema(**INVOICES["properties"], note={"type": "text"}))
    assert wider.bucket_schema is not None
    assert "note" in wider.bucket_schema.properties
    narrow = schema(sku={"type": "string", "required": True})
    with pytest.raises(BadRequestException) as refused:
        await call(buckets.patch_bucket, "invoices", narrow)
    assert "qty was removed" in str(refused.value.body)
    forced = await call(buckets.patch_bucket, "invoices", narrow, force_schema_break=True)
    assert forced.bucket_schema is not None
    assert list(forced.bucket_schema.properties) == ["sku"]
    with pytest.raises(UnprocessableEntityException):
        await call(buckets.patch_bucket, "invoices", schema(qty={"type": "integer"}), force_schema_break=True)


async def test_only_the_default_policy_of_a_unique_key_may_change(api: Api, sdk: Sdk) -> None:
    buckets = sdk.generated(BucketsApi, await api.namespace())
    await call(buckets.create_bucket, request("keyed", unique_key={"fields": ["sku"]}))
    await call(buckets.create_bucket, request("plain"))

    def key(fields: list[str], policy: str | None) -> models.BucketPatchRequest:
        return models.BucketPatchRequest(unique_key=models.UniqueKeyConfig(fields=fields, default_policy=policy))

    changed = await call(buckets.patch_bucket, "keyed", key(["sku"], "insert"))
    assert changed.unique_key is not None
    assert changed.unique_key.default_policy == "insert"
    cleared = await call(buckets.patch_bucket, "keyed", key(["sku"], None))
    assert cleared.unique_key is not None
    assert cleared.unique_key.default_policy is None
    for name, wanted in (("keyed", key(["state"], "insert")), ("plain", key(["sku"], "insert"))):
        with pytest.raises(UnprocessableEntityException):
            await call(buckets.patch_bucket, name, wanted)


async def test_a_batching_policy_is_kept_and_cleared(api: Api) -> None:
    client = api.client(await api.namespace())
    schema = {"properties": {"note": {"type": "text"}}}
    wanted = {"max_objects": 50, "max_bytes": 1_000_000, "max_wait_seconds": 2.5}
    made = await client.post(
        "/v1/buckets", {"bucket_name": "b", "bucket_schema": schema, "settings": {"batching": wanted}}
    )
    assert made["settings"] == {"batching": wanted}
    cleared = await client._request("PATCH", f"/v1/buckets/{made['bucket_id']}", {"settings": {"batching": None}}, {})
    assert cleared["settings"] == {"batching": None}


async def test_numbers_of_a_bucket_are_exact_at_once(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    client = sdk.mixpeek(namespace)
    for text in ("four", "sixsix"):
        await call(client.buckets.upload, bucket, blobs=[{"property": "note", "type": "text", "data": text}])

    async def counted() -> Any:
        found = await call(client.buckets.get, bucket)
        return found if found["total_size_bytes"] else None

    assert (await call(client.buckets.get, bucket))["object_count"] == 2
    found = await eventually(counted)
    found = await eventually(lambda: _with_size(client, bucket, 10))
    assert found["storage_stats"] == {
        "total_size_bytes": 10, "avg_size_bytes": 5, "max_size_bytes": 6, "min_size_bytes": 4,
    }  # fmt: skip
    assert found["last_upload_at"] is not None


async def _with_size(client: Any, bucket: str, size: int) -> Any:
    found = await call(client.buckets.get, bucket)
    return found if found["total_size_bytes"] == size else None


async def test_a_deleted_bucket_is_gone_when_its_task_has_finished(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    collection = await api.collection(namespace, bucket)
    client = sdk.mixpeek(namespace)
    made = await call(client.buckets.upload, bucket, blobs=[{"property": "note", "type": "text", "data": "x"}])
    triggered = await call(client.collections.trigger, collection)
    await eventually(lambda: _finished(client, triggered["task_id"]))
    deleted = await call(client.buckets.delete, bucket)
    assert deleted["status"] == "PENDING"
    assert (deleted["bucket_id"], deleted["object_count"]) == (bucket, 1)
    assert (await call(client.buckets.get, bucket))["status"] == "IN_PROGRESS"
    with pytest.raises(Exception, match="404"):
        await call(client.buckets.upload, bucket, blobs=[])
    again = await call(client.buckets.delete, bucket)
    assert again["task_id"] == deleted["task_id"]
    task = await eventually(lambda: _finished(client, deleted["task_id"]))
    assert task["task_type"] == "api_buckets_delete"
    assert task["outputs"] == [bucket]
    for gone in (client.buckets.get, client.buckets.delete):
        with pytest.raises(Exception, match="404"):
            await call(gone, bucket)
    assert (await call_list(client.documents.list, collection))["results"] == []
    assert made["object_id"]


async def _finished(client: Any, task_id: str) -> Any:
    task = await call(client.tasks.get, task_id)
    assert task["status"] not in ("FAILED", "CANCELED"), task
    return task if task["status"] == "COMPLETED" else None
