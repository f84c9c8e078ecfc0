"""Confirming in the background, one upload or up to a hundred, by durable tasks."""

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
from bucketline_ingest_api.uploads.confirm import Confirmation, check, confirm, get_upload, require_policy
from bucketline_ingest_api.uploads.schemas import ConfirmUploads

ONE = "api_buckets_uploads_confirm"
MANY = "api_buckets_uploads_batch_confirm"

MAX_CONCURRENCY = 8


def in_background(deps: Container, head: ObjectInfo | None, *, asked: bool) -> bool:
    """Whether a confirmation is left to a task."""
    return head is not None and (asked or head.size >= deps.settings.async_confirm_threshold_bytes)


async def confirm_later(
    deps: Container, organization_id: str, upload: UploadDocument, asked: Confirmation
) -> UploadDocument:
    """Leaves a checked confirmation to a task; asked again, it is the same task."""
    if upload["status"] == Status.PROCESSING:
        return upload
    task = await deps.runner.create(
        ONE,
        organization_id=organization_id,
        namespace_id=upload["namespace_id"],
        inputs=[upload["_id"]],
        data={"upload_id": upload["_id"], "bucket_id": upload["bucket_id"], "request": asdict(asked)},
    )
    changes = {"status": str(Status.PROCESSING), "task_id": task["_id"]}
    changed = await deps.uploads.change(upload["_id"], [str(Status.PENDING)], changes)
    if changed is None:
        # somebody else was faster: their task, or their confirmation, is the one that counts
        await deps.tasks.drop(task["_id"])
        return await get_upload(deps, upload["namespace_id"], upload["_id"])
    deps.runner.enqueue(task["_id"])
    return changed


async def confirm_many(
    deps: Container, organization_id: str, bucket: BucketDocument, body: ConfirmUploads, policy: str | None
) -> TaskDocument:
    """A task that confirms each of them. 422 at once where a policy is needed and none is named."""
    ids = [one.upload_id for one in body.confirmations]
    if len(set(ids)) < len(ids):
        raise ValidationFailed([ValidationIssue("duplicate", ("body", "confirmations"), "an upload is named twice")])
    known = await deps.uploads.many_in_bucket(bucket["_id"], ids)
    for upload in known:
        require_policy(bucket, upload, policy)
    rows = [asdict(Confirmation.of(one, policy)) | {"upload_id": one.upload_id} for one in body.confirmations]
    task = await deps.runner.create(
        MANY,
        organization_id=organization_id,
        namespace_id=bucket["namespace_id"],
        inputs=ids,
        data={"bucket_id": bucket["_id"], "confirmations_count": len(ids), "request": rows},
    )
    deps.runner.enqueue(task["_id"])
    return task


async def one_turn(deps: Container, task: TaskDocument) -> TaskOutcome:
    """Confirms one upload; what refuses it is told by the task and by the upload."""
    upload_id = task["inputs"][0]
    try:
        upload = await _confirmed(deps, task, upload_id, _asked(task["data"]["request"]))
    except ServiceUnavailable:
        raise
    except ApiError as error:
        await _fail(deps, upload_id, error)
        return TaskResult(status=Status.FAILED, error=error.message, data=_details(error))
    return TaskResult(outputs=_outputs([upload]), data=_result(upload))


async def many_turn(deps: Container, task: TaskDocument) -> TaskOutcome:
    """Confirms all of them, several side by side; one that is refused does not stop the others."""
    slots = asyncio.Semaphore(MAX_CONCURRENCY)
    rows = task["data"]["request"]

    async def one(row: Mapping[str, Any]) -> UploadDocument | ApiError | DependencyUnavailable:
        async with slots:
            try:
                return await _confirmed(deps, task, str(row["upload_id"]), _asked(row))
            except (ApiError, DependencyUnavailable) as error:
                return error

    outcomes = []
    for outcome in await asyncio.gather(*(one(row) for row in (rows if isinstance(rows, list) else []))):
        if isinstance(outcome, DependencyUnavailable | ServiceUnavailable):
            # those that were confirmed by now are so at once in the next turn
            raise outcome
        outcomes.append(outcome)
    results = [
        {"upload_id": upload_id, "status": "FAILED", "error": outcome.message, "error_type": outcome.type}
        if isinstance(outcome, ApiError)
        else _result(outcome)
        for upload_id, outcome in zip(task["inputs"], outcomes, strict=True)
    ]
    failed = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
    status = Status.COMPLETED if not failed else Status.COMPLETED_WITH_ERRORS
    if failed and len(failed) == len(outcomes):
        status = Status.FAILED
    return TaskResult(
        outputs=_outputs([outcome for outcome in outcomes if not isinstance(outcome, ApiError)]),
        data={"results": results, "failed_count": len(failed)},
        status=status,
        error=f"{len(failed)} of {len(outcomes)} uploads were not confirmed; {failed[0].message}" if failed else None,
    )


async def _confirmed(deps: Container, task: TaskDocument, upload_id: str, asked: Confirmation) -> UploadDocument:
    bucket_id = str(task["data"]["bucket_id"])
    bucket = await deps.buckets.get_by_id(bucket_id)
    if bucket is None:
        raise NotFound.of("bucket", bucket_id)
    upload = await get_upload(deps, bucket["namespace_id"], upload_id, bucket_id)
    return await confirm(deps, bucket, upload, asked, await check(deps, bucket, upload, asked))


async def _fail(deps: Container, upload_id: str, error: ApiError) -> None:
    changes = {"status": str(Status.FAILED), "message": error.message}
    await deps.uploads.change(upload_id, CONFIRMABLE, changes)


def _asked(row: object) -> Confirmation:
    given: Mapping[str, Any] = row if isinstance(row, Mapping) else {}
    return Confirmation(given.get("etag"), given.get("size"), bool(given.get("auto_submit")), given.get("policy"))


def _result(upload: UploadDocument) -> dict[str, object]:
    shown: dict[str, object] = {"upload_id": upload["_id"], "status": upload["status"]}
    return shown | {name: upload.get(name) for name in ("object_id", "batch_id") if upload.get(name)}


def _outputs(uploads: Sequence[UploadDocument]) -> list[str]:
    return [upload["object_id"] for upload in uploads if "object_id" in upload]


def _details(error: ApiError) -> dict[str, object]:
    wanted = ("upload_id", "object_id", "batch_id")
    return {name: value for name, value in (error.details or {}).items() if name in wanted}
