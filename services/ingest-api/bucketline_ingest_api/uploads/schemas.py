"""Request and response bodies of the upload routes."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue

from bucketline.db.uploads import UploadDocument
from bucketline.domain.status import Status
from bucketline_ingest_api.schemas import ListBody, Pagination, RequestBody, ResponseBody, Timestamp, example
from bucketline_ingest_api.tasks.schemas import Task

DUPLICATE = "the same content is already uploaded: no PUT is needed"
PROPERTY = re.compile(r"[A-Za-z0-9_]{1,100}")
MAX_BYTES = 5 * 1024**4
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:\s*;[ -~]*)?")

_UPLOAD = {
    "upload_id": "upl_06h2v9k1m3q5s7t9v1x3",
    "bucket_id": "bkt_06h2k4v9c3f8m1q7r5tw",
    "filename": "a-17.pdf",
    "content_type": "application/pdf",
    "presigned_url": "https://s3.example.com/bucketline/uploads/ns_1/upl_1?X-Amz-Signature=5f2c",
    "presigned_url_expiration": 900,
    "s3_key": "uploads/ns_06h2k4v9c3f8m1q7r5tv/upl_06h2v9k1m3q5s7t9v1x3",
    "status": "PENDING",
    "create_object_on_confirm": True,
    "created_at": "2026-03-01T09:00:00.000Z",
    "expires_at": "2026-03-01T09:15:00.000Z",
    "file_size_bytes": 16384,
    "metadata": {"source": "scanner-2"},
    "object_metadata": {"sku": "A-17"},
    "blob_property": "invoice",
    "blob_type": "pdf",
}


def _validate_filename(value: str) -> str:
    if "../" in value or "\\" in value or not value.isprintable():
        raise ValueError("a file name has no ../, no backslash and no control characters")
    return value


def _validate_media_type(value: str) -> str:
    if not _MEDIA_TYPE.fullmatch(value):
        raise ValueError("a media type such as application/pdf is expected")
    return value


def _normalize_etag(value: str) -> str:
    """Remove quotes and the mark of a weak etag."""
    return value.strip().removeprefix("W/").strip('"').lower()


Metadata = dict[str, JsonValue]


class CreateUpload(RequestBody):
    """A file to upload. With ``create_object_on_confirm`` the bucket's schema must accept the object."""

    model_config = example(
        {
            "filename": "a-17.pdf",
            "content_type": "application/pdf",
            "file_size_bytes": 16384,
            "presigned_url_expiration": 900,
            "metadata": {"source": "scanner-2"},
            "object_metadata": {"sku": "A-17"},
            "blob_property": "invoice",
        }
    )

    filename: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_validate_filename)]
    content_type: Annotated[str, Field(min_length=3, max_length=255), AfterValidator(_validate_media_type)]
    file_size_bytes: int | None = Field(default=None, ge=1, le=MAX_BYTES, strict=True)
    presigned_url_expiration: int = Field(default=3600, ge=60, le=86_400, strict=True)
    metadata: Metadata | None = Field(default=None, description="Kept with the upload only.")
    create_object_on_confirm: bool = True
    object_metadata: Metadata | None = Field(default=None, description="Root fields of the new object.")
    blob_property: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]{1,100}$")
    blob_type: str | None = Field(default=None, max_length=100)
    file_hash: str | None = Field(
        default=None, pattern=r"^[a-f0-9]{64}$", description="SHA-256; the store then accepts only these bytes."
    )
    skip_duplicates: bool = True


class CreateUploads(RequestBody):
    """Several files to upload. The fields of an upload override the shared ones."""

    model_config = example(
        {
            "uploads": [{"filename": "a.pdf", "content_type": "application/pdf"}],
            "shared_metadata": {"run": "r1"},
            "shared_object_metadata": {"state": "open"},
        }
    )

    uploads: list[CreateUpload] = Field(min_length=1, max_length=100)
    shared_metadata: Metadata | None = None
    shared_object_metadata: Metadata | None = None


class ConfirmUpload(RequestBody):
    """What the client knows about the stored bytes. The body and all its fields are optional."""

    model_config = example({"etag": '"0a7d6da6ded06b0ef2e5a70776b4a306"', "file_size_bytes": 16384})

    etag: Annotated[str, Field(max_length=200), AfterValidator(_normalize_etag)] | None = Field(
        default=None, description="The ETag of the response to the PUT, with or without quotes."
    )
    file_size_bytes: int | None = Field(default=None, ge=1, le=MAX_BYTES, strict=True)
    auto_submit_batch: bool = Field(default=False, description="Create a batch of the new object and submit it.")


