"""Routes for many things at once, and for documents, driven by the official clients as they are."""

from typing import Any

import pytest
from mixpeek import models
from mixpeek.api.bucket_batches_api import BucketBatchesApi
from mixpeek.api.bucket_objects_api import BucketObjectsApi
from mixpeek.api.collection_documents_api import CollectionDocumentsApi
from mixpeek.api.health_api import HealthApi
from mixpeek.exceptions import NotFoundException, UnprocessableEntityException
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse
from tests.waiting import eventually, present

from bucketline.domain.status import FINAL

pytestmark = pytest.mark.stack


async def test_many_at_once_through_the_official_clients(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    collection = await api.collection(namespace, bucket)
    plain = api.client(namespace)
    bodies = [{"name": f"n{number % 2}", "qty": number} for number in range(6)]
    made = await plain.post(f"/v1/buckets/{bucket}/objects/batch", {"objects": bodies})
    ids = [row["object_id"] for row in made["succeeded"]]
    objects = sdk.generated(BucketObjectsApi, namespace)
    batches = sdk.generated(BucketBatchesApi, namespace)

    request = parse(
        models.ObjectAggregationRequest,
        {
            "group_by": [{"field": "name"}],
            "aggregations": [
                {"function": "count", "alias": "count"},
                {"function": "sum", "field": "qty", "alias": "total"},
                {"function": "min", "field": "qty", "alias": "least"},
                {"function": "max", "field": "qty", "alias": "most"},
            ],
            "filters": {"AND": [{"field": "qty", "operator": "gt", "value": 0}]},
            "having": [{"field": "count", "operator": "gte", "value": 1}],
            "sort_by": "total",
            "limit": 10,
        },
    )
    sums = await call(objects.aggregate_objects_buckets, bucket, request)
    assert sums.total_groups == 2
    assert [(row.group, row.metrics) for row in sums.results] == [
        ({"name": "n1"}, {"count": 3, "total": 9, "least": 1, "most": 5}),
        ({"name": "n0"}, {"count": 2, "total": 6, "least": 2, "most": 4}),
    ]

    draft = await plain.post(f"/v1/buckets/{bucket}/batches", {"object_ids": ids[:1]})
    every: Any = await call(batches.submit_all_drafts_buckets_batches, bucket)
    assert every["submitted"] == 1
    assert every["batches"][0]["batch_id"] == draft["batch_id"]

    bulk = parse(models.BulkSubmitBatchesRequest, {"chunk_size": 4})
    submitted = await call(batches.bulk_submit_batches_buckets, bucket, bulk)
    assert (submitted.total_objects, submitted.total_batches, submitted.failed) == (6, 2, 0)

    async def over() -> bool:
        found = [await call(batches.get_batch_buckets_batches, bucket, row.batch_id) for row in submitted.batches]
        return all(present(batch.status).value in FINAL for batch in found)

    await eventually(over)

    documents = sdk.generated(CollectionDocumentsApi, namespace)
    listed = await plain.post(f"/v1/collections/{collection}/documents/list", {"limit": 10})
    document_id = listed["results"][0]["document_id"]
    changed = await call(documents.patch_document, collection, document_id, {"label": "a", "metadata": {"b": 1}})
    assert changed.additional_properties["label"] == "a"
    changed = await call(documents.update_document, collection, document_id, {"metadata": {"b": None, "c": 2}})
    assert changed.additional_properties["metadata"] == {"c": 2}
    assert changed.internal is not None
    update = sdk.mixpeek(namespace).documents.update
    relabeled = await call(update, collection, document_id, update_data={"label": "b"})
    assert relabeled["label"] == "b"
    with pytest.raises(UnprocessableEntityException):
        await call(documents.patch_document, collection, document_id, {"document_id": "doc_x"})
    with pytest.raises(NotFoundException):
        await call(documents.update_document, collection, "doc_unknown", {"a": 1})

    gone = parse(models.BulkSoftDeleteRequest, {"object_ids": [*ids[:2], "obj_unknown"], "reason": "test"})
    deleted = await call(objects.bulk_soft_delete_objects_buckets, bucket, gone)
    assert (deleted.soft_deleted, deleted.requested, deleted.collections) == (2, 3, 1)
    left = await plain.post(f"/v1/buckets/{bucket}/objects/list", {})
    assert {row["object_id"] for row in left["results"]} == set(ids[2:])

    health = await call(sdk.generated(HealthApi).healthcheck_deep_health)
    assert health.status == "OK"
    assert health.data.metadata
    assert not health.data.inference
    assert health.meta is not None
    assert set(health.meta["components"]) >= {"mongodb", "s3"}
