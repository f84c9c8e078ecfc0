"""Confirms uploads: verifies the stored bytes, completes the upload, creates its object, and submits its batch.

Every step is idempotent: the object has an idempotency key and the batch an id that are derived from the upload's id.
So repeated and concurrent confirmations, and those after a crash, have the same result.
"""

import asyncio
from dataclasses import dataclass

from bucketline.blobs.store import ObjectInfo, ObjectMissing
from bucketline.db.buckets import BucketDocument
from bucketline.db.uploads import CONFIRMABLE, UploadDocument
from bucketline.domain.insertion_policy import Refuse, decide, resolve_policy
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BadRequest
from bucketline.ids import derived
from bucketline_ingest_api.batches.service import new_draft
from bucketline_ingest_api.batches.submission import submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.create import create_object
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.validation import ensure_writable, validate_create
from bucketline_ingest_api.uploads.schemas import ConfirmUpload
from bucketline_ingest_api.uploads.service import CONFIRM_GRACE, get_upload
from bucketline_ingest_api.uploads.validation import object_body


@dataclass(frozen=True)
class Confirmation:
    """What the client says about the bytes, and what to do after the upload is completed."""

    etag: str | None = None
    size: int | None = None
    auto_submit: bool = False
    policy: str | None = None

    @classmethod
    def of(cls, body: ConfirmUpload, policy: str | None) -> "Confirmation":
        """Build the confirmation of a request; quotes and the mark of a weak etag are ignored."""
        etag = body.etag.strip().removeprefix("W/").strip('"').lower() if body.etag is not None else None
        return cls(etag, body.file_size_bytes, body.auto_submit_batch, policy)


async def check_upload(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, confirmation: Confirmation
) -> ObjectInfo | None:
    """Verify that the upload can be confirmed; return its stored bytes, or None if it is confirmed already.

    Changes nothing. Raises 400 for missing or different bytes and for an upload that has ended, 422 without a policy
    where one is needed, and by policy 404 and 409 as far as that is known yet.
    """
    ensure_writable(bucket)
    require_policy(bucket, upload, confirmation.policy)
    if upload["status"] == Status.COMPLETED:
        return None
    if upload["status"] not in CONFIRMABLE:
        raise _refuse(upload, f"the upload is {upload['status']}: {upload['message'] or 'it cannot be confirmed'}")
    if upload["status"] == Status.PENDING and deps.clock.now() > upload["expires_at"] + CONFIRM_GRACE:
        raise _refuse(upload, "the upload was not confirmed before it expired")
    try:
        stored = await deps.blobstore.head(upload["key"])
    except ObjectMissing:
        raise _refuse(upload, "there are no bytes yet: PUT them to the presigned URL", code="upload_missing") from None
    if confirmation.etag is not None and confirmation.etag != stored.etag:
        raise _refuse(upload, "the etag is not that of the stored bytes", code="etag_mismatch", stored=stored.etag)
    for size in (confirmation.size, upload["size_bytes"]):
        if size is not None and size != stored.size:
            raise _refuse(upload, "the size is not that of the stored bytes", code="size_mismatch", stored=stored.size)
    await _check_unique_key(deps, bucket, upload, confirmation)
    return stored


async def confirm_upload(
    deps: Container,
    bucket: BucketDocument,
    upload: UploadDocument,
    confirmation: Confirmation,
    stored: ObjectInfo | None,
) -> UploadDocument:
    """Confirm an upload that :func:`check_upload` has accepted, and return it."""
    if stored is not None:
        upload = await _complete(deps, upload, stored)
    if upload["create_object"] and "object_id" not in upload:
        upload = await _create_object(deps, bucket, upload, confirmation)
    if confirmation.auto_submit and "object_id" in upload and "batch_id" not in upload:
        upload = await _submit_batch(deps, bucket, upload)
    return upload


def require_policy(bucket: BucketDocument, upload: UploadDocument, policy: str | None) -> None:
    """Raise 422 if the upload's object needs a policy and none is named."""
    key = bucket["unique_key"]
    if key is not None and upload["create_object"]:
        resolve_policy(policy, key["default_policy"], bucket_id=bucket["_id"], missing=422)


async def _complete(deps: Container, upload: UploadDocument, stored: ObjectInfo) -> UploadDocument:
    now = deps.clock.now()
    changes = {
        "status": str(Status.COMPLETED),
        "message": None,
        "size_bytes": stored.size,
        "etag": stored.etag,
        # The URL was signed for the announced hash: the store has accepted no other bytes.
        "sha256": stored.sha256 or upload["file_hash"],
        "verified_at": now,
        "completed_at": now,
    }
    completed = await deps.uploads.change(upload["_id"], CONFIRMABLE, changes, settled=True)
    if completed is not None:
        return completed
    current = await get_upload(deps, upload["namespace_id"], upload["_id"])
    if current["status"] != Status.COMPLETED:
        raise _refuse(current, f"the upload is {current['status']}")
    return current


async def _create_object(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, confirmation: Confirmation
) -> UploadDocument:
    try:
        written = await create_object(deps, bucket, _object_body(upload), policy=confirmation.policy)
    except ApiError as error:
        error.details = {**(error.details or {}), "upload_id": upload["_id"]}
        raise
    changes = {"object_id": written.document["_id"]}
    return await deps.uploads.change(upload["_id"], [str(Status.COMPLETED)], changes) or upload


async def _submit_batch(deps: Container, bucket: BucketDocument, upload: UploadDocument) -> UploadDocument:
    """Submit a batch of the upload's object. If it is refused, everything so far stays and the error names it."""
    batch_id = derived("btch", upload["_id"])
    draft = new_draft(
        bucket["namespace_id"], bucket["_id"], [upload["object_id"]], batch_id=batch_id, now=deps.clock.now()
    )
    await deps.batches.insert([draft])
    try:
        batch = await deps.batches.get(batch_id) or draft
        if batch["status"] == Status.DRAFT:
            batch = await submit_batch(deps, batch)
    except ApiError as error:
        created = {"upload_id": upload["_id"], "object_id": upload["object_id"], "batch_id": batch_id}
        error.details = {**(error.details or {}), **created}
        raise
    changes = {"batch_id": batch_id, "task_id": batch["task_id"]}
    return await deps.uploads.change(upload["_id"], [str(Status.COMPLETED)], changes) or upload


async def _check_unique_key(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, confirmation: Confirmation
) -> None:
    """Raise 404 or 409 by policy before anything is written; the unique index decides between concurrent writes."""
    key = bucket["unique_key"]
    if key is None or not upload["create_object"]:
        return
    policy = resolve_policy(confirmation.policy, key["default_policy"], bucket_id=bucket["_id"], missing=422)
    draft = await asyncio.to_thread(validate_create, bucket, _object_body(upload), deps.settings, deps.ids)
    if draft.unique_key is None:
        return
    existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
    if existing is not None and draft.idempotency_key in existing.get("idempotency_keys", []):
        return
    decision = decide(policy, existing["_id"] if existing else None, draft.unique_key.values)
    if isinstance(decision, Refuse):
        raise decision.error


def _object_body(upload: UploadDocument) -> CreateObject:
    return object_body(
        upload["blob_property"], upload["_id"], upload["object_metadata"], idempotency_key=f"upload:{upload['_id']}"
    )


def _refuse(
    upload: UploadDocument, message: str, *, code: str = "upload_not_confirmable", stored: str | int | None = None
) -> BadRequest:
    details: dict[str, str | int] = {"upload_id": upload["_id"], "status": upload["status"]}
    if stored is not None:
        details["stored"] = stored
    return BadRequest(message, code=code, details=details)
