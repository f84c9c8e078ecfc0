"""Lists of uploads, with statistics of the page."""

from collections import Counter
from collections.abc import Sequence

from bucketline.db.uploads import UploadDocument
from bucketline.domain.filters import DATE_FIELDS
from bucketline.domain.pagination import UPLOADS
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery
from bucketline_ingest_api.uploads.schemas import UploadStats

KIND = ListSpec(
    bounds=UPLOADS,
    field_path=field_mapper(
        {
            "upload_id": "_id",
            "bucket_id": "bucket_id",
            "filename": "filename",
            "content_type": "content_type",
            "file_size_bytes": "size_bytes",
            "status": "status",
            "metadata": "metadata",
            "object_metadata": "object_metadata",
            "create_object_on_confirm": "create_object",
            "blob_property": "blob_property",
            "blob_type": "blob_type",
            "file_hash": "file_hash",
            "object_id": "object_id",
            "batch_id": "batch_id",
            "task_id": "task_id",
            "etag": "etag",
            "created_at": "created_at",
            "expires_at": "expires_at",
            "completed_at": "completed_at",
            "verified_at": "verified_at",
        },
        under="unknown",
    ),
    searched=("_id", "filename", "content_type"),
    counted=False,
    dates=DATE_FIELDS | {"expires_at", "completed_at", "verified_at"},
    exact=frozenset({"upload_id", "bucket_id", "status", "object_id", "batch_id", "task_id"}),
)


async def list_uploads(
    deps: Container, bucket_id: str, asked: ListQuery, body: ListBody | None
) -> Page[UploadDocument]:
    """Uploads of the bucket, newest first."""
    return await list_rows(deps.uploads, {"bucket_id": bucket_id}, KIND, asked, body)


def stats_of(uploads: Sequence[UploadDocument]) -> UploadStats:
    """Of one page. Uploads whose size is not known yet count as empty."""
    sizes = [upload["size_bytes"] or 0 for upload in uploads]
    return UploadStats(
        total_uploads=len(uploads),
        total_size_bytes=sum(sizes),
        uploads_by_status=dict(Counter(upload["status"] for upload in uploads)),
        avg_file_size_bytes=sum(sizes) / len(sizes) if sizes else 0.0,
        unique_buckets=len({upload["bucket_id"] for upload in uploads}),
    )
