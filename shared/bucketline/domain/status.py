"""The status of objects, batches, uploads and tasks, and how an object's may move.

An object is moved by *runs*. A run has an id that grows from run to run of the same object, and within a run the
rank grows from queued to processing to a final status. An event is applied if and only if its ``(run, rank)`` is
greater than the stored one. So duplicates change nothing, late events change nothing, the first final status of a
run wins, and the outcome does not depend on the order of arrival.
"""

from enum import StrEnum


class Status(StrEnum):
    """The wire's values. Two more exist in the newest clients and are never sent: older ones refuse them."""

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
"""Nothing moves after these within one run."""

FAILURES = frozenset({Status.FAILED, Status.COMPLETED_WITH_ERRORS})

OBJECT_IN_FLIGHT = (Status.QUEUED, Status.PROCESSING)
"""Objects that a sweeper must see moving."""

BATCH_ACTIVE = (Status.PENDING, Status.QUEUED, Status.IN_PROGRESS, Status.PROCESSING)

RANK_NEW, RANK_QUEUED, RANK_PROCESSING, RANK_FINAL = 0, 1, 2, 3
"""The rank of a status in its run. DRAFT, given back by a cancelled run, ends that run like a final one."""


def supersedes(new: tuple[int, int], stored: tuple[int, int]) -> bool:
    """Whether an event at ``(run, rank)`` moves an object that stands at ``stored``."""
    return new > stored


def batch_outcome(total: int, failed: int) -> Status:
    """The final status of a batch of ``total`` objects of which ``failed`` did not fully succeed."""
    if failed == 0:
        return Status.COMPLETED
    return Status.FAILED if failed >= total else Status.COMPLETED_WITH_ERRORS
