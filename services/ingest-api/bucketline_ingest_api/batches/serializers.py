"""Batches as the wire shows them."""

from collections import Counter
from collections.abc import Sequence

from bucketline.clock import Clock
from bucketline.db.batches import BatchDocument, objects_to_process
from bucketline.db.collections import CollectionDocument
from bucketline.domain.progress import percent
from bucketline.domain.status import BATCH_ACTIVE, FINAL, Status
from bucketline_ingest_api.batches.audit import Audit
from bucketline_ingest_api.batches.failed_objects import Failure
from bucketline_ingest_api.batches.many import Drafts, Group, Submitted
from bucketline_ingest_api.batches.retry import Retried
from bucketline_ingest_api.batches.schemas import (
    Batch,
    BatchAudit,
    BatchProgress,
    BulkSubmitted,
    FailedDocument,
    FailedDocuments,
    FailedObjectRow,
    Resubmission,
    Retry,
    RetryBatch,
    SubmittedBatch,
    SubmittedDrafts,
    TierTask,
)

Tiers = Sequence[Sequence[CollectionDocument]]


def batch_answer(batch: BatchDocument, tiers: Tiers, clock: Clock) -> Batch:
    """The batch with its progress. ``tiers`` are the collections its objects go through, in order."""
    status = Status(batch["status"])
    dag = [[collection["_id"] for collection in tier] for tier in tiers]
    current = None if status is Status.DRAFT else max(len(dag) - 1, 0) if status in FINAL else 0
    return Batch(
        batch_id=batch["_id"],
        bucket_id=batch["bucket_id"],
        namespace_id=batch["namespace_id"],
        batch_name=batch["batch_name"],
        status=status,
        object_ids=batch["objects"],
        dedup_strategy=batch["dedup_strategy"],
        collection_ids=[identifier for tier in dag for identifier in tier],
        metadata=batch["metadata"],
        task_id=None if status is Status.DRAFT else batch["task_id"],
        tier_tasks=[] if status is Status.DRAFT else _tier_tasks(batch, tiers, status),
        current_tier=current,
        total_tiers=max(1, len(dag)),
        dag_tiers=dag,
        progress=None if status is Status.DRAFT else _progress(batch, clock),
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
        error_summary=_errors(batch),
        created_at=batch["created_at"],
        updated_at=batch["updated_at"],
    )


def _lifecycle(batch: BatchDocument, status: Status) -> str:
    """One word for where the batch is."""
    match status:
        case Status.DRAFT:
            return "accepted"
        case Status.CANCELED | Status.FAILED:
            return status.lower()
        case Status.COMPLETED | Status.COMPLETED_WITH_ERRORS:
            return "indexed"
    return "extracting" if batch.get("processed") else "admitted" if batch.get("planned") else "queued"


def _errors(batch: BatchDocument) -> dict[str, int] | None:
    """How many of the failed objects that are shown failed in which way."""
    return dict(Counter(str(row["error_type"]) for row in batch.get("failed_objects", []))) or None


def _progress(batch: BatchDocument, clock: Clock) -> BatchProgress:
    total = objects_to_process(batch)
    processed = batch.get("processed", 0)
    rate = eta = None
    base = batch.get("base")
    fresh = processed - (base["finished"] if base else 0)
    if (started := batch.get("started_at")) and fresh > 0:
        seconds = max(0.001, ((batch.get("completed_at") or clock.now()) - started).total_seconds())
        rate = round(fresh / seconds, 3)
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
    duration = (completed - started).total_seconds() * 1000 if started and completed else None
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
            duration_ms=duration,
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
        if tier
    ]


def drafts_answer(drafts: Drafts) -> SubmittedDrafts:
    """What became of the drafts of a bucket."""
    failed = _refused(drafts.submitted)
    submitted = len(drafts.submitted) - failed
    return SubmittedDrafts(
        submitted=submitted,
        failed=failed,
        empty=drafts.empty,
        total=len(drafts.submitted),
        has_more=drafts.more,
        batches=[_submitted(one) for one in drafts.submitted],
        message=f"{submitted} batches were submitted",
    )


def group_answer(group: Group, chunk_size: int) -> BulkSubmitted:
    """The batches of a bulk submission."""
    failed = _refused(group.submitted)
    return BulkSubmitted(
        batch_group_id=group.id,
        total_objects=group.objects,
        total_batches=len(group.submitted),
        submitted=len(group.submitted) - failed,
        failed=failed,
        chunk_size=chunk_size,
        batches=[_submitted(one) for one in group.submitted],
    )


def _refused(submitted: Sequence[Submitted]) -> int:
    return sum(one.error is not None for one in submitted)


def _submitted(one: Submitted) -> SubmittedBatch:
    return SubmittedBatch(
        batch_id=one.batch_id,
        status=one.status,
        object_count=one.objects,
        task_id=None if one.error else one.task_id,
        error=one.error,
    )


def retry_answer(retried: Retried, asked: RetryBatch) -> Retry:
    """What a retry takes up."""
    batch = retried.batch
    kind = "no object failed" if asked.retry_mode == "all" else "no object failed for a passing reason"
    return Retry(
        batch_id=batch["_id"],
        task_id=batch["task_id"],
        status=Status(batch["status"]),
        retry_mode=asked.retry_mode,
        retried_count=retried.count,
        retry_count=batch.get("retry_count", 0),
        max_retry_count=asked.max_retry_count,
        message=f"{retried.count} objects are taken up again" if retried.count else f"{kind}: nothing to retry",
    )


def resubmission_answer(batch: BatchDocument, *, previous: BatchDocument) -> Resubmission:
    """A batch that is run again."""
    status = Status(batch["status"])
    return Resubmission(
        batch_id=batch["_id"],
        task_id=None if status is Status.DRAFT else batch["task_id"],
        status=status,
        previous_status=Status(previous["status"]),
        object_count=batch["total"],
        message="the batch is a draft again" if status is Status.DRAFT else "the batch is processed again",
    )


def failed_answer(batch: BatchDocument, failures: Sequence[Failure], *, limit: int, offset: int) -> FailedDocuments:
    """A page of what failed."""
    rows = [
        FailedDocument(collection_ids=failure.collection_ids, tier_num=failure.tier, **failure.row)
        for failure in failures[offset : offset + limit]
    ]
    return FailedDocuments(batch_id=batch["_id"], results=rows, total=len(failures), limit=limit, offset=offset)


def audit_answer(batch: BatchDocument, audit: Audit, tiers: Tiers) -> BatchAudit:
    """The audit of a batch."""
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
        submitted=audit.submitted,
        processed=audit.processed,
        completed=audit.completed,
        failed=audit.failed,
        skipped=audit.skipped,
        given_back=audit.given_back,
        in_flight=audit.in_flight,
        waiting=audit.waiting,
        unplanned=audit.unplanned,
        deleted=audit.deleted,
        lost=audit.lost,
        lost_object_ids=audit.sample,
        from_sums=audit.from_sums,
        tiers=tier_rows,
    )
