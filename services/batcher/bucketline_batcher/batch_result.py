"""How batches end; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bucketline.db.batches import BatchDocument, FailedObject, failed_row, webhook_host
from bucketline.db.work_units import Result, Tally, written
from bucketline.domain.status import FAILURES, Status, batch_outcome

MAX_ERROR = 500


@dataclass(frozen=True)
class Completion:
    """A batch, its final status, and the fields that say so."""

    batch: BatchDocument
    status: Status
    changes: Mapping[str, object]
    failed: int
    documents: int


def explicit_end(batch: BatchDocument, tally: Tally, failures: Sequence[FailedObject], now: datetime) -> Completion:
    """The end of a batch none of whose units is open: the sums of its turn on top of what was there before.

    Objects that no unit took were deleted before: they are ``missing`` and no failures. Those that an earlier turn gave
    back and a retry leaves alone are neither.
    """
    base = batch.get("base")
    finished = tally.finished + (base["finished"] if base else 0)
    failed = tally.failed + (base["failed"] if base else 0)
    documents = tally.documents + (base["documents"] if base else 0)
    given_back = base.get("given_back", 0) if base else 0
    missing = max(0, batch["total"] - tally.objects - (base["finished"] if base else 0) - given_back)
    canceled = batch.get("cancel_requested_at") is not None
    status = Status.CANCELED if canceled else batch_outcome(batch["total"] - missing - given_back, failed)
    changes = {
        "processed": finished,
        "failed": failed,
        "documents_written": documents,
        "missing": missing,
        "failed_objects": list(failures),
        "first_error": failures[0]["error"][:MAX_ERROR] if failures else None,
        **_reason(status, failures[0]["error"] if failures else None),
    }
    return _completion(batch, status, changes, failed, documents, now)


def automatic_end(batch: BatchDocument, result: Result, now: datetime) -> Completion:
    """The end of the batch of one ``auto_process`` object."""
    given_back = result["status"] == Status.DRAFT
    failed = int(result["status"] in FAILURES)
    status = Status(result["status"])
    if status is Status.SKIPPED:
        status = Status.COMPLETED
    if given_back:
        status = Status.CANCELED
    object_id = batch["objects"][0]
    changes = {
        "processed": int(not given_back),
        "failed": failed,
        "documents_written": written(result),
        "failed_objects": [failed_row(object_id, result, now)] if failed else [],
        "first_error": (result["error"] or "")[:MAX_ERROR] or None,
        **_reason(status, result["error"]),
    }
    return _completion(batch, status, changes, failed, written(result), now)


def superseded(batch: BatchDocument, now: datetime, *, deleted: bool) -> Completion:
    """The end of an automatic batch whose object never got to it."""
    reason = "the object was deleted" if deleted else "the object was changed, or is processed in another batch"
    changes = {"processed": 0, "failed": 0, "missing": 1, "failure_reason": f"{reason} before it was processed"}
    return _completion(batch, Status.CANCELED, changes, 0, 0, now)


def _reason(status: Status, first_error: str | None) -> dict[str, object]:
    if status is not Status.FAILED:
        return {"failure_reason": None, "failure_category": None}
    told = f"every object failed; the first: {first_error}" if first_error else "every object failed"
    return {"failure_reason": told[:MAX_ERROR], "failure_category": "pipeline"}


def _completion(
    batch: BatchDocument, status: Status, changes: Mapping[str, object], failed: int, documents: int, now: datetime
) -> Completion:
    shared: dict[str, object] = {"status": str(status), "completed_at": now, "updated_at": now, "moved_at": now}
    if url := batch.get("webhook_url"):
        shared["webhook"] = {"due_at": now, "host": webhook_host(url)}
    return Completion(batch, status, {**changes, **shared}, failed, documents)
