"""Batches through the official clients: drafted, submitted, cancelled, run again, and accounted for."""

from typing import Any

import pytest
from mixpeek import models
from mixpeek.api.batches_api import BatchesApi
from mixpeek.api.bucket_batches_api import BucketBatchesApi
from mixpeek.api.tasks_api import TasksApi
from mixpeek.exceptions import BadRequestException, NotFoundException, UnprocessableEntityException
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse
from tests.waiting import eventually, present

from bucketline.domain.status import FINAL

pytestmark = pytest.mark.stack

FILES = {"properties": {"file": {"type": "pdf"}, "name": {"type": "string"}, "state": {"type": "string"}}}


class Batching:
    """A bucket, and the clients for its batches."""

    def __init__(self, api: Api, sdk: Sdk, namespace: str, bucket: str) -> None:
        self.api, self.namespace, self.bucket = api, namespace, bucket
        self.plain = api.client(namespace)
        self.batches = sdk.generated(BucketBatchesApi, namespace)
        self.everywhere = sdk.generated(BatchesApi, namespace)
        self.tasks = sdk.generated(TasksApi)
        self.mixpeek = sdk.mixpeek(namespace)

    async def objects(self, count: int, **fields: Any) -> list[str]:
        bodies = [{"name": str(n), **fields} for n in range(count)]
        made = await self.plain.post(f"/v1/buckets/{self.bucket}/objects/batch", {"objects": bodies})
        return [row["object_id"] for row in made["succeeded"]]

    async def create(self, body: dict[str, Any], **query: Any) -> models.BatchModel:
        request = parse(models.CreateBatchRequest, body)
        return await call(self.batches.create_batch_buckets_batches, self.bucket, request, **query)

    async def submit(self, batch_id: str) -> models.TaskResponse:
        return await call(self.batches.submit_batch_buckets_batches, self.bucket, batch_id)

    async def get(self, batch_id: str) -> models.BatchModel:
        return await call(self.batches.get_batch_buckets_batches, self.bucket, batch_id)

    async def over(self, batch_id: str) -> models.BatchModel:
        async def found() -> Any:
            batch = await self.get(batch_id)
            return batch if present(batch.status).value in FINAL else None

        return await eventually(found)

    async def audit(self, batch_id: str) -> Any:
        return await call(self.mixpeek.batches.audit, self.bucket, batch_id)


@pytest.fixture
async def batching(api: Api, sdk: Sdk) -> Batching:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace)
    await api.collection(namespace, bucket)
    return Batching(api, sdk, namespace, bucket)


@pytest.fixture
async def failing(api: Api, sdk: Sdk) -> Batching:
    """A bucket whose one collection wants PDFs."""
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_schema=FILES)
    await api.collection(namespace, bucket, feature_extractor_name="document_extractor", version="v1")
    return Batching(api, sdk, namespace, bucket)


async def test_from_draft_to_done(batching: Batching) -> None:
    ids = await batching.objects(3)
    body = {"object_ids": ids[:2], "batch_name": "nightly", "metadata": {"source": "test"}}
    draft = await batching.create(body)
    assert draft.status == "DRAFT"
    assert draft.object_ids == ids[:2]
    assert draft.total_tiers == 1
    assert draft.task_id is None

    batch_id = str(draft.batch_id)
    request = models.AddObjectsToBatchRequest(object_ids=[ids[2], ids[0]])
    grown = await call(batching.batches.add_objects_to_batch_buckets_batches, batching.bucket, batch_id, request)
    assert grown.object_ids == ids

    task = await batching.submit(batch_id)
    assert task.task_type == "api_buckets_batches_process"
    assert task.additional_data is not None
    assert task.additional_data["object_count"] == 3
    done = await batching.over(batch_id)
    assert done.status == "COMPLETED"
    assert done.documents_resolvable
    assert done.documents_written == 3
    assert done.progress is not None
    assert (done.progress.processed, done.progress.total, done.progress.percent) == (3, 3, 100)
    assert done.tier_tasks is not None
    assert [tier.status for tier in done.tier_tasks] == ["COMPLETED"]
    followed = await call(batching.tasks.get_task, task.task_id)
    assert followed.status == "COMPLETED"

    books = await batching.audit(batch_id)
    assert books["all_balanced"]
    assert not books["has_lost_objects"]
    assert (books["submitted"], books["processed"]) == (3, 3)
    for late in (batching.submit(batch_id),):
        with pytest.raises(BadRequestException) as refused:
            await late
        assert present(refused.value.data).error.details["status"] == "COMPLETED"
    with pytest.raises(BadRequestException):
        await call(batching.batches.add_objects_to_batch_buckets_batches, batching.bucket, batch_id, request)


