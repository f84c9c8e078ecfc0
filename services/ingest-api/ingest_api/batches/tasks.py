"""A batch's task: a view of the batch, kept nowhere else."""

from typing import Any

from bucketline.storage.batches import BatchDocument
from ingest_api.schemas.tasks import Task

SAMPLE = 10


def task_of(batch: BatchDocument, **extra: Any) -> Task:
    """The task that mirrors a submitted batch."""
    data: dict[str, Any] = {
        "batch_id": batch["_id"],
        "bucket_id": batch["bucket_id"],
        "namespace_id": batch["namespace_id"],
        "current_tier": None,
        "total_tiers": 1,
        "collection_ids": batch["collection_ids"] or [],
        "object_count": batch["total"],
        "sample_object_ids": batch["objects"][:SAMPLE],
    }
    error = batch.get("failure_reason")
    if error:
        data["error"] = error
    return Task(
        task_id=batch["task_id"],
        task_type="api_buckets_batches_process",
        status=batch["status"],
        inputs=[batch["_id"]],
        outputs=[],
        additional_data=data,
        error=error,
        **extra,
    )
