"""Uploads: presigned PUT URLs for clients. Create, read, list and delete; :mod:`.confirm` completes them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bucketline.db.buckets import BucketDocument
from bucketline.db.uploads import UploadDocument
from bucketline.domain.filters import DATE_FIELDS
from bucketline.domain.pagination import UPLOADS
from bucketline.domain.status import Status
from bucketline.errors import BadRequest, NotFound, ValidationFailed
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.validation import ensure_writable
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery
from bucketline_ingest_api.uploads.schemas import CreateUpload, CreateUploads, UploadStats
from bucketline_ingest_api.uploads.validation import MAX_FAULTS, UploadDraft, validate_upload

KEY_PREFIX = "uploads"
CONFIRM_GRACE = timedelta(minutes=5)
"""How long after its URL expired an upload can be confirmed: a PUT that began in time may take a while."""
DOWNLOAD_URL_SECONDS = 3600

UNDELETABLE_STATUSES = (str(Status.COMPLETED), str(Status.PROCESSING))

LIST_SPEC = ListSpec(
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


@dataclass(frozen=True)
class CreatedUpload:
    """An upload with the URL to PUT its bytes to; without a URL if the bytes are not needed.

    ``duplicate``: it is an earlier upload of the same content, and no new one was created.
    """

    upload: UploadDocument
    presigned_url: str | None
    duplicate: bool = False


async def create_upload(deps: Container, bucket: BucketDocument, body: CreateUpload) -> CreatedUpload:
    """Create one upload; 422 with one row per fault."""
    ensure_writable(bucket)
    [created] = await _create(deps, bucket, [validate_upload(bucket, body, deps.settings, deps.ids)])
    return created


async def create_uploads(deps: Container, bucket: BucketDocument, body: CreateUploads) -> list[CreatedUpload]:
    """Create all uploads, or none if one of them is invalid."""
    ensure_writable(bucket)
    drafts, faults = [], []
    for index, entry in enumerate(body.uploads):
        try:
            draft = validate_upload(
                bucket,
                entry,
                deps.settings,
                deps.ids,
                shared=body.shared_metadata,
                shared_object=body.shared_object_metadata,
                location=("body", "uploads", index),
            )
        except ValidationFailed as error:
            faults += error.issues
        else:
            drafts.append(draft)
    if faults:
        raise ValidationFailed(faults[:MAX_FAULTS])
    return await _create(deps, bucket, drafts)


async def _create(deps: Container, bucket: BucketDocument, drafts: Sequence[UploadDraft]) -> list[CreatedUpload]:
    hashes = [d.body.file_hash for d in drafts if d.body.file_hash is not None and d.body.skip_duplicates]
    confirmed = await deps.uploads.confirmed(bucket["_id"], hashes) if hashes else {}
    now = deps.clock.now()
    created: list[CreatedUpload] = []
    for draft in drafts:
        duplicate = confirmed.get(draft.body.file_hash or "") if draft.body.skip_duplicates else None
        if duplicate is not None:
            created.append(CreatedUpload(duplicate, None, duplicate=True))
            continue
        upload = _new_upload(deps, bucket, draft, now)
        existing = await _find_key_holder(deps, bucket, draft)
        if existing is not None:
            upload["existing_object_id"] = existing
            upload["message"] = "an object with this unique key exists"
        created.append(CreatedUpload(upload, None if existing else await _presign_put(deps, upload)))
    await deps.uploads.insert([item.upload for item in created if not item.duplicate])
    return created


async def _find_key_holder(deps: Container, bucket: BucketDocument, draft: UploadDraft) -> str | None:
    """Return the id of the object that already has the unique key, where the policy only inserts."""
    key = bucket["unique_key"]
    if key is None or key["default_policy"] != "insert" or draft.unique_key is None:
        return None
    existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
    return existing["_id"] if existing is not None else None


async def _presign_put(deps: Container, upload: UploadDocument) -> str:
    return await deps.blobstore.presign_put(
        upload["key"],
        expires=upload["presigned_url_expiration"],
        content_type=upload["content_type"],
        size=upload["size_bytes"],
        sha256=upload["file_hash"],
    )


def _new_upload(deps: Container, bucket: BucketDocument, draft: UploadDraft, now: datetime) -> UploadDocument:
    body, upload_id = draft.body, deps.ids.new("upl")
    expires_at = now + timedelta(seconds=body.presigned_url_expiration)
    return {
        "_id": upload_id,
        "namespace_id": bucket["namespace_id"],
        "bucket_id": bucket["_id"],
        "key": f"{KEY_PREFIX}/{bucket['namespace_id']}/{upload_id}",
        "filename": body.filename,
        "content_type": body.content_type,
        "size_bytes": body.file_size_bytes,
        "presigned_url_expiration": body.presigned_url_expiration,
        "metadata": draft.metadata,
        "create_object": body.create_object_on_confirm,
        "object_metadata": draft.object_metadata,
        "blob_property": draft.blob_property,
        "blob_type": draft.blob_type,
        "file_hash": body.file_hash,
        "skip_duplicates": body.skip_duplicates,
        "status": str(Status.PENDING),
        "message": None,
        "created_at": now,
        "expires_at": expires_at,
        "due_at": expires_at + CONFIRM_GRACE,
    }


async def get_upload(
    deps: Container, namespace_id: str, upload_id: str, bucket_id: str | None = None
) -> UploadDocument:
    """Return the upload; :class:`NotFound` also for one of another namespace or bucket."""
    upload = await deps.uploads.get(namespace_id, upload_id, bucket_id)
    if upload is None:
        raise NotFound.of("upload", upload_id)
    return upload


async def presign_download(deps: Container, upload: UploadDocument) -> str | None:
    """Return a URL to download the bytes, valid for an hour; None before they are confirmed."""
    if upload["status"] != Status.COMPLETED:
        return None
    return await deps.blobstore.presign_get(upload["key"], expires=DOWNLOAD_URL_SECONDS, filename=upload["filename"])


async def list_uploads(
    deps: Container, bucket_id: str, query: ListQuery, body: ListBody | None
) -> Page[UploadDocument]:
    """Return a page of the bucket's uploads, newest first."""
    return await list_rows(deps.uploads, {"bucket_id": bucket_id}, LIST_SPEC, query, body)


