"""Read the results of a batch from its work units: which objects failed, and the audit of all of them.

Work units are kept for :data:`KEPT` after the batch has finished. The batch itself stays, with the totals that it had
when it finished; after that time these are all that is known.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from bucketline.db.batch_dependencies import BatchDependencies
from bucketline.db.batches import BatchDocument, FailedObject, failed_row
from bucketline.db.collections import CollectionDocument
from bucketline.db.work_units import KEPT, Latest
from bucketline.domain.status import FAILURES, FINAL, Status
from bucketline_ingest_api.batches.service import PAGE_SIZE, existing_objects
from bucketline_ingest_api.container import Container

UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
MAX_LOST_IDS = 100

Tiers = Sequence[Sequence[CollectionDocument]]


@dataclass(frozen=True)
class Failure:
    """An object that failed, with the collections that its error names and the first tier of these."""

    row: FailedObject
    collection_ids: list[str]
    tier: int


@dataclass(frozen=True)
class Audit:
    """Counts every object of a batch once. ``lost`` objects exist, but nothing is going to process them.

    ``from_sums``: the work units have expired, and these are the totals that the batch had when it finished.
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
    shown_processed: int
    lost_object_ids: list[str] = field(default_factory=list)
    from_sums: bool = False

    @property
    def processed(self) -> int:
        """Return how many objects have a final result."""
        return self.completed + self.failed + self.skipped

    @property
    def balanced(self) -> bool:
        """Return whether every object is counted, none is lost, and a finished batch shows the right total."""
        unprocessed = self.given_back + self.in_flight + self.waiting + self.unplanned + self.deleted
        counted = self.processed + unprocessed + self.lost
        return counted == self.submitted and not self.lost and self.shown_processed == self.processed


def select_run(batch: BatchDocument, latest: Mapping[str, Latest]) -> dict[str, Latest]:
    """Return the results of the batch's current run; for a retry, those of the earlier runs as well."""
    if batch.get("retry") is not None:
        return dict(latest)
    return {object_id: last for object_id, last in latest.items() if last.turn == batch.get("run")}


def have_expired(batch: BatchDocument, latest: Mapping[str, Latest], now: datetime) -> bool:
    """Return whether work units have expired: they show fewer results than the batch counted when it finished.

    ``latest`` are the results of :func:`select_run`.
    """
    results = sum(last.result is not None and last.result["status"] != Status.DRAFT for last in latest.values())
    return _may_have_expired(batch, now) and results < batch.get("processed", 0)


async def find_failures(
    container: Container, batch: BatchDocument, tiers: Tiers, *, tier: int | None, collection: str | None
) -> list[Failure]:
    """Return the failures of the batch, ordered by object id; only those of a tier or collection if that is given.

    When the work units have expired, return the failures that the batch itself has: at most the first thousand.
    """
    latest = select_run(batch, await container.units.latest_results(batch["_id"]))
    if have_expired(batch, latest, container.clock.now()):
        rows = sorted(batch.get("failed_objects", []), key=lambda row: row["object_id"])
    else:
        rows = [
            failed_row(object_id, last.result, UNKNOWN_TIME)
            for object_id, last in sorted(latest.items())
            if last.failed
        ]
    failures = [_to_failure(row, tiers) for row in rows]
    if tier is not None:
        failures = [failure for failure in failures if failure.tier == tier]
    if collection is not None:
        named = {c["_id"] for row in tiers for c in row if collection in (c["_id"], c["name"])}
        failures = [failure for failure in failures if named.intersection(failure.collection_ids)]
    return failures


async def audit_batch(container: Container, batch: BatchDocument) -> Audit:
    """Count the objects of the batch from its work units, and look up the objects that are in none."""
    status = Status(batch["status"])
    finished, canceled = status in FINAL, status is Status.CANCELED
    latest = {} if status is Status.DRAFT else select_run(batch, await container.units.latest_results(batch["_id"]))
    outside = [object_id for object_id in batch["objects"] if object_id not in latest]
    waiting = await _waiting_objects(container, batch["_id"], outside)
    existing = await existing_objects(container, batch["bucket_id"], outside)
    unassigned = [object_id for object_id in outside if object_id in existing and object_id not in waiting]
    planned = bool(batch.get("planned")) or finished
    # A batch may be canceled before anything is planned, and an automatic batch may lose its object to another one.
    lost = unassigned if planned and not canceled else []
    counts = Counter(_result_kind(last) for last in latest.values())
    stuck = [object_id for object_id, last in latest.items() if last.result is None] if finished else []
    audit = Audit(
        submitted=len(batch["objects"]),
        completed=counts["completed"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        given_back=counts["given_back"] + (len(unassigned) if canceled else 0),
        in_flight=counts["open"] - len(stuck),
        waiting=len(waiting),
        unplanned=len(unassigned) if not planned and not canceled else 0,
        deleted=len(outside) - len(existing | waiting),
        lost=len(lost) + len(stuck),
        lost_object_ids=[*lost, *stuck][:MAX_LOST_IDS],
        shown_processed=batch.get("processed", 0)
        if finished
        else counts["completed"] + counts["failed"] + counts["skipped"],
    )
    if not audit.balanced and _may_have_expired(batch, container.clock.now()):
        return _audit_from_totals(batch, audit)
    return audit


def _audit_from_totals(batch: BatchDocument, audit: Audit) -> Audit:
    """Return the audit from the totals of the batch, which do not tell which objects were skipped."""
    processed, failed = batch.get("processed", 0), batch.get("failed", 0)
    deleted = min(batch.get("missing", 0), audit.deleted)
    return replace(
        audit,
        completed=processed - failed,
        failed=failed,
        skipped=0,
        given_back=audit.submitted - processed - deleted,
        deleted=deleted,
        lost=0,
        lost_object_ids=[],
        from_sums=True,
    )


def _may_have_expired(batch: BatchDocument, now: datetime) -> bool:
    """Return whether units of this finished batch may have expired. Before that, a missing unit is an error."""
    first_run = batch["created_at"] if batch.get("retry") else batch.get("submitted_at", batch["created_at"])
    return batch["status"] in FINAL and now - first_run >= KEPT


def _result_kind(last: Latest) -> str:
    if last.result is None:
        return "open"
    status = last.result["status"]
    if status in FAILURES:
        return "failed"
    return {str(Status.SKIPPED): "skipped", str(Status.DRAFT): "given_back"}.get(status, "completed")


def _to_failure(row: FailedObject, tiers: Tiers) -> Failure:
    # The processor prefixes what went wrong with the name of the collection.
    names = [part.partition(": ")[0] for part in row["error"].split("; ")]
    named = [(number, c["_id"]) for number, tier in enumerate(tiers) for c in tier if c["name"] in names]
    # An error that names no collection occurred before the first tier.
    return Failure(row, [collection_id for _, collection_id in named], min((number for number, _ in named), default=0))


async def _waiting_objects(container: Container, batch_id: str, object_ids: Sequence[str]) -> set[str]:
    if not object_ids:
        return set()
    dependencies = BatchDependencies(container.database).collection
    rows = dependencies.stream({"batch_id": batch_id}, fields=["object_id"], page=PAGE_SIZE)
    return {row["object_id"] async for row in rows} & set(object_ids)
