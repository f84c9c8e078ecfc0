"""What failed in a batch, object by object, in the last turn that took the object up."""

from dataclasses import dataclass
from datetime import UTC, datetime

from bucketline.storage.batches import BatchDocument, FailedObject
from bucketline.storage.units import Latest, Result
from ingest_api.batches.tiers import Tiers
from ingest_api.deps import Deps

UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Failure:
    """An object that failed, with the collections that its error names and the first tier of them."""

    row: FailedObject
    collection_ids: list[str]
    tier: int | None


async def failures_of(
    deps: Deps, batch: BatchDocument, tiers: Tiers, *, tier_num: int | None, collection: str | None
) -> list[Failure]:
    """Failures of the batch in the order of its objects' ids; of one tier or collection if that is given."""
    latest = await current(deps, batch)
    found = [_failure(object_id, last, tiers) for object_id, last in sorted(latest.items()) if last.failed]
    if tier_num is not None:
        found = [failure for failure in found if failure.tier == tier_num]
    if collection is not None:
        named = {c["_id"] for tier in tiers for c in tier if collection in (c["_id"], c["name"])}
        found = [failure for failure in found if named.intersection(failure.collection_ids)]
    return found


async def current(deps: Deps, batch: BatchDocument) -> dict[str, Latest]:
    """The objects of the batch that units have taken: of its turn, and for a retry of the turns before too."""
    latest = await deps.units.latest(batch["_id"])
    if batch.get("retry") is not None:
        return latest
    return {object_id: last for object_id, last in latest.items() if last.turn == batch.get("run")}


def failed_object(object_id: str, result: Result) -> FailedObject:
    """A row of ``failed_objects``."""
    kind = result["error_type"]
    return {
        "object_id": object_id,
        "error": result["error"] or "failed",
        "error_type": "transient" if kind == "transient" else "resource" if kind == "resource" else "permanent",
        "timestamp": result.get("at", UNKNOWN_TIME),
    }


def _failure(object_id: str, last: Latest, tiers: Tiers) -> Failure:
    row = failed_object(object_id, last.result or {"status": "", "documents": 0, "error": None, "error_type": None})
    # The processor names each collection that failed in front of what went wrong there.
    parts = [part.partition(": ")[0] for part in row["error"].split("; ")]
    named = [(number, c["_id"]) for number, tier in enumerate(tiers) for c in tier if c["name"] in parts]
    # What kept the object from getting to any collection happened at the bucket.
    return Failure(row, [identifier for _, identifier in named], min((number for number, _ in named), default=0))