def page_stats(uploads: Sequence[UploadDocument]) -> UploadStats:
    """Return the statistics of one page. Uploads of unknown size count as empty."""
    sizes = [upload["size_bytes"] or 0 for upload in uploads]
    return UploadStats(
        total_uploads=len(uploads),
        total_size_bytes=sum(sizes),
        uploads_by_status=dict(Counter(upload["status"] for upload in uploads)),
        avg_file_size_bytes=sum(sizes) / len(sizes) if sizes else 0.0,
        unique_buckets=len({upload["bucket_id"] for upload in uploads}),
    )


async def delete_upload(deps: Container, upload: UploadDocument, *, delete_bytes: bool) -> None:
    """Delete an unconfirmed upload, and its bytes at once or after its URL has expired.

    Its key is kept until then, because the URL accepts bytes for that long. 400 for a confirmed upload: objects may
    refer to it.
    """
    if not await deps.uploads.bury([upload], grace=CONFIRM_GRACE, but=UNDELETABLE_STATUSES):
        current = await deps.uploads.get_by_id(upload["_id"], fields=["status"])
        if current is not None:
            raise BadRequest(
                f"the upload is {current['status']} and cannot be deleted",
                code="upload_not_deletable",
                details={"upload_id": upload["_id"], "status": current["status"]},
            )
    if delete_bytes:
        await deps.blobstore.delete([upload["key"]])


async def delete_bucket_uploads(deps: Container, uploads: Sequence[UploadDocument]) -> None:
    """Delete uploads of any status with their bytes, because their bucket is deleted."""
    await deps.blobstore.delete([upload["key"] for upload in uploads])
    expired_before = deps.clock.now() - CONFIRM_GRACE
    expired = [upload["_id"] for upload in uploads if upload["expires_at"] < expired_before]
    await deps.uploads.delete_by_ids(expired)
    await deps.uploads.bury(
        [upload for upload in uploads if upload["expires_at"] >= expired_before], grace=CONFIRM_GRACE
    )
