"""Endpoints of ``/v1/buckets/{bucket_identifier}/batches`` and ``/v1/batches``."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query

from bucketline.db.batches import BatchDocument
from bucketline_ingest_api.batches import results, service, submission
from bucketline_ingest_api.batches.schemas import (
    AddObjects,
    Batch,
    BatchAudit,
    BatchList,
    BulkSubmit,
    BulkSubmitted,
    CreateBatch,
    FailedDocument,
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
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import (
    BucketDelete,
    BucketRead,
    BucketWrite,
    ContainerDep,
    NamespaceIdentifier,
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

SkipValidation = Annotated[bool, Query(description="Do not check the ids; objects of other buckets are ignored.")]
AutoSubmit = Annotated[bool | None, Query(description="Submit at once; takes precedence over the body.")]
OtherSubmit = Annotated[bool | None, Query(description="Alias for `auto_submit`.")]
Force = Annotated[bool, Query(description="Accepted without effect: batches never exclude each other.")]
Reason = Annotated[str | None, Query(max_length=submission.MAX_REASON_LENGTH, description="Kept with the batch.")]
TierNumber = Annotated[int | None, Query(ge=0, le=100)]
CollectionName = Annotated[str | None, Query(max_length=200, description="Id or name.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=100_000)]


async def _batch_to_read(container: ContainerDep, scope: BucketRead, batch_id: str) -> BatchDocument:
    return await service.find_batch(container, scope.namespace_id, scope.bucket_id, batch_id)


async def _batch_to_change(container: ContainerDep, scope: BucketWrite, batch_id: str) -> BatchDocument:
    return await service.find_batch(container, scope.namespace_id, scope.bucket_id, batch_id)


async def _batch_to_delete(container: ContainerDep, scope: BucketDelete, batch_id: str) -> BatchDocument:
    return await service.find_batch(container, scope.namespace_id, scope.bucket_id, batch_id)


BatchRead = Annotated[BatchDocument, Depends(_batch_to_read)]
BatchWrite = Annotated[BatchDocument, Depends(_batch_to_change)]
BatchDelete = Annotated[BatchDocument, Depends(_batch_to_delete)]


@router.post(BUCKET, summary="Create a batch", responses=errors(400))
async def create_batch(
    container: ContainerDep,
    scope: BucketWrite,
    body: CreateBatch,
    skip_validation: SkipValidation = False,
    auto_submit: AutoSubmit = None,
    trigger_processing: OtherSubmit = None,
) -> Batch:
    """Create a draft of up to 50,000 objects, by id or by filters; `auto_submit` submits it at once."""
    batch = await service.create_batch(container, scope.bucket, body, skip_validation=skip_validation)
    if _first_given(auto_submit, trigger_processing, body.auto_submit, body.trigger_processing):
        batch = await submission.submit_batch(container, batch)
    return await _respond(container, batch)


@router.post(BUCKET + "/list", summary="List a bucket's batches", responses=errors(400))
async def list_batches(
    container: ContainerDep, scope: BucketRead, list_query: Paging, body: ListBatches | None = None
) -> BatchList:
    """List the newest first."""
    page = await service.find_batches(container, {"bucket_id": scope.bucket_id}, list_query, body)
    return await _respond_list(container, page)


@router.post(BUCKET + "/submit-all", summary="Submit all drafts of a bucket", responses=errors(400))
async def submit_all_batches(container: ContainerDep, scope: BucketWrite) -> SubmittedDrafts:
    """Submit up to 1,000 drafts, oldest first; `has_more` is true if others remain. Empty drafts stay."""
    return await submission.submit_drafts(container, scope.bucket)


@router.post(BUCKET + "/bulk-submit", summary="Submit a whole bucket in batches", responses=errors(400))
async def bulk_submit_batches(
    container: ContainerDep, scope: BucketWrite, body: Annotated[BulkSubmit | None, Body()] = None
) -> BulkSubmitted:
    """Submit batches of `chunk_size` objects: up to 1,000,000 objects in up to 1,000 batches.

    After a 503 the batches that were submitted stay. A repeated request skips objects that have been processed by then.
    """
    return await submission.bulk_submit(container, scope.bucket, body or BulkSubmit())


@router.get(BATCH, summary="Get a batch", responses=errors(400))
async def get_batch(container: ContainerDep, batch: BatchRead) -> Batch:
    """Show the batch with its progress and all its objects."""
    return await _respond(container, batch)


@router.post(BATCH + "/objects", summary="Add objects to a draft", responses=errors(400))
async def add_objects_to_batch(
    container: ContainerDep,
    scope: BucketWrite,
    batch: BatchWrite,
    body: AddObjects,
    skip_validation: SkipValidation = False,
) -> Batch:
    """Add the objects that the draft does not have yet."""
    updated = await service.add_objects(container, scope.bucket, batch, body, skip_validation=skip_validation)
    return await _respond(container, updated)


@router.post(BATCH + "/submit", summary="Submit a batch", responses=errors(400))
async def submit_batch(
    container: ContainerDep,
    scope: BucketWrite,
    batch: BatchWrite,
    body: Annotated[SubmitBatch | None, Body()] = None,
    force: Force = False,  # noqa: ARG001 - part of the contract
) -> Task:
    """Start to process the batch; its task shows the progress."""
    request = body or SubmitBatch()
    collection_ids = await service.resolve_collections(container, scope.bucket, request.collection_ids)
    submitted = await submission.submit_batch(
        container, batch, collection_ids=collection_ids, webhook_url=request.webhook_url
    )
    return serialize_batch_task(submitted)


@router.post(BATCH + "/cancel", summary="Cancel a batch", responses=errors(400))
async def cancel_batch(container: ContainerDep, batch: BatchWrite, reason: Reason = None) -> Task:
    """Drop work that has not started; its objects become drafts again. Work that is running completes."""
    canceled, unit_counts = await submission.cancel_batch(container, batch, reason)
    return serialize_batch_task(canceled, cancellation=unit_counts)


@router.patch(BATCH, summary="Change a batch's metadata", responses=errors(400))
async def update_batch(container: ContainerDep, batch: BatchWrite, body: UpdateBatch) -> Batch:
    """Replace the metadata, in any state of the batch."""
    return await _respond(container, await service.update_batch(container, batch, body))


@router.delete(BATCH, summary="Delete a batch", responses=errors(400))
async def delete_batch(container: ContainerDep, batch: BatchDelete) -> Deleted:
    """Delete a batch that is not running. Its objects and documents stay."""
    await service.delete_batch(container, batch)
    return Deleted(message="batch deleted")


@router.post(BATCH + "/retry", summary="Retry what failed in a batch", responses=errors(400))
async def retry_batch(
    container: ContainerDep, scope: BucketWrite, batch: BatchWrite, body: Annotated[RetryBatch | None, Body()] = None
) -> Retry:
    """Run the failed objects again. After 30 days it is not known which failed: `batch_results_expired`."""
    request = body or RetryBatch()
    retried, count = await submission.retry_batch(container, scope.bucket, batch, request)
    return Retry.of(retried, count, request)


@router.post(BATCH + "/resubmit", summary="Run a batch again", responses=errors(400))
async def resubmit_batch(
    container: ContainerDep,
    scope: BucketWrite,
    batch: BatchWrite,
    body: Annotated[ResubmitBatch | None, Body()] = None,
    auto_submit: AutoSubmit = None,
    trigger_processing: OtherSubmit = None,
    from_tier: TierNumber = None,  # noqa: ARG001 - the batch's dedup_strategy skips tiers that are done
) -> Resubmission:
    """Turn a finished batch into a draft with all its objects, and submit it unless `auto_submit` is false."""
    request = body or ResubmitBatch()
    submit = _first_given(auto_submit, trigger_processing, request.auto_submit, request.trigger_processing)
    resubmitted = await submission.resubmit_batch(container, scope.bucket, batch, submit=submit is not False)
    return Resubmission.of(resubmitted, previous_status=batch["status"])


@router.get(BATCH + "/failed-documents", summary="List what failed in a batch", responses=errors(400))
async def list_failed_documents(
    container: ContainerDep,
    batch: BatchRead,
    tier_num: TierNumber = None,
    collection_id: CollectionName = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> FailedDocuments:
    """List every object that failed; after 30 days the first thousand, as the batch shows them."""
    [tiers] = await service.find_tiers(container, [batch])
    failures = await results.find_failures(container, batch, tiers, tier=tier_num, collection=collection_id)
    page = [FailedDocument.model_validate(failure) for failure in failures[offset : offset + limit]]
    return FailedDocuments(batch_id=batch["_id"], results=page, total=len(failures), limit=limit, offset=offset)


@router.get(BATCH + "/audit", summary="Audit a batch", responses=errors(400))
async def audit_batch(container: ContainerDep, batch: BatchRead) -> BatchAudit:
    """Count the objects and work units themselves; after 30 days, show the totals of the batch."""
    [tiers] = await service.find_tiers(container, [batch])
    return await results.audit_batch(container, batch, tiers)


@router.post("/v1/batches/list", summary="List batches of any bucket", responses=errors(400))
async def search_batches(
    container: ContainerDep,
    caller: ReadPrincipal,
    namespace: NamespaceIdentifier,
    list_query: Paging,
    body: ListBatches | None = None,
) -> BatchList:
    """List the newest first; without a namespace, those of all namespaces that the key may access."""
    scope = await service.scope_of_all_buckets(container, caller, body, namespace)
    return await _respond_list(container, await service.find_batches(container, scope, list_query, body))


@router.get("/v1/batches/{batch_id}", summary="Get a batch by its id", responses=errors(400))
async def get_batch_by_id(
    container: ContainerDep, caller: ReadPrincipal, namespace: NamespaceIdentifier, batch_id: str
) -> Batch:
    """Show the batch with its progress and all its objects."""
    return await _respond(container, await service.find_batch_by_id(container, caller, batch_id, namespace))


@router.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch by its id", responses=errors(400))
async def cancel_batch_by_id(
    container: ContainerDep,
    caller: WritePrincipal,
    namespace: NamespaceIdentifier,
    batch_id: str,
    reason: Reason = None,
) -> Task:
    """Drop work that has not started; its objects become drafts again. Work that is running completes."""
    batch = await service.find_batch_by_id(container, caller, batch_id, namespace)
    return await cancel_batch(container, batch, reason)


async def _respond(container: Container, batch: BatchDocument) -> Batch:
    [tiers] = await service.find_tiers(container, [batch])
    return Batch.of(batch, tiers, container.clock.now())


async def _respond_list(container: Container, page: Page[BatchDocument]) -> BatchList:
    tiers, now = await service.find_tiers(container, page.rows), container.clock.now()
    batches = [Batch.of(batch, reached, now) for batch, reached in zip(page.rows, tiers, strict=True)]
    return BatchList(results=batches, total_count=page.total, pagination=page.pagination)


def _first_given(*flags: bool | None) -> bool | None:
    return next((flag for flag in flags if flag is not None), None)
