"""The main job, done by the official SDK alone: namespace, bucket, collection, object, COMPLETED, documents."""

import secrets

import pytest
from mixpeek.api import BucketObjectsApi, CollectionDocumentsApi
from mixpeek.models import CreateObjectRequest
from tests.conftest import PASSTHROUGH, SCHEMA
from tests.contract.sdk.conftest import Sdk, call, parse
from tests.waiting import eventually, present

pytestmark = pytest.mark.stack


async def test_an_existing_client_gets_its_object_completed(sdk: Sdk) -> None:
    namespace = f"sdk-{secrets.token_hex(5)}"
    created = await call(sdk.mixpeek().namespaces.create, name=namespace)
    assert created["namespace_name"] == namespace

    client = sdk.mixpeek(namespace)
    bucket = await call(client.buckets.create, bucket_name="notes", bucket_schema=SCHEMA)
    source = {"type": "bucket", "bucket_ids": [bucket["bucket_id"]]}
    collection = await call(
        client.collections.create, collection_name="all notes", source=source, feature_extractor=PASSTHROUGH
    )

    objects = sdk.generated(BucketObjectsApi, namespace)
    body = parse(
        CreateObjectRequest,
        {"blobs": [{"property": "note", "type": "text", "data": "Call the supplier on Friday."}], "name": "first"},
    )
    made = await call(objects.create_object_buckets, bucket["bucket_id"], body, auto_process=True)

    async def completed() -> object:
        found = await call(objects.get_object_buckets, bucket["bucket_id"], str(made.object_id))
        assert found.status != "FAILED", found.error
        return found if found.status == "COMPLETED" else None

    done = await eventually(completed)
    assert done.document_count == 1  # type: ignore[attr-defined]
    listed = await call(client.documents.list, collection["collection_id"])
    assert [document["name"] for document in listed["results"]] == ["first"]
    documents = sdk.generated(CollectionDocumentsApi, namespace)
    again = await call(documents.list_documents_0, collection["collection_id"])
    assert [document.document_id for document in present(again.results)] == [listed["results"][0]["document_id"]]
