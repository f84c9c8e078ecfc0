"""Read the results of a batch from its work units: which objects failed, and the audit of all of them.

Work units are kept for :data:`KEPT` after the batch has finished. The batch itself stays, with the totals that it had
when it finished; after that time these are all that is known.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bucketline.db.batch_dependencies import BatchDependencies
from bucketline.db.batches import BatchDocument, FailedObject, failed_row
from bucketline.db.work_units import KEPT, Latest
from bucketline.domain.status import FAILURES, FINAL, Status
from bucketline_ingest_api.batches.schemas import BatchAudit
from bucketline_ingest_api.batches.service import PAGE_SIZE, Tiers, existing_objects
from bucketline_ingest_api.container import Container

UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
MAX_LOST_IDS = 100


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


def _may_have_expired(batch: BatchDocument, now: datetime) -> bool:
    """Return whether units of this finished batch may have expired. Before that, a missing unit is an error."""
    first_run = batch["created_at"] if batch.get("retry") else batch.get("submitted_at", batch["created_at"])
    return batch["status"] in FINAL and now - first_run >= KEPT


async def find_failures(
    container: Container, batch: BatchDocument, tiers: Tiers, *, tier: int | None, collection: str | None
) -> list[dict[str, Any]]:
    """Return the fields of the batch's failures, ordered by object id; only those of a tier or collection if given.

    When the work units have expired, return the failures that the batch itself has: at most the first thousand.
    """
    latest = select_run(batch, await container.units.latest_results(batch["_id"]))
    if have_expired(batch, latest, container.clock.now()):
        rows = sorted(batch.get("failed_objects", []), key=lambda row: row["object_id"])
    else:
        failed = sorted((object_id, last.result) for object_id, last in latest.items() if last.failed)
        rows = [failed_row(object_id, result, UNKNOWN_TIME) for object_id, result in failed]
    failures = [_to_failure(row, tiers) for row in rows]
    if tier is not None:
        failures = [failure for failure in failures if failure["tier_num"] == tier]
    if collection is not None:
        named = {c["_id"] for row in tiers for c in row if collection in (c["_id"], c["name"])}
        failures = [failure for failure in failures if named.intersection(failure["collection_ids"])]
    return failures


def _to_failure(row: FailedObject, tiers: Tiers) -> dict[str, Any]:
    """Add the collections that the error names, and the first of their tiers."""
    # The processor prefixes what went wrong with the name of the collection.
    names = [part.partition(": ")[0] for part in row["error"].split("; ")]
    named = [(number, c["_id"]) for number, tier in enumerate(tiers) for c in tier if c["name"] in names]
    # An error that names no collection occurred before the first tier.
    tier = min((number for number, _ in named), default=0)
    return {**row, "collection_ids": [collection_id for _, collection_id in named], "tier_num": tier}


async def audit_batch(container: Container, batch: BatchDocument, tiers: Tiers) -> BatchAudit:
    """Count the objects of the batch from its work units, and look up the objects that are in none.

    ``lost`` objects exist, but nothing is going to process them. The audit is balanced if every object is counted, none
    is lost, and a finished batch shows the right total.
    """
    status = Status(batch["status"])
    finished, canceled = status in FINAL, status is Status.CANCELED
    latest = {} if status is Status.DRAFT else select_run(batch, await container.units.latest_results(batch["_id"]))
    outside = [object_id for object_id in batch["objects"] if object_id not in latest]
    waiting = await _waiting_objects(container, batch["_id"], outside)
    existing = await existing_objects(container, batch["bucket_id"], outside)
    unassigned = [object_id for object_id in outside if object_id in existing and object_id not in waiting]
    planned = bool(batch.get("planned")) or finished
    # A batch may be canceled before anything is planned, and an automatic batch may lose its object to another one.
    lost = [*unassigned] if planned and not canceled else []
    kinds = Counter(_result_kind(last) for last in latest.values())
    lost += [object_id for object_id, last in latest.items() if last.result is None] if finished else []
    counts = {
        "completed": kinds["completed"],
        "failed": kinds["failed"],
        "skipped": kinds["skipped"],
        "given_back": kinds["given_back"] + (len(unassigned) if canceled else 0),
        "in_flight": 0 if finished else kinds["open"],
        "waiting": len(waiting),
        "unplanned": 0 if planned or canceled else len(unassigned),
        "deleted": len(outside) - len(existing | waiting),
        "lost": len(lost),
    }
    submitted = len(batch["objects"])
    processed = counts["completed"] + counts["failed"] + counts["skipped"]
    counted = sum(counts.values()) == submitted
    balanced = counted and not lost and (not finished or processed == batch.get("processed", 0))
    from_sums = not balanced and _may_have_expired(batch, container.clock.now())
    if from_sums:
        # The totals of the batch do not tell which objects were skipped.
        processed, failed = batch.get("processed", 0), batch.get("failed", 0)
        deleted, lost = min(batch.get("missing", 0), counts["deleted"]), []
        counts |= {"completed": processed - failed, "failed": failed, "skipped": 0, "deleted": deleted, "lost": 0}
        counts["given_back"] = submitted - processed - deleted
        balanced = sum(counts.values()) == submitted
    tier_counts = {"processed": counts["completed"]} | {name: counts[name] for name in ("failed", "skipped", "lost")}
    return BatchAudit(
        batch_id=batch["_id"],
        status=status,
        all_balanced=balanced,
        has_lost_objects=bool(lost),
        submitted=submitted,
        processed=processed,
        lost_object_ids=lost[:MAX_LOST_IDS],
        from_sums=from_sums,
        tiers=[
            {
                "tier_num": number,
                "collection_ids": [collection["_id"] for collection in tier],
                "submitted": submitted - counts["deleted"],
                **tier_counts,
                "balanced": balanced,
            }
            for number, tier in enumerate(tiers)
        ],
        **counts,
    )


def _result_kind(last: Latest) -> str:
    if last.result is None:
        return "open"
    status = last.result["status"]
    if status in FAILURES:
        return "failed"
    return {str(Status.SKIPPED): "skipped", str(Status.DRAFT): "given_back"}.get(status, "completed")


async def _waiting_objects(container: Container, batch_id: str, object_ids: Sequence[str]) -> set[str]:
    if not object_ids:
        return set()
    dependencies = BatchDependencies(container.database).collection
    rows = dependencies.stream({"batch_id": batch_id}, fields=["object_id"], page=PAGE_SIZE)
    return {row["object_id"] async for row in rows} & set(object_ids)