async def test_by_filter(batching: Batching) -> None:
    await batching.objects(4, note="x")
    chosen = await batching.objects(3, state="open")
    filters = {"AND": [{"field": "state", "operator": "eq", "value": "open"}]}
    batch = await batching.create({"filters": filters})
    assert batch.object_ids is not None
    assert sorted(batch.object_ids) == sorted(chosen)
    assert (await batching.create({"filters": filters, "limit": 2})).object_ids == batch.object_ids[:2]
    with pytest.raises(BadRequestException):
        await batching.create({"filters": {"AND": [{"field": "state", "operator": "eq", "value": "paid"}]}})
    path = f"/v1/buckets/{batching.bucket}/batches"
    wrong: dict[str, Any]
    for wrong in ({}, {"object_ids": chosen, "filters": filters}, {"object_ids": []}, {"filters": {"AND": 1}}):
        with pytest.raises(Exception, match="422"):
            await batching.plain.post(path, wrong)


async def test_objects_and_collections_must_be_there(batching: Batching) -> None:
    ids = await batching.objects(1)
    with pytest.raises(NotFoundException) as refused:
        await batching.create({"object_ids": [*ids, "obj_nobody"]})
    assert present(refused.value.data).error.details["ids"] == ["obj_nobody"]
    taken = await batching.create({"object_ids": [*ids, "obj_nobody"]}, skip_validation=True)
    await batching.submit(str(taken.batch_id))
    done = await batching.over(str(taken.batch_id))
    assert done.status == "COMPLETED"
    assert done.progress is not None
    assert done.progress.total == 1
    books = await batching.audit(str(taken.batch_id))
    assert (books["all_balanced"], books["deleted"]) == (True, 1)

    with pytest.raises(NotFoundException):
        await batching.create({"object_ids": ids, "collection_ids": ["col_nobody"]})
    other = await batching.api.bucket(batching.namespace)
    stranger = await batching.api.collection(batching.namespace, other)
    with pytest.raises(UnprocessableEntityException):
        await batching.create({"object_ids": ids, "collection_ids": [stranger]})


async def test_submitted_at_once(batching: Batching) -> None:
    ids = await batching.objects(1)
    assert (await batching.create({"object_ids": ids, "auto_submit": True})).status == "PENDING"
    assert (await batching.create({"object_ids": ids}, trigger_processing=True)).status == "PENDING"
    assert (await batching.create({"object_ids": ids, "auto_submit": True}, auto_submit=False)).status == "DRAFT"


