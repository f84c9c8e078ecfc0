"""How the leases of a unit are counted."""

from typing import Any

import pytest

from bucketline.db.work_units import NO_ITEM, UnitAttempts, unit_attempts


def unit(**fields: Any) -> Any:
    return {"attempts": 0, **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, UnitAttempts(0, 0, 0)),
        ({"attempts": 2, "release_count": 3}, UnitAttempts(2, 0, 3)),
        ({"attempts": 3, "lease": {"owner": "p"}}, UnitAttempts(3, 0, 0)),
        ({"attempts": 3, "lease": {"owner": "p", "current_item": 0}}, UnitAttempts(2, 1, 0)),
        ({"attempts": 3, "lease": {"owner": "p", "current_item": NO_ITEM}}, UnitAttempts(2, 0, 1)),
        (
            {"attempts": 6, "crashed_items": [4, 0, 4], "lease": {"owner": "p", "current_item": 0}},
            UnitAttempts(2, 4, 0),
        ),
        ({"attempts": 5, "crashed_items": [4, 4]}, UnitAttempts(3, 2, 0)),
    ],
)
def test_unit_attempts_counts_leases_by_how_they_ended(fields: dict[str, Any], expected: UnitAttempts) -> None:
    assert unit_attempts(unit(**fields)) == expected
