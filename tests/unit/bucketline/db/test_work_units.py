"""Whom the leases of a unit are laid to."""

from typing import Any

import pytest

from bucketline.db.work_units import NO_ITEM, UnitAttempts, unit_attempts


def unit(**fields: Any) -> Any:
    return {"attempts": 0, **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, UnitAttempts(0, 0, 0)),
        ({"attempts": 2, "returned": 3}, UnitAttempts(2, 0, 3)),
        ({"attempts": 3, "lease": {"owner": "p"}}, UnitAttempts(3, 0, 0)),
        ({"attempts": 3, "lease": {"owner": "p", "trying": 0}}, UnitAttempts(2, 1, 0)),
        ({"attempts": 3, "lease": {"owner": "p", "trying": NO_ITEM}}, UnitAttempts(2, 0, 1)),
        ({"attempts": 6, "suspects": [4, 0, 4], "lease": {"owner": "p", "trying": 0}}, UnitAttempts(2, 4, 0)),
        ({"attempts": 5, "suspects": [4, 4]}, UnitAttempts(3, 2, 0)),
    ],
)
def test_a_lease_is_laid_to_the_unit_or_to_who_was_tried_alone_or_to_nobody(
    fields: dict[str, Any], expected: UnitAttempts
):
    assert unit_attempts(unit(**fields)) == expected
