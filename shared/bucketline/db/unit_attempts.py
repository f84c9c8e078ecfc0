"""Counts how the leases of a work unit ended."""

from dataclasses import dataclass

from bucketline.db.unit_pipelines import NO_ITEM
from bucketline.db.work_units import WorkUnitDocument


@dataclass(frozen=True)
class UnitAttempts:
    """The leases of a unit, by how they ended.

    ``crashes`` ended with the processor while any item may have been the cause, ``isolated_crashes`` while one item
    was running alone. ``releases`` were released, or expired while no item of the unit was running.
    """

    crashes: int
    isolated_crashes: int
    releases: int

    @property
    def leases(self) -> int:
        """Return how many leases there were: for the holder, the number of its lease, which only grows."""
        return self.crashes + self.isolated_crashes + self.releases


def unit_attempts(unit: WorkUnitDocument) -> UnitAttempts:
    """Count the leases of the unit as if the current lease had expired.

    For the current holder, ``crashes`` is therefore the number of its own attempt.
    """
    item = unit["lease"].get("current_item") if "lease" in unit else None
    isolated = len(unit.get("crashed_items", ())) + int(item is not None and item != NO_ITEM)
    idle = int(item == NO_ITEM)
    return UnitAttempts(unit["attempts"] - isolated - idle, isolated, unit.get("release_count", 0) + idle)