async def test_a_bucket_that_no_collection_reads(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    alone = Batching(api, sdk, namespace, await api.bucket(namespace))
    batch = await alone.create({"object_ids": await alone.objects(2), "auto_submit": True})
    done = await alone.over(str(batch.batch_id))
    assert (done.status, done.documents_written, done.collection_ids, done.tier_tasks) == ("COMPLETED", 0, [], [])


async def test_lists(batching: Batching) -> None:
    ids = await batching.objects(1)
    made = [str((await batching.create({"object_ids": ids})).batch_id) for _ in range(3)]
    await batching.submit(made[0])
    await batching.over(made[0])
    listed = await call(batching.batches.list_batches_buckets, batching.bucket)
    assert [row.batch_id for row in listed.results] == made[::-1]
    assert listed.total_count == 3
    drafts = parse(models.ListBatchesRequest, {"status": "DRAFT", "limit": 1})
    page = await call(batching.batches.list_batches_buckets, batching.bucket, list_batches_request=drafts)
    assert (page.total_count, [row.batch_id for row in page.results]) == (2, [made[2]])
    assert page.pagination is not None
    rest = parse(models.ListBatchesRequest, {"status": "DRAFT", "limit": 1, "cursor": page.pagination["next_cursor"]})
    page = await call(batching.batches.list_batches_buckets, batching.bucket, list_batches_request=rest)
    assert [row.batch_id for row in page.results] == [made[1]]

    everywhere = await call(batching.everywhere.list_all_batches)
    assert set(made) <= {row.batch_id for row in everywhere.results}, "without a namespace all of them are listed"
    within = await batching.plain.post("/v1/batches/list")
    assert [row["batch_id"] for row in within["results"]] == made[::-1]
    other = await batching.api.bucket(batching.namespace)
    for body, count in (({"bucket_id": batching.bucket}, 3), ({"bucket_id": other}, 0), ({"bucket_id": "bkt_no"}, 0)):
        found = await batching.plain.post("/v1/batches/list", body)
        assert found["total_count"] == count
    collection = (await batching.get(made[0])).collection_ids
    assert collection
    found = await batching.plain.post("/v1/batches/list", {"collection_id": collection[0]})
    assert found["total_count"] == 3
    assert (await call(batching.everywhere.get_batch_by_id_batches, made[0])).batch_id == made[0]
    stranger = batching.api.client(await batching.api.namespace())
    with pytest.raises(Exception, match="404"):
        await stranger.get(f"/v1/batches/{made[0]}")
    assert (await stranger.post("/v1/batches/list"))["total_count"] == 0


async def test_cancelling(batching: Batching) -> None:
    ids = await batching.objects(2)
    draft = await batching.create({"object_ids": ids})
    task = await call(
        batching.batches.cancel_batch_buckets_batches, batching.bucket, str(draft.batch_id), reason="not today"
    )
    assert task.status == "CANCELED"
    assert task.cancellation is not None
    assert task.cancellation.ray_jobs_requested == 0
    assert (await batching.get(str(draft.batch_id))).status == "CANCELED"

    running = await batching.create({"object_ids": ids, "auto_submit": True})
    task = await call(batching.everywhere.cancel_batch_by_id_batches, str(running.batch_id))
    assert task.status in ("CANCELED", "COMPLETED")
    done = await batching.over(str(running.batch_id))
    books = await batching.audit(str(running.batch_id))
    assert books["all_balanced"]
    assert books["given_back"] + books["processed"] == 2
    if done.status == "CANCELED":
        again = await call(batching.everywhere.cancel_batch_by_id_batches, str(running.batch_id))
        assert again.status == "CANCELED"

    finished = await batching.create({"object_ids": ids, "auto_submit": True})
    await batching.over(str(finished.batch_id))
    with pytest.raises(BadRequestException):
        await call(batching.everywhere.cancel_batch_by_id_batches, str(finished.batch_id))


async def test_metadata_and_deletion(batching: Batching) -> None:
    ids = await batching.objects(1)
    batch_id = str((await batching.create({"object_ids": ids, "metadata": {"a": 1}})).batch_id)
    request = parse(models.PatchBatchRequest, {"metadata": {"source": "test"}})
    changed = await call(batching.batches.patch_batch_buckets_batches, batching.bucket, batch_id, request)
    assert present(changed.metadata).to_dict() == {"source": "test"}
    deleted = await call(batching.batches.delete_batch_buckets_batches, batching.bucket, batch_id)
    assert deleted.success
    with pytest.raises(NotFoundException):
        await batching.get(batch_id)


async def test_failed_objects_are_listed_and_retried(failing: Batching) -> None:
    pdf = {"property": "file", "type": "pdf", "data": {"base64": "bm90IGEgcGRm", "mime_type": "application/pdf"}}
    broken = await failing.plain.post(f"/v1/buckets/{failing.bucket}/objects", {"blobs": [pdf], "name": "broken"})
    sound = await failing.objects(1)
    batch = await failing.create({"object_ids": [broken["object_id"], *sound], "auto_submit": True})
    batch_id = str(batch.batch_id)
    done = await failing.over(batch_id)
    assert done.status in ("COMPLETED_WITH_ERRORS", "FAILED")
    assert done.failed_objects
    rows = {row.object_id: row for row in done.failed_objects}
    assert broken["object_id"] in rows
    assert done.failed_object_count == len(rows)

    failed = await call(failing.mixpeek.batches.failed_documents, failing.bucket, batch_id)
    assert {row["object_id"] for row in failed["results"]} == set(rows)
    assert failed["total"] == len(rows)
    first = await call(failing.mixpeek.batches.failed_documents, failing.bucket, batch_id, limit=1, tier_num=0)
    assert len(first["results"]) == 1
    none = await call(failing.mixpeek.batches.failed_documents, failing.bucket, batch_id, tier_num=5)
    assert none["results"] == []

    transient = parse(models.RetryBatchRequest, {"retry_mode": "transient_only"})
    untouched = await call(
        failing.batches.retry_batch_buckets_batches, failing.bucket, batch_id, retry_batch_request=transient
    )
    assert untouched["retried_count"] == 0
    everything = parse(models.RetryBatchRequest, {"retry_mode": "all", "max_retry_count": 1})
    started = await call(
        failing.batches.retry_batch_buckets_batches, failing.bucket, batch_id, retry_batch_request=everything
    )
    assert started["retried_count"] == len(rows)
    again = await failing.over(batch_id)
    assert again.retry_count == 1
    assert again.failed_object_count == len(rows)
    assert again.progress is not None
    assert (again.progress.processed, again.progress.total) == (2, 2)
    assert (await failing.audit(batch_id))["all_balanced"]
    with pytest.raises(BadRequestException):
        await call(
            failing.batches.retry_batch_buckets_batches, failing.bucket, batch_id, retry_batch_request=everything
        )


async def test_running_again(batching: Batching) -> None:
    ids = await batching.objects(2)
    batch = await batching.create({"object_ids": ids, "dedup_strategy": "force"})
    batch_id = str(batch.batch_id)
    with pytest.raises(BadRequestException):
        await call(batching.batches.resubmit_batch_buckets_batches, batching.bucket, batch_id)
    await batching.submit(batch_id)
    await batching.over(batch_id)
    parked = await call(batching.batches.resubmit_batch_buckets_batches, batching.bucket, batch_id, auto_submit=False)
    assert (parked["status"], parked["previous_status"]) == ("DRAFT", "COMPLETED")
    await batching.submit(batch_id)
    await batching.over(batch_id)
    again = await call(batching.batches.resubmit_batch_buckets_batches, batching.bucket, batch_id)
    assert again["status"] == "PENDING"
    done = await batching.over(batch_id)
    assert done.progress is not None
    assert (done.status, done.progress.processed) == ("COMPLETED", 2)
    assert (await batching.audit(batch_id))["all_balanced"]


async def test_drafts_of_a_bucket_with_a_policy_group_themselves(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    policy = {"max_objects": 4, "max_wait_seconds": 1}
    grouped = Batching(api, sdk, namespace, await api.bucket(namespace, settings={"batching": policy}))
    ids = await grouped.objects(10)

    async def all_in_batches() -> Any:
        found = await grouped.plain.post(f"/v1/buckets/{grouped.bucket}/batches/list")
        held = [object_id for row in found["results"] for object_id in row["object_ids"]]
        done = all(row["status"] == "COMPLETED" for row in found["results"])
        return found["results"] if done and len(held) >= len(ids) else None

    batches = await eventually(all_in_batches, deadline=60)
    held = [object_id for row in batches for object_id in row["object_ids"]]
    assert sorted(held) == sorted(ids)
    assert max(len(row["object_ids"]) for row in batches) <= 4
