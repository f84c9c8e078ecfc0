"""Endpoints of ``/v1/buckets``."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline.db.buckets import BucketDocument
from bucketline_ingest_api import deletion
from bucketline_ingest_api.buckets import service
from bucketline_ingest_api.buckets.schemas import Bucket, BucketDeletion, BucketList, CreateBucket, UpdateBucket
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import (
    ContainerDep,
    NamespaceDelete,
    NamespaceRead,
    NamespaceScope,
    NamespaceWrite,
)
from bucketline_ingest_api.pagination import list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery, Paging, errors

router = APIRouter(prefix="/v1/buckets", tags=["buckets"])

Force = Annotated[bool, Query(description="Change the schema even if stored objects may not fit it.")]
Foreclose = Annotated[bool, Query(description="Accepted without effect: running work of the bucket is always dropped.")]
Search = Annotated[str | None, Query(max_length=1000, description="Text in the id, the name or the description.")]


@router.post("", summary="Create a bucket", responses=errors(400, 409))
async def create_bucket(container: ContainerDep, scope: NamespaceWrite, body: CreateBucket) -> Bucket:
    """Choose a name that is unique in the namespace."""
    return await _respond(container, await service.create_bucket(container, scope.namespace_id, body))


@router.get("", summary="List buckets", responses=errors(400))
async def list_buckets(
    container: ContainerDep,
    scope: NamespaceRead,
    list_query: Paging,
    search: Search = None,  # noqa: ARG001 - read from the query string
) -> BucketList:
    """List the newest first."""
    return await _list(container, scope, list_query)


@router.post("/list", summary="List buckets, with filters", responses=errors(400))
async def search_buckets(
    container: ContainerDep, scope: NamespaceRead, list_query: Paging, body: ListBody | None = None
) -> BucketList:
    """List the newest first, unless the body sorts them."""
    return await _list(container, scope, list_query, body)


@router.get("/{bucket_identifier}", summary="Get a bucket", responses=errors(400))
async def get_bucket(container: ContainerDep, scope: NamespaceRead, bucket_identifier: str) -> Bucket:
    """Find the bucket by id or name."""
    return await _respond(container, await service.find_bucket(container, scope.namespace_id, bucket_identifier))


@router.patch("/{bucket_identifier}", summary="Change a bucket", responses=errors(400, 409))
@router.put("/{bucket_identifier}", summary="Update a bucket", responses=errors(400, 409), name="replace_bucket")
async def update_bucket(
    container: ContainerDep,
    scope: NamespaceWrite,
    bucket_identifier: str,
    body: UpdateBucket,
    force_schema_break: Force = False,
) -> Bucket:
    """Change only the fields that are sent."""
    bucket = await service.update_bucket(
        container, scope.namespace_id, bucket_identifier, body, force=force_schema_break
    )
    return await _respond(container, bucket)


@router.delete("/{bucket_identifier}", summary="Delete a bucket with everything in it", responses=errors(400))
async def delete_bucket(
    container: ContainerDep,
    scope: NamespaceDelete,
    bucket_identifier: str,
    force_foreclose: Foreclose = False,  # noqa: ARG001 - has no effect
) -> BucketDeletion:
    """Start a task that deletes the bucket. From the request on it takes no writes."""
    bucket = await service.find_bucket(container, scope.namespace_id, bucket_identifier)
    task = await deletion.delete_bucket(container, scope.caller.organization_id, bucket)
    stats = await container.bucket_counts.of(bucket)
    return BucketDeletion(
        task_id=task["_id"],
        status=task["status"],
        bucket_id=bucket["_id"],
        bucket_name=bucket["name"],
        object_count=stats["objects"],
    )


async def _respond(container: Container, bucket: BucketDocument) -> Bucket:
    return Bucket.of(bucket, await container.bucket_counts.of(bucket))


async def _list(
    container: Container, scope: NamespaceScope, list_query: ListQuery, body: ListBody | None = None
) -> BucketList:
    """Return a page of the namespace's buckets, including those that are being deleted."""
    where = {"namespace_id": scope.namespace_id}
    page = await list_rows(container.buckets, where, service.LIST_SPEC, list_query, body)
    stats = await container.bucket_counts.of_all(page.rows)
    rows = [Bucket.of(bucket, counts) for bucket, counts in zip(page.rows, stats, strict=True)]
    return BucketList.of(rows, page.total, page.pagination)
