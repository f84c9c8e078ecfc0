"""What failed in a batch, object by object, in the last turn that took the object up."""

from dataclasses import dataclass
from datetime import UTC, datetime

from bucketline.db.batches import BatchDocument, FailedObject, failed_row
from bucketline.db.work_units import Latest
from bucketline_ingest_api.batches.collection_tiers import Tiers
from bucketline_ingest_api.batches.retention import forgotten
from bucketline_ingest_api.container import Container

UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Failure:
    """An object that failed, with the collections that its error names and the first tier of them."""

    row: FailedObject
    collection_ids: list[str]
    tier: int | None


async def failures_of(
    deps: Container, batch: BatchDocument, tiers: Tiers, *, tier_num: int | None, collection: str | None
) -> list[Failure]:
    """Failures of the batch in the order of its objects' ids; of one tier or collection if that is given.

    Of a batch whose units have expired those that it shows itself: all, or the first thousand.
    """
    latest = await current(deps, batch)
    if forgotten(batch, latest, deps.clock.now()):
        rows = sorted(batch.get("failed_objects", []), key=lambda row: row["object_id"])
    else:
        rows = [
            failed_row(object_id, last.result, UNKNOWN_TIME)
            for object_id, last in sorted(latest.items())
            if last.failed
        ]
    found = [_failure(row, tiers) for row in rows]
    if tier_num is not None:
        found = [failure for failure in found if failure.tier == tier_num]
    if collection is not None:
        named = {c["_id"] for tier in tiers for c in tier if collection in (c["_id"], c["name"])}
        found = [failure for failure in found if named.intersection(failure.collection_ids)]
    return found


async def current(deps: Container, batch: BatchDocument) -> dict[str, Latest]:
    """The objects of the batch that units have taken: of its turn, and for a retry of the turns before too."""
    return of_turn(batch, await deps.units.latest(batch["_id"]))


def of_turn(batch: BatchDocument, latest: dict[str, Latest]) -> dict[str, Latest]:
    """Those of its turn, and for a retry of the turns before too."""
    if batch.get("retry") is not None:
        return latest
    return {object_id: last for object_id, last in latest.items() if last.turn == batch.get("run")}


def _failure(row: FailedObject, tiers: Tiers) -> Failure:
    # The processor names each collection that failed in front of what went wrong there.
    parts = [part.partition(": ")[0] for part in row["error"].split("; ")]
    named = [(number, c["_id"]) for number, tier in enumerate(tiers) for c in tier if c["name"] in parts]
    # What kept the object from getting to any collection happened at the bucket.
    return Failure(row, [identifier for _, identifier in named], min((number for number, _ in named), default=0))
