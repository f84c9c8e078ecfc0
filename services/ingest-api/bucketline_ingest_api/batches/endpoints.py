"""``/v1/buckets/{bucket_identifier}/batches`` and ``/v1/batches``."""

from typing import Annotated

from fastapi import APIRouter, Body, Query

from bucketline.db.batches import BatchDocument
from bucketline_ingest_api.batches.audit import audit_batch
from bucketline_ingest_api.batches.cancel import MAX_REASON, cancel_batch
from bucketline_ingest_api.batches.collection_tiers import Tiers, tiers_of
from bucketline_ingest_api.batches.create import create_batch, get_batch, resolve_collections
from bucketline_ingest_api.batches.failed_objects import failures_of
from bucketline_ingest_api.batches.listing import everywhere, list_batches
from bucketline_ingest_api.batches.lookup import find_batch
from bucketline_ingest_api.batches.many import bulk_submit, submit_drafts
from bucketline_ingest_api.batches.retry import resubmit_batch, retry_batch
from bucketline_ingest_api.batches.schemas import (
    AddObjects,
    Batch,
    BatchAudit,
    BatchList,
    BulkSubmit,
    BulkSubmitted,
    CreateBatch,
    FailedDocuments,
    ListBatches,
    Resubmission,
    ResubmitBatch,
    Retry,
    RetryBatch,
    SubmitBatch,
    SubmittedDrafts,
    UpdateBatch,
)
from bucketline_ingest_api.batches.serializers import (
    audit_answer,
    batch_answer,
    drafts_answer,
    failed_answer,
    group_answer,
    resubmission_answer,
    retry_answer,
)
from bucketline_ingest_api.batches.submit import submit_batch
from bucketline_ingest_api.batches.update import add_objects, delete_batch, patch_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import (
    BucketDelete,
    BucketRead,
    BucketWrite,
    ContainerDep,
    NamespaceHeader,
    NamespaceQuery,
    ReadPrincipal,
    WritePrincipal,
)
from bucketline_ingest_api.pagination import Page
from bucketline_ingest_api.schemas import Deleted, Paging, errors
from bucketline_ingest_api.tasks.schemas import Task
from bucketline_ingest_api.tasks.service import serialize_batch_task

router = APIRouter(tags=["batches"])

BUCKET = "/v1/buckets/{bucket_identifier}/batches"
BATCH = BUCKET + "/{batch_id}"

