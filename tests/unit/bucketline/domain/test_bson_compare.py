from datetime import UTC, datetime

import pytest

from bucketline.domain.bson_compare import EMPTY, MISSING, compare, reached, sort_key

DAY = datetime(2026, 1, 1, tzinfo=UTC)
ORDERED: list[object] = [
    EMPTY, None, -1.5, 0, 3, 2**60, "", "A", "a", "é", "🎉", {}, {"a": 1}, {"a": 1, "b": 1}, {"b": 0}, {"a": "x"},
    [], [1], [1, 2], ["a"], False, True, DAY, DAY.replace(year=2027),
]  # fmt: skip


def test_values_are_ordered_by_kind_and_then_by_value() -> None:
    for left, value in enumerate(ORDERED):
        for right, other in enumerate(ORDERED):
            sign = (compare(value, other) > 0) - (compare(value, other) < 0)
            assert sign == (left > right) - (left < right), (value, other)
    assert compare(1, 1.0) == compare(None, MISSING) == 0


@pytest.mark.parametrize(
    ("document", "path", "expected"),
    [
        ({"a": 1}, "a", [1]),
        ({}, "a", [MISSING]),
        ({"a": 1}, "a.b", [MISSING]),
        ({"a": {"b": 2}}, "a.b", [2]),
        ({"a": [1, 2]}, "a", [1, 2, [1, 2]]),
        ({"a": [{"b": 1}, {"c": 2}, 3]}, "a.b", [1, MISSING]),
        ({"a": []}, "a.b", []),
        ({"a": [5, 6]}, "a.1", [6]),
        ({"a": [{"b": [1, 2]}]}, "a.0.b", [MISSING, 1, 2, [1, 2]]),
    ],
)
def test_a_path_enters_arrays(document: dict[str, object], path: str, expected: list[object]) -> None:
    assert list(reached(document, path)) == expected


def test_an_array_sorts_by_its_least_or_greatest_element() -> None:
    row: dict[str, object] = {"a": [3, "x", 1], "e": [], "o": [{"n": 4}, {"n": 2}]}
    assert sort_key(row, "a", descending=False) == 1
    assert sort_key(row, "a", descending=True) == "x"
    assert sort_key(row, "e", descending=False) is EMPTY
    assert sort_key(row, "o.n", descending=False) == 2
    assert sort_key(row, "none", descending=True) is None
    assert sort_key({"o": [{"n": 4}, 5]}, "o.n", descending=False) is None
    assert sort_key({"o": []}, "o.n", descending=False) is None
