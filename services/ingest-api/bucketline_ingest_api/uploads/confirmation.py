"""Confirms uploads: verifies the stored bytes, completes the upload, creates its object, and submits its batch.

Every step is idempotent: the object has an idempotency key and the batch an id that are derived from the upload's id.
So repeated and concurrent confirmations, and those after a crash, have the same result. Large uploads, and several at
once, are confirmed in the background by a durable task.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bucketline.blobs.store import ObjectInfo, ObjectMissing
from bucketline.db.buckets import BucketDocument
from bucketline.db.tasks import TaskDocument
from bucketline.db.uploads import CONFIRMABLE, UploadDocument
from bucketline.domain.insertion_policy import key_not_found, key_taken, resolve_policy
from bucketline.domain.status import Status
from bucketline.errors import (
    ApiError,
    BadRequest,
    DependencyUnavailable,
    NotFound,
    ServiceUnavailable,
    ValidationFailed,
    ValidationIssue,
)
from bucketline.ids import derived
from bucketline_ingest_api.batches.service import new_draft
from bucketline_ingest_api.batches.submission import submit_batch
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.create import create_object
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.validation import ensure_writable, validate_create
from bucketline_ingest_api.tasks.runner import TaskOutcome, TaskResult
from bucketline_ingest_api.uploads.schemas import ConfirmUpload, ConfirmUploadById, ConfirmUploads
from bucketline_ingest_api.uploads.service import CONFIRM_GRACE, get_upload, object_body

CONFIRM_TASK_TYPE = "api_buckets_uploads_confirm"
CONFIRM_MANY_TASK_TYPE = "api_buckets_uploads_batch_confirm"
MAX_CONCURRENCY = 8


async def confirm_upload(
    deps: Container,
    organization_id: str,
    bucket: BucketDocument,
    upload: UploadDocument,
    body: ConfirmUpload,
    policy: str | None,
    *,
    in_background: bool,
) -> UploadDocument:
    """Confirm the upload, or schedule its confirmation on request and if it is large; return the upload.

    Raises 400 for missing or different bytes and for an upload that has ended, 422 without a policy where one is
    needed, and 404 and 409 by policy. When creating the object or the batch fails, what was done so far stays.
    """
    stored = await _check(deps, bucket, upload, body, policy)
    if stored is not None and (
        in_background
        or upload["status"] == Status.PROCESSING
        or stored.size >= deps.settings.async_confirm_threshold_bytes
    ):
        return await _schedule(deps, organization_id, upload, body, policy)
    return await _confirm(deps, bucket, upload, body, policy, stored)


async def schedule_confirmations(
    deps: Container, organization_id: str, bucket: BucketDocument, body: ConfirmUploads, policy: str | None
) -> TaskDocument:
    """Create a task that confirms several uploads. 422 at once if a policy is needed and none is named."""
    ids = [entry.upload_id for entry in body.confirmations]
    if len(set(ids)) < len(ids):
        raise ValidationFailed([ValidationIssue("duplicate", ("body", "confirmations"), "an upload is named twice")])
    for upload in await deps.uploads.many_in_bucket(bucket["_id"], ids):
        _resolve_policy(bucket, upload, policy)
    task = await deps.runner.create(
        CONFIRM_MANY_TASK_TYPE,
        organization_id=organization_id,
        namespace_id=bucket["namespace_id"],
        inputs=ids,
        data={
            "bucket_id": bucket["_id"],
            "confirmations_count": len(ids),
            "request": {"rows": [entry.model_dump() for entry in body.confirmations], "policy": policy},
        },
    )
    deps.runner.enqueue(task["_id"])
    return task


async def execute_confirmation(deps: Container, task: TaskDocument) -> TaskOutcome:
    """Confirm one upload; if it is refused, the task and the upload fail with the error."""
    request: Any = task["data"]["request"]
    try:
        upload = await _execute_row(deps, task, request["rows"][0], request["policy"])
    except ServiceUnavailable:
        raise
    except ApiError as error:
        changes = {"status": str(Status.FAILED), "message": error.message}
        await deps.uploads.change(task["inputs"][0], CONFIRMABLE, changes)
        names = ("upload_id", "object_id", "batch_id")
        created = {name: value for name, value in (error.details or {}).items() if name in names}
        return TaskResult(status=Status.FAILED, error=error.message, data=created)
    return TaskResult(outputs=_object_ids([upload]), data=_to_result(upload))


async def execute_confirmations(deps: Container, task: TaskDocument) -> TaskOutcome:
    """Confirm the uploads concurrently; one that is refused does not stop the others."""
    request: Any = task["data"]["request"]
    slots = asyncio.Semaphore(MAX_CONCURRENCY)

    async def confirm(row: object) -> UploadDocument | ApiError | DependencyUnavailable:
        async with slots:
            try:
                return await _execute_row(deps, task, row, request["policy"])
            except (ApiError, DependencyUnavailable) as error:
                return error

    results: list[Mapping[str, object]] = []
    confirmed: list[UploadDocument] = []
    errors: list[ApiError] = []
    outcomes = await asyncio.gather(*(confirm(row) for row in request["rows"]))
    for upload_id, outcome in zip(task["inputs"], outcomes, strict=True):
        if isinstance(outcome, DependencyUnavailable | ServiceUnavailable):
            # The next attempt finds those that are confirmed by now.
            raise outcome
        if isinstance(outcome, ApiError):
            errors.append(outcome)
            results.append(
                {"upload_id": upload_id, "status": "FAILED", "error": outcome.message, "error_type": outcome.type}
            )
        else:
            confirmed.append(outcome)
            results.append(_to_result(outcome))
    data = {"results": results, "failed_count": len(errors)}
    if not errors:
        return TaskResult(outputs=_object_ids(confirmed), data=data)
    return TaskResult(
        outputs=_object_ids(confirmed),
        data=data,
        status=Status.COMPLETED_WITH_ERRORS if confirmed else Status.FAILED,
        error=f"{len(errors)} of {len(results)} uploads were not confirmed; {errors[0].message}",
    )


async def _execute_row(deps: Container, task: TaskDocument, row: object, policy: str | None) -> UploadDocument:
    body = ConfirmUploadById.model_validate(row)
    bucket_id = str(task["data"]["bucket_id"])
    bucket = await deps.buckets.get_by_id(bucket_id)
    if bucket is None:
        raise NotFound.of("bucket", bucket_id)
    upload = await get_upload(deps, bucket["namespace_id"], body.upload_id, bucket_id)
    stored = await _check(deps, bucket, upload, body, policy)
    return await _confirm(deps, bucket, upload, body, policy, stored)


async def _schedule(
    deps: Container, organization_id: str, upload: UploadDocument, body: ConfirmUpload, policy: str | None
) -> UploadDocument:
    """Create a task that confirms a checked upload. A repeated request refers to the same task."""
    if upload["status"] == Status.PROCESSING:
        return upload
    request = {"rows": [{**body.model_dump(), "upload_id": upload["_id"]}], "policy": policy}
    task = await deps.runner.create(
        CONFIRM_TASK_TYPE,
        organization_id=organization_id,
        namespace_id=upload["namespace_id"],
        inputs=[upload["_id"]],
        data={"upload_id": upload["_id"], "bucket_id": upload["bucket_id"], "request": request},
    )
    changes = {"status": str(Status.PROCESSING), "task_id": task["_id"]}
    changed = await deps.uploads.change(upload["_id"], [str(Status.PENDING)], changes)
    if changed is None:
        # A concurrent request has confirmed the upload or created its task.
        await deps.tasks.delete_by_id(task["_id"])
        return await get_upload(deps, upload["namespace_id"], upload["_id"])
    deps.runner.enqueue(task["_id"])
    return changed


async def _check(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, body: ConfirmUpload, policy: str | None
) -> ObjectInfo | None:
    """Verify that the upload can be confirmed, without changing anything.

    Return its stored bytes, or None if it is confirmed already.
    """
    ensure_writable(bucket)
    _resolve_policy(bucket, upload, policy)
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
    if body.etag is not None and body.etag != stored.etag:
        raise _refuse(upload, "the etag is not that of the stored bytes", code="etag_mismatch", stored=stored.etag)
    for size in (body.file_size_bytes, upload["size_bytes"]):
        if size is not None and size != stored.size:
            raise _refuse(upload, "the size is not that of the stored bytes", code="size_mismatch", stored=stored.size)
    await _check_unique_key(deps, bucket, upload, policy)
    return stored


def _resolve_policy(bucket: BucketDocument, upload: UploadDocument, policy: str | None) -> str | None:
    """Return the policy of the upload's object, None if it needs none; 422 if it needs one and none is named."""
    key = bucket["unique_key"]
    if key is None or not upload["create_object"]:
        return None
    return resolve_policy(policy, key["default_policy"], bucket_id=bucket["_id"], missing=422)


