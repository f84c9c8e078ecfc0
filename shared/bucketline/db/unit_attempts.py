"""What a unit has cost, and whom it is laid to."""

from dataclasses import dataclass

from bucketline.db.unit_pipelines import NO_ITEM
from bucketline.db.work_units import WorkUnitDocument


@dataclass(frozen=True)
class UnitAttempts:
    """The leases of a unit.

    ``processors`` ended with it for which any of its items may be the reason, ``trials`` while one item was tried
    alone. ``returned`` leases were given back, or ended while nothing of the unit was worked on.
    """

    processors: int
    trials: int
    returned: int

    @property
    def leases(self) -> int:
        """All of them: to its holder, the number of its lease, which only grows in the life of the unit."""
        return self.processors + self.trials + self.returned


def unit_attempts(unit: WorkUnitDocument) -> UnitAttempts:
    """The toll if the lease that the unit is under were over now.

    To its holder, ``processors`` says that this is its n-th attempt of that kind; to whoever finds the lease run out,
    it is what happened.
    """
    trying = unit["lease"].get("trying") if "lease" in unit else None
    trials = len(unit.get("suspects", ())) + int(trying is not None and trying != NO_ITEM)
    idle = int(trying == NO_ITEM)
    return UnitAttempts(unit["attempts"] - trials - idle, trials, unit.get("returned", 0) + idle)
