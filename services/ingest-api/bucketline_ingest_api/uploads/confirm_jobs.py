"""Confirms uploads in the background with durable tasks: one upload, or up to 100."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bucketline.blobs.store import ObjectInfo
from bucketline.db.buckets import BucketDocument
from bucketline.db.tasks import TaskDocument
from bucketline.db.uploads import CONFIRMABLE, UploadDocument
from bucketline.domain.status import Status
from bucketline.errors import (
    ApiError,
    DependencyUnavailable,
    NotFound,
    ServiceUnavailable,
    ValidationFailed,
    ValidationIssue,
)
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.tasks.runner import TaskOutcome, TaskResult
from bucketline_ingest_api.uploads.confirm import Confirmation, check_upload, confirm_upload, require_policy
from bucketline_ingest_api.uploads.schemas import ConfirmUploads
from bucketline_ingest_api.uploads.service import get_upload

CONFIRM_TASK_TYPE = "api_buckets_uploads_confirm"
CONFIRM_MANY_TASK_TYPE = "api_buckets_uploads_batch_confirm"

MAX_CONCURRENCY = 8


def runs_in_background(deps: Container, stored: ObjectInfo | None, *, requested: bool) -> bool:
    """Return whether a task does the confirmation: on request, and for large uploads."""
    return stored is not None and (requested or stored.size >= deps.settings.async_confirm_threshold_bytes)


async def schedule_confirmation(
    deps: Container, organization_id: str, upload: UploadDocument, confirmation: Confirmation
) -> UploadDocument:
    """Create a task that confirms a checked upload. A repeated request refers to the same task."""
    if upload["status"] == Status.PROCESSING:
        return upload
    task = await deps.runner.create(
        CONFIRM_TASK_TYPE,
        organization_id=organization_id,
        namespace_id=upload["namespace_id"],
        inputs=[upload["_id"]],
        data={"upload_id": upload["_id"], "bucket_id": upload["bucket_id"], "request": asdict(confirmation)},
    )
    changes = {"status": str(Status.PROCESSING), "task_id": task["_id"]}
    changed = await deps.uploads.change(upload["_id"], [str(Status.PENDING)], changes)
    if changed is None:
        # A concurrent request has confirmed the upload or created its task.
        await deps.tasks.delete_by_id(task["_id"])
        return await get_upload(deps, upload["namespace_id"], upload["_id"])
    deps.runner.enqueue(task["_id"])
    return changed


async def schedule_confirmations(
    deps: Container, organization_id: str, bucket: BucketDocument, body: ConfirmUploads, policy: str | None
) -> TaskDocument:
    """Create a task that confirms several uploads. 422 at once if a policy is needed and none is named."""
    ids = [entry.upload_id for entry in body.confirmations]
    if len(set(ids)) < len(ids):
        raise ValidationFailed([ValidationIssue("duplicate", ("body", "confirmations"), "an upload is named twice")])
    uploads = await deps.uploads.many_in_bucket(bucket["_id"], ids)
    for upload in uploads:
        require_policy(bucket, upload, policy)
    rows = [asdict(Confirmation.of(entry, policy)) | {"upload_id": entry.upload_id} for entry in body.confirmations]
    task = await deps.runner.create(
        CONFIRM_MANY_TASK_TYPE,
        organization_id=organization_id,
        namespace_id=bucket["namespace_id"],
        inputs=ids,
        data={"bucket_id": bucket["_id"], "confirmations_count": len(ids), "request": rows},
    )
    deps.runner.enqueue(task["_id"])
    return task


async def execute_confirmation(deps: Container, task: TaskDocument) -> TaskOutcome:
    """Confirm one upload; if it is refused, the task and the upload fail with the error."""
    upload_id = task["inputs"][0]
    try:
        upload = await _check_and_confirm(deps, task, upload_id, _read_confirmation(task["data"]["request"]))
    except ServiceUnavailable:
        raise
    except ApiError as error:
        await _fail_upload(deps, upload_id, error)
        return TaskResult(status=Status.FAILED, error=error.message, data=_resource_ids(error))
    return TaskResult(outputs=_object_ids([upload]), data=_to_result(upload))


async def execute_confirmations(deps: Container, task: TaskDocument) -> TaskOutcome:
    """Confirm the uploads concurrently; one that is refused does not stop the others."""
    slots = asyncio.Semaphore(MAX_CONCURRENCY)
    rows = task["data"]["request"]

    async def confirm(row: Mapping[str, Any]) -> UploadDocument | ApiError | DependencyUnavailable:
        async with slots:
            try:
                return await _check_and_confirm(deps, task, str(row["upload_id"]), _read_confirmation(row))
            except (ApiError, DependencyUnavailable) as error:
                return error

    outcomes = []
    for outcome in await asyncio.gather(*(confirm(row) for row in (rows if isinstance(rows, list) else []))):
        if isinstance(outcome, DependencyUnavailable | ServiceUnavailable):
            # The next attempt finds those that are confirmed by now.
            raise outcome
        outcomes.append(outcome)
    results = [
        {"upload_id": upload_id, "status": "FAILED", "error": outcome.message, "error_type": outcome.type}
        if isinstance(outcome, ApiError)
        else _to_result(outcome)
        for upload_id, outcome in zip(task["inputs"], outcomes, strict=True)
    ]
    failed = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
    status = Status.COMPLETED if not failed else Status.COMPLETED_WITH_ERRORS
    if failed and len(failed) == len(outcomes):
        status = Status.FAILED
    return TaskResult(
        outputs=_object_ids([outcome for outcome in outcomes if not isinstance(outcome, ApiError)]),
        data={"results": results, "failed_count": len(failed)},
        status=status,
        error=f"{len(failed)} of {len(outcomes)} uploads were not confirmed; {failed[0].message}" if failed else None,
    )


async def _check_and_confirm(
    deps: Container, task: TaskDocument, upload_id: str, confirmation: Confirmation
) -> UploadDocument:
    bucket_id = str(task["data"]["bucket_id"])
    bucket = await deps.buckets.get_by_id(bucket_id)
    if bucket is None:
        raise NotFound.of("bucket", bucket_id)
    upload = await get_upload(deps, bucket["namespace_id"], upload_id, bucket_id)
    stored = await check_upload(deps, bucket, upload, confirmation)
    return await confirm_upload(deps, bucket, upload, confirmation, stored)


async def _fail_upload(deps: Container, upload_id: str, error: ApiError) -> None:
    changes = {"status": str(Status.FAILED), "message": error.message}
    await deps.uploads.change(upload_id, CONFIRMABLE, changes)


def _read_confirmation(row: object) -> Confirmation:
    values: Mapping[str, Any] = row if isinstance(row, Mapping) else {}
    return Confirmation(values.get("etag"), values.get("size"), bool(values.get("auto_submit")), values.get("policy"))


def _to_result(upload: UploadDocument) -> dict[str, object]:
    result: dict[str, object] = {"upload_id": upload["_id"], "status": upload["status"]}
    return result | {name: upload.get(name) for name in ("object_id", "batch_id") if upload.get(name)}


def _object_ids(uploads: Sequence[UploadDocument]) -> list[str]:
    return [upload["object_id"] for upload in uploads if "object_id" in upload]


def _resource_ids(error: ApiError) -> dict[str, object]:
    names = ("upload_id", "object_id", "batch_id")
    return {name: value for name, value in (error.details or {}).items() if name in names}
