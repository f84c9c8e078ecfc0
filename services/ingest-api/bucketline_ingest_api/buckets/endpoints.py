"""``/v1/buckets``."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline.db.buckets import BucketDocument
from bucketline_ingest_api.buckets.create import create_bucket
from bucketline_ingest_api.buckets.delete import delete_bucket
from bucketline_ingest_api.buckets.listing import list_buckets
from bucketline_ingest_api.buckets.lookup import any_bucket
from bucketline_ingest_api.buckets.schemas import Bucket, BucketDeletion, BucketList, ChangeBucket, CreateBucket
from bucketline_ingest_api.buckets.update import change_bucket
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import ContainerDep, NamespaceDelete, NamespaceRead, NamespaceWrite
from bucketline_ingest_api.pagination import Page
from bucketline_ingest_api.schemas import ListBody, Paging, errors

router = APIRouter(prefix="/v1/buckets", tags=["buckets"])

Force = Annotated[bool, Query(description="Change the schema even if stored objects may not fit it.")]
Foreclose = Annotated[
    bool, Query(description="Accepted, no effect: the bucket's running work is given up in any case.")
]
Search = Annotated[str | None, Query(max_length=1000, description="Text in the id, the name or the description.")]


@router.post("", summary="Create a bucket", responses=errors(400, 409))
async def create(deps: ContainerDep, scope: NamespaceWrite, body: CreateBucket) -> Bucket:
    return await _answer(deps, await create_bucket(deps, scope.namespace_id, body))


@router.get("", summary="List buckets", responses=errors(400))
async def listing(deps: ContainerDep, scope: NamespaceRead, asked: Paging, search: Search = None) -> BucketList:  # noqa: ARG001 - read from the query
    return await _answer_list(deps, await list_buckets(deps, scope.namespace_id, asked, None))


@router.post("/list", summary="List buckets, with filters", responses=errors(400))
async def filtered(deps: ContainerDep, scope: NamespaceRead, asked: Paging, body: ListBody | None = None) -> BucketList:
    return await _answer_list(deps, await list_buckets(deps, scope.namespace_id, asked, body))


@router.get("/{bucket_identifier}", summary="Get a bucket", responses=errors(400))
async def get(deps: ContainerDep, scope: NamespaceRead, bucket_identifier: str) -> Bucket:
    return await _answer(deps, await any_bucket(deps, scope.namespace_id, bucket_identifier))


@router.patch("/{bucket_identifier}", summary="Change a bucket", responses=errors(400, 409))
@router.put("/{bucket_identifier}", summary="Update a bucket", responses=errors(400, 409))
async def change(
    deps: ContainerDep,
    scope: NamespaceWrite,
    bucket_identifier: str,
    body: ChangeBucket,
    force_schema_break: Force = False,
) -> Bucket:
    bucket = await change_bucket(deps, scope.namespace_id, bucket_identifier, body, force=force_schema_break)
    return await _answer(deps, bucket)


@router.delete("/{bucket_identifier}", summary="Delete a bucket with everything in it", responses=errors(400))
async def delete(
    deps: ContainerDep,
    scope: NamespaceDelete,
    bucket_identifier: str,
    force_foreclose: Foreclose = False,  # noqa: ARG001 - what runs is given up in any case
) -> BucketDeletion:
    organization_id = scope.caller.organization_id
    bucket, task = await delete_bucket(deps, organization_id, scope.namespace_id, bucket_identifier)
    stats = await deps.bucket_counts.of(bucket)
    return BucketDeletion(
        task_id=task["_id"],
        status=task["status"],
        bucket_id=bucket["_id"],
        bucket_name=bucket["name"],
        object_count=stats["objects"],
    )


async def _answer(deps: Container, bucket: BucketDocument) -> Bucket:
    return Bucket.of(bucket, await deps.bucket_counts.of(bucket))


async def _answer_list(deps: Container, listed: Page[BucketDocument]) -> BucketList:
    stats = await deps.bucket_counts.of_all(listed.rows)
    rows = [Bucket.of(bucket, counted) for bucket, counted in zip(listed.rows, stats, strict=True)]
    return BucketList.of(rows, listed.total, listed.pagination)