class ConfirmUploadById(ConfirmUpload):
    """One of several uploads to confirm."""

    model_config = example({"upload_id": "upl_06h2v9k1m3q5s7t9v1x3", "file_size_bytes": 16384})

    upload_id: str = Field(min_length=1, max_length=100)


class ConfirmUploads(RequestBody):
    """Uploads to confirm in the background."""

    model_config = example({"confirmations": [{"upload_id": "upl_06h2v9k1m3q5s7t9v1x3"}]})

    confirmations: list[ConfirmUploadById] = Field(min_length=1, max_length=100)


class ListUploads(ListBody):
    """The body of a list of uploads."""

    limit: int | None = Field(default=None, ge=1, le=100)
    page_size: int | None = Field(default=None, ge=1, le=100)
    return_presigned_urls: bool = Field(default=False, description="Include a download URL of each confirmed upload.")


class Upload(ResponseBody):
    """``presigned_url`` is the URL to PUT the bytes to, returned once; later, on request, the URL to download them."""

    model_config = example(_UPLOAD)

    upload_id: str
    bucket_id: str
    filename: str
    content_type: str
    presigned_url: str | None = Field(default=None, max_length=2083)
    presigned_url_expiration: int
    s3_key: str
    status: Status
    create_object_on_confirm: bool
    created_at: Timestamp
    expires_at: Timestamp
    file_size_bytes: int | None = None
    metadata: dict[str, Any] | None = None
    object_metadata: dict[str, Any] | None = None
    blob_property: str | None = None
    blob_type: str | None = None
    file_hash: str | None = None
    skip_duplicates: bool = True
    is_duplicate: bool = False
    duplicate_of_upload_id: str | None = None
    skipped_unique_key: bool = False
    existing_object_id: str | None = None
    message: str | None = None
    completed_at: Timestamp | None = None
    verified_at: Timestamp | None = None
    etag: str | None = None
    object_id: str | None = None
    task_id: str | None = None
    batch_id: str | None = None

    @classmethod
    def of(cls, upload: UploadDocument, *, presigned_url: str | None = None, duplicate: bool = False) -> "Upload":
        """Build the response of an upload; ``duplicate`` if it answers a new upload of the same content."""
        existing = upload.get("existing_object_id")
        return cls.model_validate(
            _wire_fields(upload)
            | {"presigned_url": presigned_url, "is_duplicate": duplicate, "skipped_unique_key": existing is not None}
            | ({"duplicate_of_upload_id": upload["_id"], "message": DUPLICATE} if duplicate else {})
        )


def _wire_fields(upload: UploadDocument) -> dict[str, Any]:
    """Return the stored fields by their names on the wire."""
    return {
        **upload,
        "upload_id": upload["_id"],
        "s3_key": upload["key"],
        "create_object_on_confirm": upload["create_object"],
        "file_size_bytes": upload["size_bytes"],
        "file_hash": upload.get("sha256") or upload["file_hash"],
    }


class UploadsCreated(ResponseBody):
    """The new uploads, in the order of the request."""

    uploads: list[Upload]
    total: int


class Confirmed(ResponseBody):
    """The confirmed upload. PROCESSING with a ``task_id``: it is confirmed in the background."""

    model_config = example(
        {
            "upload_id": "upl_06h2v9k1m3q5s7t9v1x3",
            "status": "COMPLETED",
            "etag": "0a7d6da6ded06b0ef2e5a70776b4a306",
            "file_size_bytes": 16384,
            "verified_at": "2026-03-01T09:00:05.250Z",
            "completed_at": "2026-03-01T09:00:05.250Z",
            "object_id": "obj_06h2k4v9c3f8m1q7r5tx",
            "message": "confirmed",
        }
    )

    upload_id: str
    status: Status
    etag: str | None = None
    file_size_bytes: int | None = None
    file_hash: str | None = None
    verified_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    object_id: str | None = None
    task_id: str | None = None
    batch_id: str | None = None
    message: str | None = None

    @classmethod
    def of(cls, upload: UploadDocument) -> "Confirmed":
        """Build the response to a confirmation."""
        completed = upload["status"] == Status.COMPLETED
        message = "confirmed" if completed else "the confirmation continues in the background"
        return cls.model_validate({**_wire_fields(upload), "message": message})


class ConfirmingMany(ResponseBody):
    """The task that confirms the uploads in the background."""

    task_id: str
    status: Status
    confirmations_count: int
    task: Task
    message: str


class UploadStats(ResponseBody):
    """Counts for this page."""

    total_uploads: int
    total_size_bytes: int
    uploads_by_status: dict[str, int]
    avg_file_size_bytes: float
    unique_buckets: int


class UploadList(ResponseBody):
    """A page of uploads."""

    results: list[Upload]
    pagination: Pagination
    stats: UploadStats
