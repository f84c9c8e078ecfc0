"""``/v1/buckets/{bucket}/batches`` and ``/v1/batches``."""

from typing import Annotated

from fastapi import APIRouter, Body, Query

from ingest_api.batches.draft import create_batch, get_batch
from ingest_api.batches.render import batch_answer
from ingest_api.batches.submit import submit_batch
from ingest_api.batches.tasks import task_of
from ingest_api.batches.tiers import tiers_of
from ingest_api.requests import ReadingBucket, Wiring, WritingBucket
from ingest_api.schemas.batches import Batch, CreateBatch, SubmitBatch
from ingest_api.schemas.common import errors
from ingest_api.schemas.tasks import Task

router = APIRouter(prefix="/v1/buckets/{bucket_identifier}/batches", tags=["batches"])


@router.post("", summary="Create a batch", responses=errors(400))
async def create(
    deps: Wiring,
    scope: WritingBucket,
    body: CreateBatch,
    skip_validation: Annotated[bool, Query(description="Take object ids as they are.")] = False,
    auto_submit: Annotated[bool | None, Query(description="Submit at once; wins over the body.")] = None,
    trigger_processing: Annotated[bool | None, Query(description="Another name of auto_submit.")] = None,
) -> Batch:
    batch = await create_batch(deps, scope, body, skip_validation=skip_validation)
    wanted = (auto_submit, trigger_processing, body.auto_submit, body.trigger_processing)
    if next((flag for flag in wanted if flag is not None), False):
        batch = await submit_batch(deps, batch, SubmitBatch())
    return batch_answer(batch, await tiers_of(deps, scope.bucket_id, batch["collection_ids"]), deps.clock)


@router.get("/{batch_id}", summary="Get a batch", responses=errors())
async def get(deps: Wiring, scope: ReadingBucket, batch_id: str) -> Batch:
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    return batch_answer(batch, await tiers_of(deps, scope.bucket_id, batch["collection_ids"]), deps.clock)


@router.post("/{batch_id}/submit", summary="Submit a batch", responses=errors(400))
async def submit(
    deps: Wiring, scope: WritingBucket, batch_id: str, body: Annotated[SubmitBatch | None, Body()] = None
) -> Task:
    batch = await get_batch(deps, scope.namespace_id, batch_id, scope.bucket_id)
    return task_of(await submit_batch(deps, batch, body or SubmitBatch()))
