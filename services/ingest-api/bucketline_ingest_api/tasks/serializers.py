"""Tasks as the wire shows them, those of batches among them."""

from typing import cast

from bucketline.clock import wire_time
from bucketline.db.batches import BatchDocument
from bucketline.db.tasks import TaskDocument
from bucketline_ingest_api.batches.task_view import task_of
from bucketline_ingest_api.tasks.schemas import Task

_INNER = frozenset({"request", "after", "place"})
"""What a step keeps for itself."""


def serialize_task(found: TaskDocument | BatchDocument) -> Task:
    """The task, or the one that mirrors the batch."""
    if "task_id" in found:
        return task_of(cast("BatchDocument", found))
    return _stored(found)


def _stored(found: TaskDocument) -> Task:
    data: dict[str, object] = {name: value for name, value in found["data"].items() if name not in _INNER}
    data |= {"created_at": wire_time(found["created_at"]), "updated_at": wire_time(found["updated_at"])}
    if found["error"]:
        data["error"] = found["error"]
    return Task.model_validate(
        {
            "task_id": found["_id"],
            "task_type": found["type"],
            "status": found["status"],
            "inputs": found["inputs"],
            "outputs": found["outputs"],
            "additional_data": data,
            "error": found["error"],
        }
    )
