"""The audit of a batch, made up from its objects and work units, and not from the sums that the batch shows.

Except when these have expired: then its sums are all there is.
"""

from collections import Counter
from dataclasses import dataclass, replace

from bucketline.db.batches import BatchDocument
from bucketline.db.work_units import Latest
from bucketline.domain.status import FAILURES, FINAL, Status
from bucketline_ingest_api.batches.failed_objects import current
from bucketline_ingest_api.batches.retention import may_be_forgotten
from bucketline_ingest_api.container import Container

PAGE = 5000
SAMPLE = 100


@dataclass(frozen=True)
class Audit:
    """Where every object of a batch is. ``lost``: it exists, and nobody is going to process it.

    ``from_sums``: its units have expired, and this is what the batch counted when it was over.
    """

    submitted: int
    completed: int
    failed: int
    skipped: int
    given_back: int
    in_flight: int
    waiting: int
    unplanned: int
    deleted: int
    lost: int
    sample: list[str]
    shown_processed: int
    from_sums: bool = False

    @property
    def processed(self) -> int:
        return self.completed + self.failed + self.skipped

    @property
    def balanced(self) -> bool:
        """Whether every object is somewhere, once, and a batch that is over says what is true."""
        places = self.processed + self.given_back + self.in_flight + self.waiting + self.unplanned + self.deleted
        return places + self.lost == self.submitted and not self.lost and self.shown_processed == self.processed


async def audit_batch(deps: Container, batch: BatchDocument) -> Audit:
    """Reads every unit of the batch, and looks for the objects that are in none."""
    status = Status(batch["status"])
    latest = await current(deps, batch) if status is not Status.DRAFT else {}
    known = latest.keys()
    outside = [object_id for object_id in batch["objects"] if object_id not in known]
    waiting, existing = await _waiting(deps, batch["_id"], outside), await _existing(deps, batch["bucket_id"], outside)
    over = status in FINAL
    planned = bool(batch.get("planned")) or over
    homeless = [object_id for object_id in outside if object_id in existing and object_id not in waiting]
    # A cancellation may come before anything was planned, and an automatic batch may lose its object to another.
    lost = homeless if planned and status is not Status.CANCELED else []
    kinds = Counter(_kind(last) for object_id, last in latest.items())
    stuck = kinds["open"] if over else 0
    books = Audit(
        submitted=len(batch["objects"]),
        completed=kinds["completed"],
        failed=kinds["failed"],
        skipped=kinds["skipped"],
        given_back=kinds["given_back"] + (len(homeless) if status is Status.CANCELED else 0),
        in_flight=kinds["open"] - stuck,
        waiting=len(waiting),
        unplanned=len(homeless) if not planned and status is not Status.CANCELED else 0,
        deleted=len(outside) - len(existing | waiting),
        lost=len(lost) + stuck,
        sample=[*lost, *(oid for oid, last in latest.items() if stuck and last.result is None)][:SAMPLE],
        shown_processed=batch.get("processed", 0) if over else kinds["completed"] + kinds["failed"] + kinds["skipped"],
    )
    if not books.balanced and may_be_forgotten(batch, deps.clock.now()):
        return _summed(batch, books)
    return books


def _summed(batch: BatchDocument, books: Audit) -> Audit:
    """What the batch counted when it was over. Which objects were skipped is not among its sums."""
    processed, failed = batch.get("processed", 0), batch.get("failed", 0)
    deleted = min(batch.get("missing", 0), books.deleted)
    return replace(
        books,
        completed=processed - failed,
        failed=failed,
        skipped=0,
        given_back=books.submitted - processed - deleted,
        deleted=deleted,
        lost=0,
        sample=[],
        from_sums=True,
    )


def _kind(last: Latest) -> str:
    if last.result is None:
        return "open"
    status = last.result["status"]
    if status in FAILURES:
        return "failed"
    return {str(Status.SKIPPED): "skipped", str(Status.DRAFT): "given_back"}.get(status, "completed")


async def _waiting(deps: Container, batch_id: str, object_ids: list[str]) -> set[str]:
    if not object_ids:
        return set()
    rows = deps.database.collection("batch_dependencies").stream(
        {"batch_id": batch_id}, fields=["object_id"], page=PAGE
    )
    return {row["object_id"] async for row in rows} & set(object_ids)


async def _existing(deps: Container, bucket_id: str, object_ids: list[str]) -> set[str]:
    """Those that are in the bucket: a batch that was made unchecked may name others, which are nothing to it."""
    found: set[str] = set()
    for start in range(0, len(object_ids), PAGE):
        page = object_ids[start : start + PAGE]
        where = {"_id": {"$in": page}, "bucket_id": bucket_id}
        rows = await deps.objects.collection.find(where, limit=len(page), fields=["_id"])
        found |= {row["_id"] for row in rows}
    return found
