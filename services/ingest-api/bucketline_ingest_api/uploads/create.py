"""New uploads: a record, and a URL that takes the bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bucketline.db.buckets import BucketDocument
from bucketline.db.uploads import UploadDocument
from bucketline.domain.status import Status
from bucketline.errors import ValidationFailed
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.validation import ensure_writable
from bucketline_ingest_api.uploads.schemas import CreateUpload, CreateUploads
from bucketline_ingest_api.uploads.validation import UploadDraft, read_upload

PREFIX = "uploads"
GRACE = timedelta(minutes=5)
"""How long after the URL expired a confirmation is still taken: a PUT that began in time may take a while."""


@dataclass(frozen=True)
class Created:
    """An upload with the URL to put its bytes to; without one when they are not wanted.

    ``duplicate``: the upload is an earlier one with the same content, and nothing new was made.
    """

    upload: UploadDocument
    presigned_url: str | None
    duplicate: bool = False


async def create_upload(deps: Container, bucket: BucketDocument, body: CreateUpload) -> Created:
    """Raises the contract's 422 with one row a fault."""
    ensure_writable(bucket)
    [created] = await _create(deps, bucket, [read_upload(bucket, body, deps.settings, deps.ids)])
    return created


async def create_uploads(deps: Container, bucket: BucketDocument, body: CreateUploads) -> list[Created]:
    """All of them, or none when one is faulty."""
    ensure_writable(bucket)
    drafts, faults = [], []
    for place, one in enumerate(body.uploads):
        try:
            drafts.append(
                read_upload(
                    bucket,
                    one,
                    deps.settings,
                    deps.ids,
                    shared=body.shared_metadata,
                    shared_object=body.shared_object_metadata,
                    location=("body", "uploads", place),
                )
            )
        except ValidationFailed as error:
            faults += error.issues
    if faults:
        raise ValidationFailed(faults[:100])
    return await _create(deps, bucket, drafts)


async def _create(deps: Container, bucket: BucketDocument, drafts: Sequence[UploadDraft]) -> list[Created]:
    wanted = [d.body.file_hash for d in drafts if d.body.file_hash is not None and d.body.skip_duplicates]
    known = await deps.uploads.confirmed(bucket["_id"], wanted) if wanted else {}
    now = deps.clock.now()
    created: list[Created] = []
    for draft in drafts:
        earlier = known.get(draft.body.file_hash or "") if draft.body.skip_duplicates else None
        if earlier is not None:
            created.append(Created(earlier, None, duplicate=True))
            continue
        upload = _record(deps, bucket, draft, now)
        existing = await _holder(deps, bucket, draft)
        if existing is not None:
            upload["existing_object_id"] = existing
            upload["message"] = "an object with this unique key exists"
        created.append(Created(upload, None if existing else await _url(deps, upload)))
    await deps.uploads.insert([one.upload for one in created if not one.duplicate])
    return created


async def _holder(deps: Container, bucket: BucketDocument, draft: UploadDraft) -> str | None:
    """The object that keeps the upload's object from being inserted."""
    key = bucket["unique_key"]
    if key is None or key["default_policy"] != "insert" or draft.unique_key is None:
        return None
    existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
    return existing["_id"] if existing is not None else None


async def _url(deps: Container, upload: UploadDocument) -> str:
    return await deps.blobstore.presign_put(
        upload["key"],
        expires=upload["presigned_url_expiration"],
        content_type=upload["content_type"],
        size=upload["size_bytes"],
        sha256=upload["file_hash"],
    )


def _record(deps: Container, bucket: BucketDocument, draft: UploadDraft, now: datetime) -> UploadDocument:
    body, upload_id = draft.body, deps.ids.new("upl")
    expires_at = now + timedelta(seconds=body.presigned_url_expiration)
    return {
        "_id": upload_id,
        "namespace_id": bucket["namespace_id"],
        "bucket_id": bucket["_id"],
        "key": f"{PREFIX}/{bucket['namespace_id']}/{upload_id}",
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
        "due_at": expires_at + GRACE,
    }
