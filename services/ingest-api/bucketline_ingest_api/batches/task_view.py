"""A batch's task: a view of the batch, kept nowhere else."""

from typing import Any

from bucketline.clock import wire_time
from bucketline.db.batches import BatchDocument
from bucketline.domain.status import BATCH_ACTIVE, FINAL, Status
from bucketline_ingest_api.tasks.schemas import Task

SAMPLE = 10


def task_of(batch: BatchDocument, *, cancellation: dict[str, int] | None = None) -> Task:
    """The task that mirrors a submitted batch. With a ``cancellation`` it is the answer to a request for one."""
    data: dict[str, Any] = {
        "batch_id": batch["_id"],
        "bucket_id": batch["bucket_id"],
        "namespace_id": batch["namespace_id"],
        "current_tier": 0 if batch["status"] in FINAL else None,
        "total_tiers": 1,
        "collection_ids": batch["collection_ids"] or [],
        "object_count": batch["total"],
        "sample_object_ids": batch.get("objects", [])[:SAMPLE],
        "processed": batch.get("processed", 0),
        "created_at": wire_time(batch["created_at"]),
        "updated_at": wire_time(batch["updated_at"]),
    }
    if batch.get("cancel_requested_at") is not None:
        data["cancel_reason"] = batch.get("cancel_reason")
    error = batch.get("failure_reason")
    if error:
        data["error"] = error
    status = batch["status"]
    if cancellation is not None and status in BATCH_ACTIVE:
        # What is asked for is granted; what a processor holds at this moment still runs to its end.
        status = str(Status.CANCELED)
    return Task(
        task_id=batch["task_id"],
        task_type="api_buckets_batches_process",
        status=Status(status),
        inputs=[batch["_id"]],
        outputs=[],
        additional_data=data,
        error=error,
        cancellation=cancellation,
    )
