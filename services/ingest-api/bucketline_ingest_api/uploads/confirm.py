"""Confirming: the bytes are looked at, the upload is COMPLETED, and its object is made.

Every step may be done again. The object is made under an idempotency key that is the upload's own, the batch has an id
that is derived from it: whoever confirms twice, or at the same time, or after a crash, gets the same result.
"""

import asyncio
from dataclasses import dataclass

from bucketline.blobs.store import ObjectInfo, ObjectMissing
from bucketline.db.buckets import BucketDocument
from bucketline.db.uploads import CONFIRMABLE, UploadDocument
from bucketline.domain.insertion_policy import Refuse, decide, resolve_policy
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BadRequest, NotFound
from bucketline.ids import derived
from bucketline_ingest_api.batches.service import new_draft
from bucketline_ingest_api.batches.submission import submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.create import create_object
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.validation import ensure_writable, validate_create
from bucketline_ingest_api.uploads.create import GRACE
from bucketline_ingest_api.uploads.schemas import ConfirmUpload
from bucketline_ingest_api.uploads.validation import object_body


@dataclass(frozen=True)
class Confirmation:
    """What a client says of the bytes that it has put, and what is to be done with them."""

    etag: str | None = None
    size: int | None = None
    auto_submit: bool = False
    policy: str | None = None

    @classmethod
    def of(cls, body: ConfirmUpload, policy: str | None) -> "Confirmation":
        return cls(_bare(body.etag), body.file_size_bytes, body.auto_submit_batch, policy)


async def get_upload(
    deps: Container, namespace_id: str, upload_id: str, bucket_id: str | None = None
) -> UploadDocument:
    """:class:`NotFound` also for an upload of another namespace or bucket."""
    upload = await deps.uploads.get(namespace_id, upload_id, bucket_id)
    if upload is None:
        raise NotFound.of("upload", upload_id)
    return upload


async def check(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, asked: Confirmation
) -> ObjectInfo | None:
    """What is there, if it may be confirmed as asked; None when it was confirmed before.

    Raises 400 for bytes that are not there or not those, for an upload that is over, 422 without a policy where one is
    needed, and by policy 404 and 409 as far as that can be told now. Nothing has changed then.
    """
    ensure_writable(bucket)
    require_policy(bucket, upload, asked.policy)
    if upload["status"] == Status.COMPLETED:
        return None
    if upload["status"] not in CONFIRMABLE:
        raise _refused(upload, f"the upload is {upload['status']}: {upload['message'] or 'it cannot be confirmed'}")
    if upload["status"] == Status.PENDING and deps.clock.now() > upload["expires_at"] + GRACE:
        raise _refused(upload, "the upload was not confirmed before it expired")
    try:
        head = await deps.blobstore.head(upload["key"])
    except ObjectMissing:
        raise _refused(upload, "there are no bytes yet: PUT them to the presigned URL", code="upload_missing") from None
    if asked.etag is not None and asked.etag != head.etag:
        raise _refused(upload, "the etag is not that of the stored bytes", code="etag_mismatch", stored=head.etag)
    for size in (asked.size, upload["size_bytes"]):
        if size is not None and size != head.size:
            raise _refused(upload, "the size is not that of the stored bytes", code="size_mismatch", stored=head.size)
    await _require_place(deps, bucket, upload, asked)
    return head


async def confirm(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, asked: Confirmation, head: ObjectInfo | None
) -> UploadDocument:
    """Confirms what :func:`check` has let through; the upload afterwards."""
    if head is not None:
        upload = await _complete(deps, upload, head)
    if upload["create_object"] and "object_id" not in upload:
        upload = await _make_object(deps, bucket, upload, asked)
    if asked.auto_submit and "object_id" in upload and "batch_id" not in upload:
        upload = await _submit(deps, bucket, upload)
    return upload


def require_policy(bucket: BucketDocument, upload: UploadDocument, policy: str | None) -> None:
    """422 when the upload's object cannot be written without a policy and none is named."""
    key = bucket["unique_key"]
    if key is not None and upload["create_object"]:
        resolve_policy(policy, key["default_policy"], bucket_id=bucket["_id"], missing=422)


async def _complete(deps: Container, upload: UploadDocument, head: ObjectInfo) -> UploadDocument:
    now = deps.clock.now()
    changes = {
        "status": str(Status.COMPLETED),
        "message": None,
        "size_bytes": head.size,
        "etag": head.etag,
        # The URL was signed for the announced hash: the store has taken no other bytes.
        "sha256": head.sha256 or upload["file_hash"],
        "verified_at": now,
        "completed_at": now,
    }
    completed = await deps.uploads.change(upload["_id"], CONFIRMABLE, changes, settled=True)
    if completed is not None:
        return completed
    current = await get_upload(deps, upload["namespace_id"], upload["_id"])
    if current["status"] != Status.COMPLETED:
        raise _refused(current, f"the upload is {current['status']}")
    return current


async def _make_object(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, asked: Confirmation
) -> UploadDocument:
    try:
        written = await create_object(deps, bucket, _body(upload), policy=asked.policy)
    except ApiError as error:
        error.details = {**(error.details or {}), "upload_id": upload["_id"]}
        raise
    changes = {"object_id": written.document["_id"]}
    return await deps.uploads.change(upload["_id"], [str(Status.COMPLETED)], changes) or upload


async def _submit(deps: Container, bucket: BucketDocument, upload: UploadDocument) -> UploadDocument:
    """A batch of the upload's object, submitted. Refused: upload, object and draft stay, and the error names them."""
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
        known = {"upload_id": upload["_id"], "object_id": upload["object_id"], "batch_id": batch_id}
        error.details = {**(error.details or {}), **known}
        raise
    changes = {"batch_id": batch_id, "task_id": batch["task_id"]}
    return await deps.uploads.change(upload["_id"], [str(Status.COMPLETED)], changes) or upload


async def _require_place(deps: Container, bucket: BucketDocument, upload: UploadDocument, asked: Confirmation) -> None:
    """404 or 409 by policy, before anything is written. Between this and the write the unique index has the word."""
    key = bucket["unique_key"]
    if key is None or not upload["create_object"]:
        return
    policy = resolve_policy(asked.policy, key["default_policy"], bucket_id=bucket["_id"], missing=422)
    draft = await asyncio.to_thread(validate_create, bucket, _body(upload), deps.settings, deps.ids)
    if draft.unique_key is None:
        return
    existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
    if existing is not None and draft.idempotency_key in existing.get("idempotency_keys", []):
        return
    decision = decide(policy, existing["_id"] if existing else None, draft.unique_key.values)
    if isinstance(decision, Refuse):
        raise decision.error


def _body(upload: UploadDocument) -> CreateObject:
    return object_body(
        upload["blob_property"], upload["_id"], upload["object_metadata"], idempotency_key=f"upload:{upload['_id']}"
    )


def _bare(etag: str | None) -> str | None:
    """Without quotes, and without the mark of a weak one."""
    return etag.strip().removeprefix("W/").strip('"').lower() if etag is not None else None


def _refused(
    upload: UploadDocument, message: str, *, code: str = "upload_not_confirmable", stored: str | int | None = None
) -> BadRequest:
    details: dict[str, str | int] = {"upload_id": upload["_id"], "status": upload["status"]}
    if stored is not None:
        details["stored"] = stored
    return BadRequest(message, code=code, details=details)
