"""Build the responses of the batch endpoints from stored batches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from bucketline.clock import Clock
from bucketline.db.batches import BatchDocument, objects_to_process
from bucketline.domain.status import BATCH_ACTIVE, FINAL, Status, percent
from bucketline_ingest_api.batches.results import Audit, Failure, Tiers
from bucketline_ingest_api.batches.schemas import (
    Batch,
    BatchAudit,
    BatchProgress,
    FailedDocument,
    FailedDocuments,
    FailedObjectRow,
    Resubmission,
    Retry,
    RetryBatch,
    TierTask,
)


def serialize_batch(batch: BatchDocument, tiers: Tiers, clock: Clock) -> Batch:
    """Return the batch with its progress. ``tiers`` are the collections that its objects reach."""
    status = Status(batch["status"])
    submitted = status is not Status.DRAFT
    dag_tiers = [[collection["_id"] for collection in tier] for tier in tiers]
    return Batch(
        batch_id=batch["_id"],
        bucket_id=batch["bucket_id"],
        namespace_id=batch["namespace_id"],
        batch_name=batch["batch_name"],
        status=status,
        object_ids=batch["objects"],
        dedup_strategy=batch["dedup_strategy"],
        collection_ids=[identifier for tier in dag_tiers for identifier in tier],
        metadata=batch["metadata"],
        task_id=batch["task_id"] if submitted else None,
        tier_tasks=_tier_tasks(batch, tiers, status) if submitted else [],
        current_tier=None if not submitted else max(len(dag_tiers) - 1, 0) if status in FINAL else 0,
        total_tiers=max(1, len(dag_tiers)),
        dag_tiers=dag_tiers,
        progress=_progress(batch, clock) if submitted else None,
        documents_written=batch.get("documents_written", 0),
        documents_resolvable=status in FINAL,
        failure_reason=batch.get("failure_reason"),
        failure_category=batch.get("failure_category"),
        failed_objects=[FailedObjectRow.model_validate(row) for row in batch.get("failed_objects", [])],
        failed_object_count=batch.get("failed", 0),
        webhook_url=batch.get("webhook_url"),
        retry_count=batch.get("retry_count", 0),
        last_retry_at=batch.get("last_retry_at"),
        last_activity_at=batch.get("moved_at"),
        lifecycle=_lifecycle(batch, status),
        lifecycle_reason=batch.get("failure_reason") or batch.get("cancel_reason"),
        error_summary=dict(Counter(str(row["error_type"]) for row in batch.get("failed_objects", []))) or None,
        created_at=batch["created_at"],
        updated_at=batch["updated_at"],
    )


def serialize_retry(batch: BatchDocument, retried_count: int, request: RetryBatch) -> Retry:
    """Return the response to a retry."""
    kind = "no object failed" if request.retry_mode == "all" else "no object failed with a transient error"
    return Retry(
        batch_id=batch["_id"],
        task_id=batch["task_id"],
        status=Status(batch["status"]),
        retry_mode=request.retry_mode,
        retried_count=retried_count,
        retry_count=batch.get("retry_count", 0),
        max_retry_count=request.max_retry_count,
        message=f"{retried_count} objects are retried" if retried_count else f"{kind}: nothing to retry",
    )


def serialize_resubmission(batch: BatchDocument, *, previous: BatchDocument) -> Resubmission:
    """Return the response to a resubmission."""
    status = Status(batch["status"])
    draft = status is Status.DRAFT
    return Resubmission(
        batch_id=batch["_id"],
        task_id=None if draft else batch["task_id"],
        status=status,
        previous_status=Status(previous["status"]),
        object_count=batch["total"],
        message="the batch is a draft again" if draft else "the batch is processed again",
    )


def serialize_failures(
    batch: BatchDocument, failures: Sequence[Failure], *, limit: int, offset: int
) -> FailedDocuments:
    """Return a page of the failures."""
    rows = [
        FailedDocument(collection_ids=failure.collection_ids, tier_num=failure.tier, **failure.row)
        for failure in failures[offset : offset + limit]
    ]
    return FailedDocuments(batch_id=batch["_id"], results=rows, total=len(failures), limit=limit, offset=offset)


def serialize_audit(batch: BatchDocument, audit: Audit, tiers: Tiers) -> BatchAudit:
    """Return the audit; every tier processes the objects of the batch."""
    tier_rows = [
        {
            "tier_num": number,
            "collection_ids": [collection["_id"] for collection in tier],
            "submitted": audit.submitted - audit.deleted,
            "processed": audit.completed,
            "failed": audit.failed,
            "skipped": audit.skipped,
            "lost": audit.lost,
            "balanced": audit.balanced,
        }
        for number, tier in enumerate(tiers)
    ]
    return BatchAudit(
        batch_id=batch["_id"],
        status=Status(batch["status"]),
        all_balanced=audit.balanced,
        has_lost_objects=audit.lost > 0,
        processed=audit.processed,
        tiers=tier_rows,
        **asdict(audit),
    )


def _lifecycle(batch: BatchDocument, status: Status) -> str:
    match status:
        case Status.DRAFT:
            return "accepted"
        case Status.CANCELED | Status.FAILED:
            return status.lower()
        case Status.COMPLETED | Status.COMPLETED_WITH_ERRORS:
            return "indexed"
    return "extracting" if batch.get("processed") else "admitted" if batch.get("planned") else "queued"


def _progress(batch: BatchDocument, clock: Clock) -> BatchProgress:
    total = objects_to_process(batch)
    processed = batch.get("processed", 0)
    rate = eta = None
    carried = batch.get("base")
    processed_in_run = processed - (carried["finished"] if carried else 0)
    if (started := batch.get("started_at")) and processed_in_run > 0:
        seconds = max(0.001, ((batch.get("completed_at") or clock.now()) - started).total_seconds())
        rate = round(processed_in_run / seconds, 3)
        if batch["status"] in BATCH_ACTIVE and rate > 0:
            eta = round(max(0, total - processed) / rate, 1)
    return BatchProgress(
        processed=processed,
        total=total,
        percent=percent(processed, total),
        items_per_second=rate,
        eta_seconds=eta,
        errors=batch.get("failed", 0),
        first_error=batch.get("first_error"),
        documents_written=batch.get("documents_written", 0),
    )


def _tier_tasks(batch: BatchDocument, tiers: Tiers, status: Status) -> list[TierTask]:
    started, completed = batch.get("started_at"), batch.get("completed_at")
    processed, failed = batch.get("processed", 0), batch.get("failed", 0)
    total = objects_to_process(batch)
    return [
        TierTask(
            tier_num=number,
            task_id=batch["task_id"],
            status=status,
            collection_ids=[collection["_id"] for collection in tier],
            source_type="bucket" if number == 0 else "collection",
            started_at=started,
            completed_at=completed,
            duration_ms=(completed - started).total_seconds() * 1000 if started and completed else None,
            audit={
                "tier_num": number,
                "submitted": total,
                "processed": processed - failed,
                "failed": failed,
                "skipped": 0,
                "lost": 0,
                "balanced": status not in FINAL or status is Status.CANCELED or processed >= total,
            },
        )
        for number, tier in enumerate(tiers)
    ]
