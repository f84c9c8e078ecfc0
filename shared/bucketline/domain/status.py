"""The status of objects, batches, uploads and tasks, and the order of an object's status changes.

An object is processed in *runs*. Run ids grow from run to run of the same object, and within a run the sequence grows
from queued to processing to a final status. A status event is applied if and only if its ``(run_id, sequence)`` is
greater than the stored one. Therefore duplicate and late events change nothing, the first final status of a run wins,
and the result does not depend on the order of arrival.
"""

from enum import StrEnum


class Status(StrEnum):
    """The values of the contract. INTERRUPTED and DEACTIVATED are never sent, because older clients refuse them."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_ERRORS = "COMPLETED_WITH_ERRORS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    UNKNOWN = "UNKNOWN"
    SKIPPED = "SKIPPED"
    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"
    SUSPENDED = "SUSPENDED"


FINAL = frozenset({Status.COMPLETED, Status.COMPLETED_WITH_ERRORS, Status.FAILED, Status.CANCELED, Status.SKIPPED})
"""Statuses that end a run."""

FAILURES = frozenset({Status.FAILED, Status.COMPLETED_WITH_ERRORS})

OBJECT_IN_FLIGHT = (Status.QUEUED, Status.PROCESSING)
"""Statuses of objects whose progress the reconciler checks."""

BATCH_ACTIVE = (Status.PENDING, Status.QUEUED, Status.IN_PROGRESS, Status.PROCESSING)

RANK_NEW, RANK_QUEUED, RANK_PROCESSING, RANK_FINAL = 0, 1, 2, 3
"""The sequence of a status within its run. DRAFT, set when a run is canceled, ends that run like a final status."""


def supersedes(new: tuple[int, int], stored: tuple[int, int]) -> bool:
    """Return whether an event at ``(run, rank)`` is newer than the stored position."""
    return new > stored


def batch_outcome(total: int, failed: int) -> Status:
    """Return the final status of a batch of ``total`` objects of which ``failed`` did not fully succeed."""
    if failed == 0:
        return Status.COMPLETED
    return Status.FAILED if failed >= total else Status.COMPLETED_WITH_ERRORS


def percent(processed: int, total: int) -> float:
    """Return the progress in percent with two digits, rounded down, so that 100 means complete; 100 if total is 0."""
    return min(10_000, 10_000 * processed // total) / 100 if total else 100.0
