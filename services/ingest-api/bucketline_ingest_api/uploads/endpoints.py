"""``/v1/buckets/{bucket_identifier}/uploads`` and ``/v1/uploads/{upload_id}/confirm``."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from bucketline.db.buckets import BucketDocument
from bucketline.db.uploads import UploadDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import BucketDelete, BucketRead, BucketWrite, ContainerDep, NamespaceWrite
from bucketline_ingest_api.schemas import Paging, errors
from bucketline_ingest_api.tasks.service import serialize_task
from bucketline_ingest_api.uploads.confirm import Confirmation, check, confirm, get_upload
from bucketline_ingest_api.uploads.confirm_jobs import confirm_later, confirm_many, in_background
from bucketline_ingest_api.uploads.create import create_upload, create_uploads
from bucketline_ingest_api.uploads.delete import delete_upload
from bucketline_ingest_api.uploads.listing import list_uploads, stats_of
from bucketline_ingest_api.uploads.schemas import (
    Confirmed,
    ConfirmingMany,
    ConfirmUpload,
    ConfirmUploads,
    CreateUpload,
    CreateUploads,
    ListUploads,
    Upload,
    UploadList,
    UploadsCreated,
)
from bucketline_ingest_api.uploads.serializers import confirmed_answer, created_answer, download_url, upload_answer

router = APIRouter(tags=["uploads"])

BUCKET = "/v1/buckets/{bucket_identifier}/uploads"

PolicyName = Annotated[
    str | None, Query(max_length=100, description="insert, update or upsert; for a bucket with a unique key.")
]
Asynchronous = Annotated[bool, Query(alias="async", description="Confirm in the background.")]
WithUrl = Annotated[bool, Query(description="Include a URL to download confirmed bytes.")]
DeleteBytes = Annotated[bool, Query(description="Also delete the bytes that have been PUT so far.")]
Confirming = Annotated[ConfirmUpload | None, Body()]


@router.post(BUCKET, summary="Create an upload", responses=errors(400))
async def create(deps: ContainerDep, scope: BucketWrite, body: CreateUpload) -> Upload:
    """A URL for one PUT straight to the store. Confirm it afterwards."""
    return created_answer(await create_upload(deps, scope.bucket, body))


@router.post(BUCKET + "/batch", summary="Create up to 100 uploads", responses=errors(400))
async def create_batch(deps: ContainerDep, scope: BucketWrite, body: CreateUploads) -> UploadsCreated:
    """All or nothing: one faulty entry refuses the whole request."""
    uploads = [created_answer(one) for one in await create_uploads(deps, scope.bucket, body)]
    return UploadsCreated(uploads=uploads, total=len(uploads))


@router.post(BUCKET + "/list", summary="List uploads", responses=errors(400))
async def listing(deps: ContainerDep, scope: BucketRead, asked: Paging, body: ListUploads | None = None) -> UploadList:
    """Newest first."""
    listed = await list_uploads(deps, scope.bucket_id, asked, body)
    wanted = body is not None and body.return_presigned_urls
    rows = [
        upload_answer(upload, presigned_url=await download_url(deps, upload) if wanted else None)
        for upload in listed.rows
    ]
    return UploadList(results=rows, pagination=listed.pagination, stats=stats_of(listed.rows))


@router.post(BUCKET + "/confirm/batch", summary="Confirm up to 100 uploads", responses=errors(400))
async def confirm_batch(
    deps: ContainerDep, scope: BucketWrite, body: ConfirmUploads, policy: PolicyName = None
) -> ConfirmingMany:
    """In the background; the task has a result for each."""
    task = await confirm_many(deps, scope.caller.organization_id, scope.bucket, body, policy)
    shown = serialize_task(task)
    return ConfirmingMany(
        task_id=shown.task_id,
        status=shown.status,
        confirmations_count=len(body.confirmations),
        task=shown,
        message="the uploads are confirmed in the background",
    )


@router.get(BUCKET + "/{upload_id}", summary="Get an upload", responses=errors(400))
async def get(deps: ContainerDep, scope: BucketRead, upload_id: str, return_presigned_urls: WithUrl = False) -> Upload:
    """The URL to PUT to is not shown again."""
    upload = await get_upload(deps, scope.namespace_id, upload_id, scope.bucket_id)
    return upload_answer(upload, presigned_url=await download_url(deps, upload) if return_presigned_urls else None)


@router.delete(BUCKET + "/{upload_id}", summary="Delete an upload", status_code=204, responses=errors(400))
async def delete(
    deps: ContainerDep, scope: BucketDelete, upload_id: str, delete_s3_object: DeleteBytes = True
) -> Response:
    """Refused once it is confirmed."""
    upload = await get_upload(deps, scope.namespace_id, upload_id, scope.bucket_id)
    await delete_upload(deps, upload, delete_bytes=delete_s3_object)
    return Response(status_code=204)


@router.post(BUCKET + "/{upload_id}/confirm", summary="Confirm an upload", responses=errors(400, 409))
async def confirm_one(
    deps: ContainerDep,
    scope: BucketWrite,
    upload_id: str,
    body: Confirming = None,
    asynchronous: Asynchronous = False,
    policy: PolicyName = None,
) -> Confirmed:
    """Once the announced bytes are found to be there the upload is COMPLETED and its object created."""
    upload = await get_upload(deps, scope.namespace_id, upload_id, scope.bucket_id)
    asked = Confirmation.of(body or ConfirmUpload(), policy)
    organization_id = scope.caller.organization_id
    return await _confirm(deps, organization_id, scope.bucket, upload, asked, asynchronous=asynchronous)


@router.post("/v1/uploads/{upload_id}/confirm", summary="Confirm an upload by its id", responses=errors(400, 409))
async def confirm_anywhere(
    deps: ContainerDep,
    scope: NamespaceWrite,
    upload_id: str,
    body: Confirming = None,
    asynchronous: Asynchronous = False,
    policy: PolicyName = None,
) -> Confirmed:
    upload = await get_upload(deps, scope.namespace_id, upload_id)
    bucket = await deps.bucket(scope.namespace_id, upload["bucket_id"])
    if bucket is None:
        raise NotFound.of("upload", upload_id)
    asked = Confirmation.of(body or ConfirmUpload(), policy)
    return await _confirm(deps, scope.caller.organization_id, bucket, upload, asked, asynchronous=asynchronous)


async def _confirm(
    deps: Container,
    organization_id: str,
    bucket: BucketDocument,
    upload: UploadDocument,
    asked: Confirmation,
    *,
    asynchronous: bool,
) -> Confirmed:
    head = await check(deps, bucket, upload, asked)
    if in_background(deps, head, asked=asynchronous) or upload["status"] == "PROCESSING":
        return confirmed_answer(await confirm_later(deps, organization_id, upload, asked))
    return confirmed_answer(await confirm(deps, bucket, upload, asked, head))