SkipValidation = Annotated[bool, Query(description="Do not check the ids; objects of another bucket are left alone.")]
AutoSubmit = Annotated[bool | None, Query(description="Submit at once; wins over the body.")]
OtherSubmit = Annotated[bool | None, Query(description="Alias for `auto_submit`.")]
Force = Annotated[bool, Query(description="Accepted; batches never exclude each other here.")]
Reason = Annotated[str | None, Query(max_length=MAX_REASON, description="Kept with the batch.")]
TierNumber = Annotated[int | None, Query(ge=0, le=100)]
CollectionName = Annotated[str | None, Query(max_length=200, description="Id or name.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=100_000)]


@router.post(BUCKET, summary="Create a batch", responses=errors(400))
async def create(
    deps: ContainerDep,
    scope: BucketWrite,
    body: CreateBatch,
    skip_validation: SkipValidation = False,
    auto_submit: AutoSubmit = None,
    trigger_processing: OtherSubmit = None,
) -> Batch:
    """A DRAFT of up to 50,000 objects, by id or by filter; submitted at once with `auto_submit`."""
    submit = _first(auto_submit, trigger_processing, body.auto_submit, body.trigger_processing) or False
    batch = await create_batch(deps, scope.bucket, body, skip_validation=skip_validation, submit=submit)
    return await _answer(deps, batch)


@router.post(BUCKET + "/list", summary="List a bucket's batches", responses=errors(400))
async def listing(deps: ContainerDep, scope: BucketRead, asked: Paging, body: ListBatches | None = None) -> BatchList:
    """Newest first."""
    return await _answer_list(deps, await list_batches(deps, {"bucket_id": scope.bucket_id}, asked, body))


@router.post(BUCKET + "/submit-all", summary="Submit all drafts of a bucket", responses=errors(400))
async def submit_all(deps: ContainerDep, scope: BucketWrite) -> SubmittedDrafts:
    """Up to 1,000 drafts, oldest first; `has_more` says that some are left. Empty drafts stay."""
    return drafts_answer(await submit_drafts(deps, scope.bucket))


@router.post(BUCKET + "/bulk-submit", summary="Submit a whole bucket in batches", responses=errors(400))
async def bulk(
    deps: ContainerDep, scope: BucketWrite, body: Annotated[BulkSubmit | None, Body()] = None
) -> BulkSubmitted:
    """Batches of `chunk_size` objects, made and submitted: up to 1,000,000 objects in up to 1,000 batches.

    After a 503 the batches that were submitted stay. Sent again, objects that are processed by then are skipped.
    """
    asked = body or BulkSubmit()
    return group_answer(await bulk_submit(deps, scope.bucket, asked), asked.chunk_size)


@router.get(BATCH, summary="Get a batch", responses=errors(400))
async def get(deps: ContainerDep, scope: BucketRead, batch_id: str) -> Batch:
    return await _answer(deps, await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id))


@router.post(BATCH + "/objects", summary="Add objects to a draft", responses=errors(400))
async def add(
    deps: ContainerDep, scope: BucketWrite, batch_id: str, body: AddObjects, skip_validation: SkipValidation = False
) -> Batch:
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    return await _answer(deps, await add_objects(deps, scope.bucket, batch, body, skip_validation=skip_validation))


@router.post(BATCH + "/submit", summary="Submit a batch", responses=errors(400))
async def submit(
    deps: ContainerDep,
    scope: BucketWrite,
    batch_id: str,
    body: Annotated[SubmitBatch | None, Body()] = None,
    force: Force = False,  # noqa: ARG001 - part of the contract
) -> Task:
    """From here on the batch is processed; its task shows how it goes."""
    asked = body or SubmitBatch()
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    collections = await resolve_collections(deps, scope.bucket, asked.collection_ids)
    return serialize_batch_task(await submit_batch(deps, batch, asked, collection_ids=collections))


@router.post(BATCH + "/cancel", summary="Cancel a batch", responses=errors(400))
async def cancel(deps: ContainerDep, scope: BucketWrite, batch_id: str, reason: Reason = None) -> Task:
    """Work that has not started is given up and its objects are drafts again; work that is running ends by itself."""
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    canceled, reached = await cancel_batch(deps, batch, reason)
    return serialize_batch_task(canceled, cancellation=reached)


@router.patch(BATCH, summary="Change a batch's metadata", responses=errors(400))
async def patch(deps: ContainerDep, scope: BucketWrite, batch_id: str, body: UpdateBatch) -> Batch:
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    return await _answer(deps, await patch_batch(deps, batch, body))


@router.delete(BATCH, summary="Delete a batch", responses=errors(400))
async def delete(deps: ContainerDep, scope: BucketDelete, batch_id: str) -> Deleted:
    """Refused while the batch runs. Its objects and documents stay."""
    await delete_batch(deps, await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id))
    return Deleted(message="batch deleted")


@router.post(BATCH + "/retry", summary="Retry what failed in a batch", responses=errors(400))
async def retry(
    deps: ContainerDep, scope: BucketWrite, batch_id: str, body: Annotated[RetryBatch | None, Body()] = None
) -> Retry:
    """Runs the failed objects once more. After 30 days it is not known which failed: `batch_results_expired`."""
    asked = body or RetryBatch()
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    return retry_answer(await retry_batch(deps, scope.bucket, batch, asked), asked)


