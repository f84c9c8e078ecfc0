"""Uploads as the wire shows them."""

from bucketline.db.uploads import UploadDocument
from bucketline.domain.status import Status
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.uploads.create import Created
from bucketline_ingest_api.uploads.schemas import Confirmed, Upload

DOWNLOAD_SECONDS = 3600


def upload_answer(upload: UploadDocument, *, presigned_url: str | None = None, duplicate: bool = False) -> Upload:
    """``duplicate``: it answers a request for a new upload with the same content."""
    skipped = upload.get("existing_object_id") is not None
    message = "the same content was uploaded before: nothing has to be put" if duplicate else upload["message"]
    return Upload(
        upload_id=upload["_id"],
        bucket_id=upload["bucket_id"],
        filename=upload["filename"],
        content_type=upload["content_type"],
        presigned_url=presigned_url,
        presigned_url_expiration=upload["presigned_url_expiration"],
        s3_key=upload["key"],
        status=Status(upload["status"]),
        create_object_on_confirm=upload["create_object"],
        created_at=upload["created_at"],
        expires_at=upload["expires_at"],
        file_size_bytes=upload["size_bytes"],
        metadata=upload["metadata"],
        object_metadata=upload["object_metadata"],
        blob_property=upload["blob_property"],
        blob_type=upload["blob_type"],
        file_hash=upload.get("sha256") or upload["file_hash"],
        skip_duplicates=upload["skip_duplicates"],
        is_duplicate=duplicate,
        duplicate_of_upload_id=upload["_id"] if duplicate else None,
        skipped_unique_key=skipped,
        existing_object_id=upload.get("existing_object_id"),
        message=message,
        completed_at=upload.get("completed_at"),
        verified_at=upload.get("verified_at"),
        etag=upload.get("etag"),
        object_id=upload.get("object_id"),
        task_id=upload.get("task_id"),
        batch_id=upload.get("batch_id"),
    )


def created_answer(created: Created) -> Upload:
    return upload_answer(created.upload, presigned_url=created.presigned_url, duplicate=created.duplicate)


def confirmed_answer(upload: UploadDocument) -> Confirmed:
    """What a confirmation found."""
    done = upload["status"] == Status.COMPLETED
    return Confirmed(
        upload_id=upload["_id"],
        status=Status(upload["status"]),
        etag=upload.get("etag"),
        file_size_bytes=upload["size_bytes"],
        file_hash=upload.get("sha256") or upload["file_hash"],
        verified_at=upload.get("verified_at"),
        completed_at=upload.get("completed_at"),
        object_id=upload.get("object_id"),
        task_id=upload.get("task_id"),
        batch_id=upload.get("batch_id"),
        message="confirmed" if done else "the confirmation goes on in the background",
    )


async def download_url(deps: Container, upload: UploadDocument) -> str | None:
    """Where the bytes can be read for an hour; None before they are confirmed."""
    if upload["status"] != Status.COMPLETED:
        return None
    return await deps.blobstore.presign_get(upload["key"], expires=DOWNLOAD_SECONDS, filename=upload["filename"])