async def _check_unique_key(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, policy: str | None
) -> None:
    """Raise 404 or 409 by policy before anything is written; the unique index decides between concurrent writes."""
    chosen = _resolve_policy(bucket, upload, policy)
    if chosen is None:
        return
    draft = await asyncio.to_thread(validate_create, bucket, _object_body(upload), deps.settings, deps.ids)
    if draft.unique_key is None:
        return
    existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
    if existing is None:
        if chosen == "update":
            raise key_not_found(draft.unique_key.values)
    elif chosen == "insert" and draft.body.idempotency_key not in existing.get("idempotency_keys", []):
        raise key_taken(existing["_id"], draft.unique_key.values)


async def _confirm(
    deps: Container,
    bucket: BucketDocument,
    upload: UploadDocument,
    body: ConfirmUpload,
    policy: str | None,
    stored: ObjectInfo | None,
) -> UploadDocument:
    """Confirm an upload that :func:`_check` has accepted. An error names what was created before it."""
    if stored is not None:
        upload = await _complete(deps, upload, stored)
    created = {"upload_id": upload["_id"]}
    try:
        if upload["create_object"] and "object_id" not in upload:
            written = await create_object(deps, bucket, _object_body(upload), policy=policy)
            upload = await _change_completed(deps, upload, {"object_id": written.document["_id"]})
        if body.auto_submit_batch and "object_id" in upload and "batch_id" not in upload:
            batch_id = derived("btch", upload["_id"])
            created |= {"object_id": upload["object_id"], "batch_id": batch_id}
            upload = await _submit_batch(deps, bucket, upload, batch_id)
    except ApiError as error:
        error.details = {**(error.details or {}), **created}
        raise
    return upload


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


