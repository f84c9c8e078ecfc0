"""``/v1/buckets/{bucket_identifier}/uploads`` and ``/v1/uploads/{upload_id}/confirm``."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from bucketline.db.buckets import BucketDocument
from bucketline.db.uploads import UploadDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.dependencies import (
    BucketDelete,
    BucketRead,
    BucketWrite,
    ContainerDep,
    NamespaceScope,
    NamespaceWrite,
)
from bucketline_ingest_api.schemas import Paging, errors
from bucketline_ingest_api.tasks.service import serialize_task
from bucketline_ingest_api.uploads import confirmation, service
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

router = APIRouter(tags=["uploads"])

BUCKET = "/v1/buckets/{bucket_identifier}/uploads"

PolicyName = Annotated[
    str | None, Query(max_length=100, description="insert, update or upsert; for a bucket with a unique key.")
]
Asynchronous = Annotated[bool, Query(alias="async", description="Confirm in the background.")]
DownloadUrls = Annotated[bool, Query(description="Include a URL to download confirmed bytes.")]
DeleteBytes = Annotated[bool, Query(description="Also delete the bytes that have been PUT so far.")]
OptionalBody = Annotated[ConfirmUpload | None, Body()]


@router.post(BUCKET, summary="Create an upload", responses=errors())
async def create_upload(deps: ContainerDep, scope: BucketWrite, body: CreateUpload) -> Upload:
    """Return a URL for one PUT of the bytes straight to the store. Confirm the upload afterwards."""
    return await service.create_upload(deps, scope.bucket, body)


@router.post(BUCKET + "/batch", summary="Create up to 100 uploads", responses=errors())
async def create_uploads(deps: ContainerDep, scope: BucketWrite, body: CreateUploads) -> UploadsCreated:
    """Create all uploads, or none: one invalid entry refuses the whole request."""
    uploads = await service.create_uploads(deps, scope.bucket, body)
    return UploadsCreated(uploads=uploads, total=len(uploads))


@router.post(BUCKET + "/list", summary="List uploads", responses=errors())
async def list_uploads(
    deps: ContainerDep, scope: BucketRead, query: Paging, body: ListUploads | None = None
) -> UploadList:
    """Return the uploads of the bucket, newest first."""
    page = await service.list_uploads(deps, scope.bucket_id, query, body)
    presign = body is not None and body.return_presigned_urls
    rows = [
        Upload.of(upload, presigned_url=await service.presign_download(deps, upload) if presign else None)
        for upload in page.rows
    ]
    return UploadList(results=rows, pagination=page.pagination, stats=service.page_stats(page.rows))


@router.post(BUCKET + "/confirm/batch", summary="Confirm up to 100 uploads", responses=errors())
async def confirm_uploads(
    deps: ContainerDep, scope: BucketWrite, body: ConfirmUploads, policy: PolicyName = None
) -> ConfirmingMany:
    """Confirm uploads in the background; the task has a result for each of them."""
    task = await confirmation.schedule_confirmations(deps, scope.caller.organization_id, scope.bucket, body, policy)
    serialized = serialize_task(task)
    return ConfirmingMany(
        task_id=serialized.task_id,
        status=serialized.status,
        confirmations_count=len(body.confirmations),
        task=serialized,
        message="the uploads are confirmed in the background",
    )


@router.get(BUCKET + "/{upload_id}", summary="Get an upload", responses=errors())
async def get_upload(
    deps: ContainerDep, scope: BucketRead, upload_id: str, return_presigned_urls: DownloadUrls = False
) -> Upload:
    """Return the upload. The URL to PUT to is not returned again."""
    upload = await service.get_upload(deps, scope.namespace_id, upload_id, scope.bucket_id)
    url = await service.presign_download(deps, upload) if return_presigned_urls else None
    return Upload.of(upload, presigned_url=url)


@router.delete(
    BUCKET + "/{upload_id}", summary="Delete an upload", status_code=204, response_class=Response, responses=errors()
)
async def delete_upload(
    deps: ContainerDep, scope: BucketDelete, upload_id: str, delete_s3_object: DeleteBytes = True
) -> None:
    """Delete an upload that is not confirmed yet."""
    upload = await service.get_upload(deps, scope.namespace_id, upload_id, scope.bucket_id)
    await service.delete_upload(deps, upload, delete_bytes=delete_s3_object)


@router.post(BUCKET + "/{upload_id}/confirm", summary="Confirm an upload", responses=errors(409))
async def confirm_upload(
    deps: ContainerDep,
    scope: BucketWrite,
    upload_id: str,
    body: OptionalBody = None,
    asynchronous: Asynchronous = False,
    policy: PolicyName = None,
) -> Confirmed:
    """Verify the stored bytes, complete the upload and create its object."""
    upload = await service.get_upload(deps, scope.namespace_id, upload_id, scope.bucket_id)
    return await _confirm(deps, scope, scope.bucket, upload, body, policy, asynchronous=asynchronous)


@router.post("/v1/uploads/{upload_id}/confirm", summary="Confirm an upload by its id", responses=errors(409))
async def confirm_upload_by_id(
    deps: ContainerDep,
    scope: NamespaceWrite,
    upload_id: str,
    body: OptionalBody = None,
    asynchronous: Asynchronous = False,
    policy: PolicyName = None,
) -> Confirmed:
    """Confirm an upload of any bucket of the namespace."""
    upload = await service.get_upload(deps, scope.namespace_id, upload_id)
    bucket = await deps.bucket(scope.namespace_id, upload["bucket_id"])
    if bucket is None:
        raise NotFound.of("upload", upload_id)
    return await _confirm(deps, scope, bucket, upload, body, policy, asynchronous=asynchronous)


async def _confirm(
    deps: Container,
    scope: NamespaceScope,
    bucket: BucketDocument,
    upload: UploadDocument,
    body: ConfirmUpload | None,
    policy: str | None,
    *,
    asynchronous: bool,
) -> Confirmed:
    upload = await confirmation.confirm_upload(
        deps, scope.caller.organization_id, bucket, upload, body or ConfirmUpload(), policy, in_background=asynchronous
    )
    return Confirmed.of(upload)
