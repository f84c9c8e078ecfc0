"""Updates of units that the database computes from what it has: no reader can be late for them."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from bucketline.domain.status import FAILURES, Status

Stage = Mapping[str, object]

NO_ITEM = -1
"""``lease.trying`` of a unit that is held while none of its items is worked on."""


def lease_update(owner: str, *, now: datetime, until: datetime) -> Sequence[Stage]:
    """A lease begins, and the one that ran out before is laid to whom it belongs.

    If its holder worked on one item alone, that item is a suspect; if on none, it is as good as given back.
    """
    trying = "$lease.trying"
    idle = {"$eq": [trying, NO_ITEM]}
    suspect = {"$cond": [{"$gte": [trying, 0]}, [trying], []]}  # a missing one is below every number
    return [
        {
            "$set": {
                "attempts": {"$add": ["$attempts", {"$cond": [idle, 0, 1]}]},
                "returned": {"$add": [{"$ifNull": ["$returned", 0]}, {"$cond": [idle, 1, 0]}]},
                "suspects": {"$concatArrays": [{"$ifNull": ["$suspects", []]}, suspect]},
                "state": "leased",
                "lease": {"$literal": {"owner": owner, "until": until}},
                "moved_at": now,
            }
        }
    ]


def result_update(rows: Mapping[int, Mapping[str, object]], *, now: datetime) -> Sequence[Stage]:
    """Results are added, the first of an item stays, and the sums are taken again; with all of them it is done."""
    # An error may begin with a dollar sign: what is stored must not be read as an expression.
    results = {f"results.{place}": {"$ifNull": [f"$results.{place}", {"$literal": row}]} for place, row in rows.items()}
    complete = {"$gte": [{"$size": "$rows"}, "$size"]}
    finished = {"$ne": ["$$this.status", str(Status.DRAFT)]}
    written = {"$ifNull": ["$$this.written", "$$this.documents"]}
    failing = {"$in": ["$$this.status", sorted(FAILURES)]}
    return [
        {"$set": {**results, "moved_at": now}},
        {"$set": {"rows": {"$map": {"input": {"$objectToArray": "$results"}, "in": "$$this.v"}}}},
        {
            "$set": {
                "state": {"$cond": [complete, "done", "$state"]},
                "finished_at": {"$cond": [complete, now, "$$REMOVE"]},
                "finished": {"$size": {"$filter": {"input": "$rows", "cond": finished}}},
                "failed": {"$size": {"$filter": {"input": "$rows", "cond": failing}}},
                "documents": {"$sum": {"$map": {"input": "$rows", "in": written}}},
            }
        },
        {"$unset": "rows"},
    ]
