from datetime import UTC, datetime
from typing import Any

import pytest

from bucketline.domain.filter_match import matches
from bucketline.domain.filters import parse

MOMENT = datetime(2026, 3, 1, 9, tzinfo=UTC)
INVOICE: dict[str, Any] = {
    "_id": "obj_1",
    "created_at": MOMENT,
    "state": "Open",
    "qty": 4,
    "price": 2.5,
    "paid": False,
    "gone": None,
    "title": "The quick, brown fox",
    "tags": ["Red", "blue", 7],
    "empty": [],
    "vendor": {"name": "Acme", "cities": ["Ulm", "Bonn"]},
    "lines": [{"sku": "A", "n": 1}, {"sku": "B"}],
}


def holds(raw: object) -> bool:
    return matches(parse(raw), INVOICE)


@pytest.mark.parametrize(
    ("field", "operator", "value", "expected"),
    [
        ("state", "eq", "open", True),
        ("state", "eq", "closed", False),
        ("qty", "eq", 4.0, True),
        ("qty", "eq", "4", False),
        ("paid", "eq", False, True),
        ("paid", "eq", 0, False),
        ("gone", "eq", None, True),
        ("absent", "eq", None, True),
        ("state", "eq", None, False),
        ("tags", "eq", "RED", True),
        ("lines.sku", "eq", "b", True),
        ("lines.1.sku", "eq", "a", False),
        ("state", "ne", "open", False),
        ("absent", "ne", "open", True),
        ("tags", "ne", "blue", False),
        ("qty", "gt", 3, True),
        ("qty", "gt", 4, False),
        ("qty", "gte", 4, True),
        ("qty", "gt", "3", False),
        ("price", "lt", 3, True),
        ("absent", "lt", 3, False),
        ("state", "lt", "Z", True),
        ("state", "lt", "A", False),
        ("created_at", "gte", "2026-03-01T09:00:00Z", True),
        ("created_at", "lt", "2026-03-01", False),
        ("state", "in", ["x", "OPEN"], True),
        ("state", "in", [], False),
        ("absent", "in", [None], True),
        ("state", "nin", ["x", "OPEN"], False),
        ("state", "nin", [], True),
        ("title", "contains", "QUICK", True),
        ("tags", "contains", "lu", True),
        ("tags", "contains", 7, True),
        ("qty", "contains", 4, False),
        ("qty", "contains", "4", False),
        ("title", "starts_with", "the q", True),
        ("title", "starts_with", "quick", False),
        ("title", "ends_with", "FOX", True),
        ("title", "regex", "^the .*fox$", True),
        ("title", "regex", r"\d", False),
        ("vendor.cities", "regex", "^b", True),
        ("gone", "exists", True, True),
        ("absent", "exists", True, False),
        ("absent", "exists", False, True),
        ("lines.n", "exists", None, True),
        ("gone", "is_null", True, True),
        ("absent", "is_null", None, True),
        ("state", "is_null", False, True),
        ("title", "text", "ick, br", True),
        ("title", "words", "FOX quick", True),
        ("title", "words", "fo", False),
        ("title", "phrase", "quick brown", True),
        ("title", "phrase", "brown quick", False),
        ("title", "phrase", "quick fox", False),
    ],
)
def test_every_operator(field: str, operator: str, value: object, expected: bool) -> None:
    assert holds({"field": field, "operator": operator, "value": value}) is expected


def test_case_counts_on_request() -> None:
    assert not holds({"field": "state", "value": "open", "case_sensitive": True})
    assert holds({"field": "state", "value": "Open", "case_sensitive": True})
    assert not holds({"field": "title", "operator": "words", "value": "the", "case_sensitive": True})
    assert not holds({"field": "title", "operator": "regex", "value": "THE", "case_sensitive": True})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"AND": [{"state": "open"}, {"qty": 4}]}, True),
        ({"AND": [{"state": "open"}, {"qty": 5}]}, False),
        ({"OR": [{"state": "closed"}, {"qty": 4}]}, True),
        ({"OR": [{"state": "closed"}, {"qty": 5}]}, False),
        ({"NOT": [{"state": "closed"}, {"qty": 5}]}, True),
        ({"NOT": [{"state": "closed"}, {"qty": 4}]}, False),
        ({"state": "open", "OR": [{"qty": 4}], "NOT": [{"paid": True}]}, True),
        ({"state": "open", "OR": [{"qty": 4}], "NOT": [{"paid": False}]}, False),
        ({}, True),
        ({"OR": [{}]}, True),
        ({"NOT": [{}]}, False),
    ],
)
def test_groups(raw: dict[str, Any], expected: bool) -> None:
    assert holds(raw) is expected


def test_fields_are_looked_up_where_they_are_stored() -> None:
    stored = {"_id": "obj_1", "custom": {"sku": "A"}}
    path = {"object_id": "_id", "sku": "custom.sku"}.__getitem__
    assert matches(parse({"object_id": "obj_1", "sku": "a"}), stored, path)