@router.post(BATCH + "/resubmit", summary="Run a batch again", responses=errors(400))
async def resubmit(
    deps: ContainerDep,
    scope: BucketWrite,
    batch_id: str,
    body: Annotated[ResubmitBatch | None, Body()] = None,
    auto_submit: AutoSubmit = None,
    trigger_processing: OtherSubmit = None,
    from_tier: TierNumber = None,  # noqa: ARG001 - tiers that are done are skipped by the batch's dedup_strategy
) -> Resubmission:
    """A batch that is over is a DRAFT again with all its objects, and submitted unless told not to."""
    given = body or ResubmitBatch()
    submit = _first(auto_submit, trigger_processing, given.auto_submit, given.trigger_processing)
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    again = await resubmit_batch(deps, scope.bucket, batch, submit=submit is not False)
    return resubmission_answer(again, previous=batch)


@router.get(BATCH + "/failed-documents", summary="What failed in a batch", responses=errors(400))
async def failed_documents(
    deps: ContainerDep,
    scope: BucketRead,
    batch_id: str,
    tier_num: TierNumber = None,
    collection_id: CollectionName = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> FailedDocuments:
    """Every object that failed; 30 days later the first thousand, as the batch shows them."""
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    tiers = await _tiers(deps, batch)
    failures = await failures_of(deps, batch, tiers, tier_num=tier_num, collection=collection_id)
    return failed_answer(batch, failures, limit=limit, offset=offset)


@router.get(BATCH + "/audit", summary="Audit of a batch", responses=errors(400))
async def audit(deps: ContainerDep, scope: BucketRead, batch_id: str) -> BatchAudit:
    """Counted from the objects and work units themselves; 30 days later, from the batch's sums."""
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    return audit_answer(batch, await audit_batch(deps, batch), await _tiers(deps, batch))


@router.post("/v1/batches/list", summary="List batches of any bucket", responses=errors(400))
async def listing_everywhere(
    deps: ContainerDep,
    caller: ReadPrincipal,
    asked: Paging,
    body: ListBatches | None = None,
    namespace: NamespaceHeader = None,
    fallback: NamespaceQuery = None,
) -> BatchList:
    """Newest first; without a namespace, those of all namespaces that the key may see."""
    scope = await everywhere(deps, caller, body, namespace or fallback)
    return await _answer_list(deps, await list_batches(deps, scope, asked, body))


@router.get("/v1/batches/{batch_id}", summary="Get a batch by its id", responses=errors(400))
async def get_anywhere(
    deps: ContainerDep,
    caller: ReadPrincipal,
    batch_id: str,
    namespace: NamespaceHeader = None,
    fallback: NamespaceQuery = None,
) -> Batch:
    return await _answer(deps, await find_batch(deps, caller, batch_id, namespace or fallback))


@router.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch by its id", responses=errors(400))
async def cancel_anywhere(
    deps: ContainerDep,
    caller: WritePrincipal,
    batch_id: str,
    reason: Reason = None,
    namespace: NamespaceHeader = None,
    fallback: NamespaceQuery = None,
) -> Task:
    batch = await find_batch(deps, caller, batch_id, namespace or fallback)
    canceled, reached = await cancel_batch(deps, batch, reason)
    return serialize_batch_task(canceled, cancellation=reached)


async def _tiers(deps: Container, batch: BatchDocument) -> Tiers:
    return await tiers_of(deps, batch["bucket_id"], batch["collection_ids"])


async def _answer(deps: Container, batch: BatchDocument) -> Batch:
    return batch_answer(batch, await _tiers(deps, batch), deps.clock)


async def _answer_list(deps: Container, listed: Page[BatchDocument]) -> BatchList:
    known: dict[tuple[str, tuple[str, ...] | None], Tiers] = {}
    rows = []
    for batch in listed.rows:
        only = batch["collection_ids"]
        key = (batch["bucket_id"], None if only is None else tuple(only))
        if key not in known:
            known[key] = await _tiers(deps, batch)
        rows.append(batch_answer(batch, known[key], deps.clock))
    return BatchList(results=rows, total_count=listed.total, pagination=listed.pagination)


def _first(*flags: bool | None) -> bool | None:
    """The first flag that was given."""
    return next((flag for flag in flags if flag is not None), None)