async def _submit_batch(
    deps: Container, bucket: BucketDocument, upload: UploadDocument, batch_id: str
) -> UploadDocument:
    draft = new_draft(
        bucket["namespace_id"], bucket["_id"], [upload["object_id"]], batch_id=batch_id, now=deps.clock.now()
    )
    await deps.batches.insert([draft])
    batch = await deps.batches.get(batch_id) or draft
    if batch["status"] == Status.DRAFT:
        batch = await submit_batch(deps, batch)
    return await _change_completed(deps, upload, {"batch_id": batch_id, "task_id": batch["task_id"]})


async def _change_completed(deps: Container, upload: UploadDocument, changes: Mapping[str, str]) -> UploadDocument:
    return await deps.uploads.change(upload["_id"], [str(Status.COMPLETED)], changes) or upload


def _object_body(upload: UploadDocument) -> CreateObject:
    return object_body(
        upload["blob_property"], upload["_id"], upload["object_metadata"], idempotency_key=f"upload:{upload['_id']}"
    )


def _to_result(upload: UploadDocument) -> dict[str, object]:
    result: dict[str, object] = {"upload_id": upload["_id"], "status": upload["status"]}
    return result | {name: upload.get(name) for name in ("object_id", "batch_id") if upload.get(name)}


def _object_ids(uploads: Sequence[UploadDocument]) -> list[str]:
    return [upload["object_id"] for upload in uploads if "object_id" in upload]


def _refuse(
    upload: UploadDocument, message: str, *, code: str = "upload_not_confirmable", stored: str | int | None = None
) -> BadRequest:
    details: dict[str, str | int] = {"upload_id": upload["_id"], "status": upload["status"]}
    if stored is not None:
        details["stored"] = stored
    return BadRequest(message, code=code, details=details)
