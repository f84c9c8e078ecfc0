"""Batches as the wire shows them."""

from collections.abc import Sequence

from bucketline.clock import Clock
from bucketline.domain.status import BATCH_ACTIVE, FINAL, Status
from bucketline.storage.batches import BatchDocument
from bucketline.storage.collections import CollectionDocument
from ingest_api.schemas.batches import Batch, FailedObjectRow, Progress, TierTask

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
        last_activity_at=batch.get("moved_at"),
        created_at=batch["created_at"],
        updated_at=batch["updated_at"],
    )


def _progress(batch: BatchDocument, clock: Clock) -> Progress:
    total = batch["total"] - batch.get("missing", 0)
    processed = batch.get("processed", 0)
    rate = eta = None
    if (started := batch.get("started_at")) and processed:
        seconds = max(0.001, ((batch.get("completed_at") or clock.now()) - started).total_seconds())
        rate = round(processed / seconds, 3)
        if batch["status"] in BATCH_ACTIVE:
            eta = round((total - processed) / rate, 1)
    return Progress(
        processed=processed,
        total=total,
        percent=round(100 * processed / total, 2) if total else 100.0,
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
    total = batch["total"] - batch.get("missing", 0)
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
                "balanced": status not in FINAL or status is Status.CANCELED or processed == total,
            },
        )
        for number, tier in enumerate(tiers)
        if tier
    ]
