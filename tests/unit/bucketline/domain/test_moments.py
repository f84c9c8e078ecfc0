"""Dates as moments: keys, paths, and what filters and cursors make of them."""

import pytest

from bucketline.domain.filters import fields_of, parse_filter, to_mongo
from bucketline.domain.keyset import Cursor, Position, Sort
from bucketline.domain.moments import MOMENTS, Moments, moment_key
from bucketline.errors import ValidationFailed

MOMENT = "2026-03-01 04:30:00.000000000"
SCHEMA = {
    "properties": {
        "when": {"type": "datetime"},
        "day": {"type": "date"},
        "name": {"type": "string"},
        "times": {"type": "array", "items": {"type": "datetime"}},
        "events": {"type": "array", "items": {"type": "object", "properties": {"at": {"type": "datetime"}}}},
        "trip": {"type": "object", "properties": {"start": {"type": "date"}}},
        "2026": {"type": "date"},
    }
}


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T04:30:00Z",
        "2026-03-01T04:30Z",
        "2026-03-01t04:30:00z",
        "2026-03-01 04:30:00",
        "2026-03-01T04:30:00.000000000Z",
        "2026-03-01T10:00:00+05:30",
        "2026-03-01T10:00:00+0530",
        "2026-02-28T23:30:00-05:00",
    ],
)
def test_moment_key_of_one_moment_is_the_same_for_every_spelling(text: str) -> None:
    assert moment_key(text) == MOMENT


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-03-01", "2026-03-01T00:00:00.000000001Z"),
        ("2026-03-01T00:00:00.1Z", "2026-03-01T00:00:00.11Z"),
        ("2026-03-01T00:00:00.09Z", "2026-03-01T00:00:00.1Z"),
        ("2026-03-01T01:00:00+01:01", "2026-03-01"),
        ("1969-12-31T23:59:59.9Z", "1970-01-01"),
        ("0001-01-01T00:00:00Z", "0999-12-31"),
        ("9999-12-31T23:59:58Z", "9999-12-31T23:59:59-23:59"),
        ("0001-01-01T00:00:00+23:59", "0001-01-01T00:00:01Z"),
    ],
)
def test_moment_keys_are_ordered_as_the_moments(earlier: str, later: str) -> None:
    before, after = moment_key(earlier), moment_key(later)
    assert before is not None
    assert after is not None
    assert before < after


@pytest.mark.parametrize("text", ["", "soon", "2026-02-30", "2026-3-1", "2026-03-01T10", "20260301", "0000-01-01"])
def test_moment_key_of_other_text_is_none(text: str) -> None:
    assert moment_key(text) is None


@pytest.mark.parametrize("field", ["when", "day", "times", "times.0", "events.at", "events.3.at", "trip.start", "2026"])
def test_moments_path_of_a_declared_date_is_below_the_moments(field: str) -> None:
    assert Moments(SCHEMA).path(field) == f"{MOMENTS}.{field}"


@pytest.mark.parametrize("field", ["name", "when.x", "events", "trip", "created_at", "0", "unknown"])
def test_moments_path_of_any_other_field_is_none(field: str) -> None:
    assert Moments(SCHEMA).path(field) is None


def test_moments_computed_are_those_that_are_named() -> None:
    moments = Moments(SCHEMA)
    assert moments.computed(["name", "when"], under="custom") == {}
    found = moments.computed([f"{MOMENTS}.when", f"{MOMENTS}.trip.start", f"{MOMENTS}.gone", "name"], under="custom")
    assert list(found) == [MOMENTS]
    assert sorted(found[MOMENTS]) == ["trip", "when"]  # type: ignore[call-overload]  # a nested expression


@pytest.mark.parametrize("operator", ["eq", "ne", "gt", "gte", "lt", "lte"])
def test_filter_on_a_date_compares_the_moment(operator: str) -> None:
    wanted = parse_filter(
        {"field": "when", "operator": operator, "value": "2026-03-01T10:00+05:30"}, moments=Moments(SCHEMA)
    )
    assert list(fields_of(wanted)) == [f"{MOMENTS}.when"]
    assert to_mongo(wanted, str) == {f"{MOMENTS}.when": {f"${operator}": MOMENT}}


def test_filter_on_a_date_takes_lists_and_null() -> None:
    moments = Moments(SCHEMA)
    wanted = parse_filter({"OR": [{"field": "day", "operator": "in", "value": ["2026-03-01", None]}]}, moments=moments)
    key = moment_key("2026-03-01")
    assert to_mongo(wanted, str) == {"$or": [{f"{MOMENTS}.day": {"$in": [key, None]}}]}
    assert to_mongo(parse_filter({"when": None}, moments=moments), str) == {f"{MOMENTS}.when": {"$eq": None}}


@pytest.mark.parametrize("operator", ["contains", "starts_with", "exists", "is_null"])
def test_filter_on_a_date_by_text_looks_at_the_text(operator: str) -> None:
    value = "2026-03" if operator in ("contains", "starts_with") else True
    wanted = parse_filter({"field": "when", "operator": operator, "value": value}, moments=Moments(SCHEMA))
    assert list(fields_of(wanted)) == ["when"]


@pytest.mark.parametrize("value", ["yesterday", "2026-02-30", "2026-03-01T25:00"])
def test_filter_on_a_date_with_other_text_is_refused(value: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_filter({"when": value}, moments=Moments(SCHEMA))
    assert caught.value.issues[0]["type"] == "datetime_type"


def test_cursor_of_a_sort_by_moments_is_read_again() -> None:
    name = "x" * 256
    for field in ("when", name):
        cursor = Cursor((Sort(f"{MOMENTS}.{field}"),), 10, Position((MOMENT,), "obj_1"))
        assert Cursor.decode(cursor.encode()) == cursor
