"""Uploads through the official clients: URLs that take bytes, confirmations, duplicates, what is refused."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from mixpeek import models
from mixpeek.api.bucket_batches_api import BucketBatchesApi
from mixpeek.api.bucket_objects_api import BucketObjectsApi
from mixpeek.api.bucket_uploads_api import BucketUploadsApi
from mixpeek.exceptions import (
    BadRequestException,
    ConflictException,
    NotFoundException,
    UnprocessableEntityException,
)
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse
from tests.waiting import eventually, present

pytestmark = pytest.mark.stack

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer <<>>\n%%EOF\n"
SCHEMA = {"properties": {"invoice": {"type": "pdf"}, "sku": {"type": "string"}, "qty": {"type": "integer"}}}


class Uploading:
    """A bucket for invoices, and the client for its uploads."""

    def __init__(self, api: Api, sdk: Sdk, namespace: str, bucket: str) -> None:
        self.api, self.sdk, self.namespace, self.bucket = api, sdk, namespace, bucket
        self.uploads = sdk.generated(BucketUploadsApi, namespace)

    async def create(self, **more: Any) -> models.UploadResponse:
        body = {"filename": "a-17.pdf", "content_type": "application/pdf", **more}
        request = parse(models.CreateUploadRequest, body)
        return await call(self.uploads.create_upload_buckets, self.bucket, request)

    async def put(self, upload: models.UploadResponse, content: bytes = PDF, **headers: str) -> str:
        """Puts the bytes; the etag."""
        status, answered = await put(str(upload.presigned_url), content, **headers)
        assert status == 200
        return answered["ETag"]

    async def confirm(self, upload_id: str, body: Mapping[str, Any] | None = None, **query: Any) -> Any:
        request = parse(models.ConfirmUploadRequest, dict(body)) if body else None
        return await call(
            self.uploads.confirm_upload_buckets, self.bucket, upload_id, confirm_upload_request=request, **query
        )

    async def confirmed(self, content: bytes = PDF, **more: Any) -> Any:
        upload = await self.create(**more)
        await self.put(upload, content)
        return await self.confirm(upload.upload_id)


@pytest.fixture
async def invoices(api: Api, sdk: Sdk) -> Uploading:
    namespace = await api.namespace()
    return Uploading(api, sdk, namespace, await api.bucket(namespace, bucket_schema=SCHEMA))


async def put(url: str, content: bytes, **headers: str) -> tuple[int, Mapping[str, str]]:
    sent = {"Content-Type": "application/pdf", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with aiohttp.ClientSession() as session, session.put(url, data=content, headers=sent) as response:
        return response.status, response.headers


async def test_bytes_become_an_object(invoices: Uploading) -> None:
    upload = await invoices.create(object_metadata={"sku": "A-17"}, metadata={"source": "scanner"})
    assert upload.status == "PENDING"
    assert upload.blob_property == "invoice"
    assert upload.blob_type == "pdf"
    assert upload.presigned_url is not None
    assert len(upload.presigned_url) <= 2083
    etag = await invoices.put(upload)

    done = await invoices.confirm(upload.upload_id, {"etag": etag, "file_size_bytes": len(PDF)})
    assert done.status == "COMPLETED"
    assert done.etag == etag.strip('"')
    assert done.file_size_bytes == len(PDF)

    objects = invoices.sdk.generated(BucketObjectsApi, invoices.namespace)
    found = await call(objects.get_object_buckets, invoices.bucket, done.object_id)
    assert found.status == "DRAFT"
    assert found.additional_properties["sku"] == "A-17"
    assert "source" not in found.additional_properties

    [blob] = present(found.blobs)
    details = present(blob.details)
    assert (details.size_bytes, details.filename) == (len(PDF), "a-17.pdf")
    assert present(blob.properties)["url"].startswith("s3://")

    async def mirrored() -> Any:
        obj = await call(objects.get_object_buckets, invoices.bucket, done.object_id)
        [blob] = present(obj.blobs)
        return blob.details if blob.details and blob.details.hash is not None else None

    details = await eventually(mirrored)
    assert details.hash == f"sha256:{hashlib.sha256(PDF).hexdigest()}"
    assert details.size_bytes == len(PDF)
    assert details.filename == "a-17.pdf"


async def test_object_right_after_confirming_has_a_url_that_gives_its_bytes(invoices: Uploading) -> None:
    done = await invoices.confirmed()
    objects = invoices.sdk.generated(BucketObjectsApi, invoices.namespace)
    found = await call(objects.get_object_buckets, invoices.bucket, done.object_id, return_presigned_urls=True)
    listed = await call(
        invoices.uploads.list_uploads_buckets,
        invoices.bucket,
        list_uploads_request=models.ListUploadsRequest(return_presigned_urls=True),
    )
    [blob] = present(found.blobs)
    for url in (present(blob.presigned_url), present(listed.results[0].presigned_url)):
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert (answer.status, await answer.read()) == (200, PDF)


async def test_confirming_again_changes_nothing(invoices: Uploading) -> None:
    upload = await invoices.create()
    await invoices.put(upload)
    first, *others = await asyncio.gather(*(invoices.confirm(upload.upload_id) for _ in range(5)))
    again = await invoices.confirm(upload.upload_id)
    assert {one.object_id for one in (first, *others, again)} == {first.object_id}
    assert again.completed_at == first.completed_at
    listed = await invoices.api.client(invoices.namespace).post(f"/v1/buckets/{invoices.bucket}/objects/list")
    assert [row["object_id"] for row in listed["results"]] == [first.object_id]


async def test_the_route_without_the_bucket(invoices: Uploading) -> None:
    upload = await invoices.create()
    await invoices.put(upload)
    client = invoices.api.client(invoices.namespace)
    done = await client.post(f"/v1/uploads/{upload.upload_id}/confirm")
    assert parse(models.ConfirmUploadResponse, done).status == "COMPLETED"
    other = invoices.api.client(await invoices.api.namespace())
    with pytest.raises(Exception, match="404"):
        await other.post(f"/v1/uploads/{upload.upload_id}/confirm")


@pytest.mark.parametrize(
    ("claim", "code"),
    [({"etag": "0" * 32}, "etag_mismatch"), ({"file_size_bytes": 1}, "size_mismatch")],
)
async def test_upload_with_other_bytes_than_announced_is_refused(
    invoices: Uploading, claim: Mapping[str, Any], code: str
) -> None:
    upload = await invoices.create()
    await invoices.put(upload)
    with pytest.raises(BadRequestException) as refused:
        await invoices.confirm(upload.upload_id, claim)
    assert present(refused.value.data).error.code == code
    assert (await invoices.confirm(upload.upload_id)).status == "COMPLETED"


async def test_without_bytes_nothing_is_confirmed(invoices: Uploading) -> None:
    upload = await invoices.create()
    with pytest.raises(BadRequestException):
        await invoices.confirm(upload.upload_id)
    with pytest.raises(NotFoundException):
        await invoices.confirm("upl_nobody")


async def test_presigned_url_accepts_only_the_signed_content(invoices: Uploading) -> None:
    announced = hashlib.sha256(PDF).hexdigest()
    upload = await invoices.create(file_hash=announced, file_size_bytes=len(PDF))
    url = str(upload.presigned_url)
    assert (await put(url, PDF, Content_Type="text/html"))[0] == 403
    assert (await put(url, b"x" + PDF[1:]))[0] == 400
    assert (await put(url, PDF))[0] == 200
    done = await invoices.confirm(upload.upload_id)
    assert done.file_hash == announced


async def test_the_same_content_is_uploaded_once(invoices: Uploading) -> None:
    content = PDF + b"once"
    announced = hashlib.sha256(content).hexdigest()
    first = await invoices.confirmed(content, file_hash=announced)
    again = await invoices.create(file_hash=announced)
    assert again.is_duplicate
    assert again.presigned_url is None
    assert again.upload_id == again.duplicate_of_upload_id == first.upload_id
    assert again.object_id == first.object_id
    separate = await invoices.create(file_hash=announced, skip_duplicates=False)
    assert separate.presigned_url is not None
    assert not separate.is_duplicate
    other = await invoices.api.bucket(invoices.namespace, bucket_schema=SCHEMA)
    elsewhere = Uploading(invoices.api, invoices.sdk, invoices.namespace, other)
    assert (await elsewhere.create(file_hash=announced)).presigned_url is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"content_type": "image/png"},
        {"content_type": "no type"},
        {"blob_property": "unknown"},
        {"blob_property": "sku"},
        {"blob_type": "image"},
        {"filename": "../etc/passwd"},
        {"filename": "a\\b.pdf"},
        {"object_metadata": {"qty": "many"}},
        {"object_metadata": {"object_id": "obj_1"}},
        {"object_metadata": {"blobs": []}},
    ],
)
async def test_upload_that_cannot_become_an_object_gets_no_url(invoices: Uploading, wrong: dict[str, Any]) -> None:
    with pytest.raises(UnprocessableEntityException):
        await invoices.create(**wrong)
    listed = await call(invoices.uploads.list_uploads_buckets, invoices.bucket)
    assert listed.results == []


async def test_limits_are_kept(invoices: Uploading) -> None:
    path, client = f"/v1/buckets/{invoices.bucket}/uploads", invoices.api.client(invoices.namespace)
    good = {"filename": "a.pdf", "content_type": "application/pdf"}
    for wrong in (
        {"presigned_url_expiration": 59},
        {"presigned_url_expiration": 86401},
        {"file_size_bytes": 0},
        {"file_hash": "A" * 64},
        {"blob_property": "a-b"},
    ):
        with pytest.raises(Exception, match="422"):
            await client.post(path, {**good, **wrong})


async def test_objects_of_several_uploads(invoices: Uploading) -> None:
    first = await invoices.confirmed(PDF + b"1", create_object_on_confirm=False)
    assert first.object_id is None
    objects = invoices.sdk.generated(BucketObjectsApi, invoices.namespace)
    request = parse(
        models.CreateObjectRequest,
        {"blobs": [{"property": "invoice", "type": "pdf", "upload_id": first.upload_id}], "sku": "A-1"},
    )
    made = [await call(objects.create_object_buckets, invoices.bucket, request) for _ in range(2)]
    assert made[0].object_id != made[1].object_id
    pending = await invoices.create(create_object_on_confirm=False)
    request = parse(
        models.CreateObjectRequest, {"blobs": [{"property": "invoice", "type": "pdf", "upload_id": pending.upload_id}]}
    )
    with pytest.raises(UnprocessableEntityException):
        await call(objects.create_object_buckets, invoices.bucket, request)


async def test_many_uploads_in_one_request(invoices: Uploading) -> None:
    request = parse(
        models.BatchUploadRequest,
        {
            "uploads": [
                {"filename": f"{n}.pdf", "content_type": "application/pdf", "object_metadata": {"qty": n}}
                for n in range(3)
            ],
            "shared_metadata": {"run": "r1"},
            "shared_object_metadata": {"sku": "shared", "qty": 100},
        },
    )
    created = await call(invoices.uploads.create_uploads_batch_buckets, invoices.bucket, request)
    assert created.total == 3
    assert [upload.object_metadata for upload in created.uploads] == [{"sku": "shared", "qty": n} for n in range(3)]
    for upload in created.uploads[:2]:
        await invoices.put(upload)

    confirmations = parse(
        models.BatchConfirmRequest, {"confirmations": [{"upload_id": upload.upload_id} for upload in created.uploads]}
    )
    started = await call(invoices.uploads.confirm_uploads_batch_buckets, invoices.bucket, confirmations)
    assert started.confirmations_count == 3
    client = invoices.api.client(invoices.namespace)

    async def over() -> Any:
        task = await client.get(f"/v1/tasks/{started.task_id}")
        return task if task["status"] not in ("PENDING", "IN_PROGRESS") else None

    task = await eventually(over)
    assert task["task_type"] == "api_buckets_uploads_batch_confirm"
    assert task["status"] == "COMPLETED_WITH_ERRORS"
    assert [row["status"] for row in task["additional_data"]["results"]] == ["COMPLETED", "COMPLETED", "FAILED"]
    assert len(task["outputs"]) == 2


async def test_one_faulty_upload_refuses_them_all(invoices: Uploading) -> None:
    request = parse(
        models.BatchUploadRequest,
        {
            "uploads": [
                {"filename": "a.pdf", "content_type": "application/pdf"},
                {"filename": "b.png", "content_type": "image/png"},
            ]
        },
    )
    with pytest.raises(UnprocessableEntityException) as refused:
        await call(invoices.uploads.create_uploads_batch_buckets, invoices.bucket, request)
    rows = present(refused.value.data).error.details["validation_errors"]
    assert rows[0]["location"][:3] == ["body", "uploads", 1]
    listed = await call(invoices.uploads.list_uploads_buckets, invoices.bucket)
    assert listed.stats.total_uploads == 0


async def test_confirming_in_the_background(invoices: Uploading) -> None:
    upload = await invoices.create()
    await invoices.put(upload)
    started = await invoices.confirm(upload.upload_id, var_async=True)
    assert started.status == "PROCESSING"
    assert started.task_id

    async def done() -> Any:
        found: Any = await call(invoices.uploads.get_upload_buckets, invoices.bucket, upload.upload_id)
        return found if found["status"] == "COMPLETED" and found["object_id"] else None

    found = await eventually(done)
    assert found["task_id"] == started.task_id


async def test_a_batch_of_the_object_at_once(invoices: Uploading) -> None:
    upload = await invoices.create()
    await invoices.put(upload)
    done = await invoices.confirm(upload.upload_id, {"auto_submit_batch": True})
    again = await invoices.confirm(upload.upload_id, {"auto_submit_batch": True})
    assert (again.batch_id, again.task_id) == (done.batch_id, done.task_id)
    batches = invoices.sdk.generated(BucketBatchesApi, invoices.namespace)

    async def over() -> Any:
        batch = await call(batches.get_batch_buckets_batches, invoices.bucket, done.batch_id)
        return batch if batch.status == "COMPLETED" else None

    batch = await eventually(over)
    assert batch.object_ids == [done.object_id]
    assert batch.task_id == done.task_id


async def test_policies(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_schema=SCHEMA, unique_key={"fields": ["sku"]})
    keyed = Uploading(api, sdk, namespace, bucket)
    first = await keyed.create(object_metadata={"sku": "A"})
    await keyed.put(first)
    with pytest.raises(UnprocessableEntityException):
        await keyed.confirm(first.upload_id)
    with pytest.raises(NotFoundException):
        await keyed.confirm(first.upload_id, policy="update")
    inserted = await keyed.confirm(first.upload_id, policy="insert")
    second = await keyed.create(object_metadata={"sku": "A", "qty": 2})
    await keyed.put(second, PDF + b"2")
    with pytest.raises(ConflictException):
        await keyed.confirm(second.upload_id, policy="insert")
    updated = await keyed.confirm(second.upload_id, policy="upsert")
    assert updated.object_id == inserted.object_id
    found = await api.client(namespace).get(f"/v1/buckets/{bucket}/objects/{inserted.object_id}")
    assert found["qty"] == 2


async def test_a_key_that_is_taken_wants_no_bytes(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    key = {"fields": ["sku"], "default_policy": "insert"}
    keyed = Uploading(api, sdk, namespace, await api.bucket(namespace, bucket_schema=SCHEMA, unique_key=key))
    made = await keyed.confirmed(object_metadata={"sku": "A"})
    again = await keyed.create(object_metadata={"sku": "A"})
    assert again.skipped_unique_key
    assert again.existing_object_id == made.object_id
    assert again.presigned_url is None


async def test_listing_and_reading(invoices: Uploading) -> None:
    done = await invoices.confirmed()
    pending = [await invoices.create(filename=f"{name}.pdf", file_size_bytes=7) for name in ("b", "c")]
    listed = await call(invoices.uploads.list_uploads_buckets, invoices.bucket)
    assert [row.upload_id for row in listed.results] == [pending[1].upload_id, pending[0].upload_id, done.upload_id]
    assert all(row.presigned_url is None for row in listed.results)
    assert listed.stats.total_uploads == 3
    assert listed.stats.uploads_by_status == {"PENDING": 2, "COMPLETED": 1}
    assert listed.stats.total_size_bytes == len(PDF) + 14
    request = parse(models.ListUploadsRequest, {"filters": {"AND": [{"field": "status", "value": "COMPLETED"}]}})
    only = await call(invoices.uploads.list_uploads_buckets, invoices.bucket, list_uploads_request=request)
    assert [row.upload_id for row in only.results] == [done.upload_id]
    page = await call(invoices.uploads.list_uploads_buckets, invoices.bucket, limit=2)
    rest = await call(
        invoices.uploads.list_uploads_buckets, invoices.bucket, limit=2, cursor=page.pagination.next_cursor
    )
    assert [row.upload_id for row in rest.results] == [done.upload_id]

    found: Any = await call(
        invoices.uploads.get_upload_buckets, invoices.bucket, done.upload_id, return_presigned_urls=True
    )
    async with aiohttp.ClientSession() as session, session.get(found["presigned_url"]) as response:
        assert await response.read() == PDF


async def test_deleting(invoices: Uploading) -> None:
    upload = await invoices.create()
    await invoices.put(upload)
    await call(invoices.uploads.delete_upload_buckets, invoices.bucket, upload.upload_id, delete_s3_object=True)
    with pytest.raises(NotFoundException):
        await call(invoices.uploads.get_upload_buckets, invoices.bucket, upload.upload_id)
    with pytest.raises(NotFoundException):
        await call(invoices.uploads.delete_upload_buckets, invoices.bucket, upload.upload_id)
    done = await invoices.confirmed()
    with pytest.raises(BadRequestException):
        await call(invoices.uploads.delete_upload_buckets, invoices.bucket, done.upload_id)
