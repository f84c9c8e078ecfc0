"""The batch of one ``auto_process`` object.

The ingest API writes it together with the object; the batcher writes the very same one if that did not happen.
Everything in it can be told from the object.
"""

from bucketline.db.batches import BatchDocument, task_of
from bucketline.db.objects import ObjectDocument
from bucketline.domain.status import Status


def new_auto_batch(obj: ObjectDocument, batch_id: str) -> BatchDocument:
    """Submitted from the start, in the run that the object stands in."""
    now = obj["updated_at"]
    batch: BatchDocument = {
        "_id": batch_id,
        "namespace_id": obj["namespace_id"],
        "bucket_id": obj["bucket_id"],
        "batch_name": None,
        "status": str(Status.PENDING),
        "objects": [obj["_id"]],
        "total": 1,
        "collection_ids": None,
        "dedup_strategy": "skip",
        "metadata": {},
        "task_id": task_of(batch_id),
        "auto": True,
        "run": obj["run"]["id"],
        "created_at": now,
        "submitted_at": now,
        "updated_at": now,
        "moved_at": now,
    }
    if trace := obj.get("trace"):
        batch["trace"] = trace
    return batch
