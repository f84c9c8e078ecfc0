"""Sort orders, cursors and the condition for the rows after a cursor."""

import base64
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.keyset import (
    CURSOR_VERSION,
    EMPTY,
    Cursor,
    Partition,
    Position,
    Sort,
    _checksum,
    mongo_sort,
    path_fault,
    position_of,
    resolve_sorts,
    rows_after,
    with_ties,
)
from bucketline.errors import BadRequest, ValidationFailed

START = datetime(2026, 1, 1, tzinfo=UTC)
PATHS = {"object_id": "_id", "created_at": "created_at"}
SIMPLE = ("_id", "created_at")

MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2999, 1, 1)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
)
KEYS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20) | MOMENTS | st.just(EMPTY)
)  # fmt: skip


def field_path(field: str) -> str:
    return PATHS.get(field, f"custom.{field}")


@st.composite
def cursors(draw: st.DrawFn) -> Cursor:
    sorts = draw(st.lists(st.builds(Sort, st.sampled_from(["a", "b.c", "größe"]), st.booleans()), max_size=3))
    position = draw(st.none() | st.just(Position(tuple(draw(KEYS) for _ in sorts), "obj_1")))
    partition = draw(st.none() | st.just(Partition(1, 4)))
    return Cursor(tuple(sorts), draw(st.integers(0, 2**40)), position, partition)


@pytest.mark.parametrize(
    ("sort", "sorts", "expected"),
    [
        (None, None, None),
        ([], None, None),
        ({"field": "a"}, None, (Sort("a"),)),
        ({"field": "a", "direction": None}, None, (Sort("a"),)),
        ({"field": "a.b", "direction": "desc"}, None, (Sort("a.b", descending=True),)),
        (None, [{"field": "a"}, {"field": "b", "direction": "asc"}], (Sort("a"), Sort("b"))),
        ({"field": "a"}, [{"field": "b"}], (Sort("a"),)),
        ([{"field": "a"}, {"field": "a", "direction": "desc"}], None, (Sort("a"),)),
    ],
)
def test_resolve_sorts_with_valid_entries_returns_them_ascending_by_default(
    sort: object, sorts: object, expected: tuple[Sort, ...] | None
) -> None:
    assert resolve_sorts(sort, sorts) == expected


@pytest.mark.parametrize(
    ("sort", "kind", "location"),
    [
        ("a", "dict_type", ["body", "sort"]),
        ({}, "missing", ["body", "sort", "field"]),
        ({"field": 1}, "string_type", ["body", "sort", "field"]),
        ({"field": "a", "direction": "up"}, "enum", ["body", "sort", "direction"]),
        ({"field": "a", "direction": ["asc"]}, "enum", ["body", "sort", "direction"]),
        ({"field": "$where"}, "field_path", ["body", "sort", "field"]),
        ({"field": "list.0"}, "field_path", ["body", "sort", "field"]),
        ([{"field": "a"}, {"field": ""}], "field_path", ["body", "sort", 1, "field"]),
        ([{"field": f"f{i}"} for i in range(5)], "too_long", ["body", "sort"]),
    ],
)
def test_resolve_sorts_with_invalid_entry_reports_one_issue(sort: object, kind: str, location: list[object]) -> None:
    with pytest.raises(ValidationFailed) as caught:
        resolve_sorts(sort)
    (issue,) = caught.value.issues
    assert (issue["type"], issue["location"]) == (kind, location)


@pytest.mark.parametrize(
    ("sorts", "expected"),
    [
        ((Sort("at"),), (Sort("at"), Sort("object"), Sort("index"))),
        ((Sort("at", True),), (Sort("at", True), Sort("object", True), Sort("index", True))),
        ((Sort("object", True), Sort("b")), (Sort("object", True), Sort("b"), Sort("index"))),
    ],
)
def test_with_ties_appends_missing_fields_in_the_last_direction(
    sorts: tuple[Sort, ...], expected: tuple[Sort, ...]
) -> None:
    assert with_ties(sorts, ("object", "index")) == expected
    assert with_ties(sorts, ()) == sorts


@pytest.mark.parametrize("path", ["", ".", "a.", "a..b", "$a", "a.$b", "a\0", "\ud800", "x" * 257, ".".join("x" * 17)])
def test_path_fault_of_unsafe_path_is_a_reason(path: str) -> None:
    assert path_fault(path) is not None


@pytest.mark.parametrize("path", ["a", "a.b.0.c", "metadata.größe", "a$b", "with space"])
def test_path_fault_of_safe_path_is_none(path: str) -> None:
    assert path_fault(path) is None


@given(cursors())
def test_cursor_encoded_and_decoded_is_equal_and_url_safe(cursor: Cursor) -> None:
    text = cursor.encode()
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert Cursor.decode(text) == cursor


@given(cursors(), st.data())
def test_cursor_with_one_changed_letter_is_refused(cursor: Cursor, data: st.DataObject) -> None:
    text = cursor.encode()
    index = data.draw(st.integers(0, len(text) - 2))
    letter = data.draw(st.sampled_from("AZaz09-_").filter(lambda letter: letter != text[index]))
    with pytest.raises(BadRequest) as caught:
        Cursor.decode(text[:index] + letter + text[index + 1 :])
    assert caught.value.code == "invalid_cursor"


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_cursor_decoded_from_other_text_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Cursor.decode(text)


def test_cursor_decoded_from_very_long_text_is_refused() -> None:
    with pytest.raises(BadRequest):
        Cursor.decode("A" * 100_000)


def forge(body: bytes) -> str:
    return base64.urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")


VALID: dict[str, Any] = {"v": CURSOR_VERSION, "s": [["a", False]], "n": 1, "k": [1], "i": "obj_1"}


def test_cursor_forged_from_a_valid_payload_is_accepted() -> None:
    """Shows that the next test fails for the right reason."""
    assert Cursor.decode(forge(bson.encode(VALID))) == Cursor((Sort("a"),), 1, Position((1,), "obj_1"))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 1}, {"n": -1}, {"n": True}, {"n": "1"}, {"n": 2**60},
        {"s": [["$where", False]]}, {"s": [["a", "x"]]}, {"s": [["a", []]]}, {"s": [[1, False]]}, {"s": "a"},
        {"s": [["a", False]] * 7, "k": [1] * 7},
        {"k": []}, {"k": [{"$gt": ""}]}, {"k": [["$gt"]]}, {"k": ["x" * 600]}, {"k": [bson.ObjectId()]},
        {"k": [bson.Code("1")]}, {"k": [b"x"]}, {"k": [bson.Regex("x")]},
        {"i": {"$gt": ""}}, {"i": 1}, {"i": "x" * 300},
        {"p": [4, 4]}, {"p": [0, 300]}, {"p": ["0", 4]}, {"p": 1},
    ],
)  # fmt: skip
def test_cursor_forged_with_other_than_plain_values_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        Cursor.decode(forge(bson.encode({**VALID, **change})))


@pytest.mark.parametrize("body", [b"", b"\x05\x00\x00\x00", b"not bson", b"\x05\x00\x00\x00\x00", b"\xff" * 40])
def test_cursor_forged_from_other_bytes_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        Cursor.decode(forge(body))


def row(custom: dict[str, Any]) -> dict[str, Any]:
    return {"_id": "obj_7", "created_at": START, "custom": custom}


@pytest.mark.parametrize(
    ("custom", "descending", "key"),
    [
        ({}, False, None),
        ({"x": None}, True, None),
        ({"x": []}, False, EMPTY),
        ({"x": [2, 1]}, False, 1),
        ({"x": [2, 1]}, True, 2),
        ({"x": [2, "b", None]}, False, None),
        ({"x": [2, "b", None, True]}, True, True),
        ({"x": [{"a": 1}, 3]}, False, 3),
        ({"x": "words"}, False, "words"),
    ],
)
def test_position_of_row_holds_the_value_that_mongodb_sorts_by(
    custom: dict[str, Any], descending: bool, key: Any
) -> None:
    assert position_of(row(custom), [Sort("x", descending)], field_path) == Position((key,), "obj_7")


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], [{"a": 1}], "x" * 513])
def test_position_of_row_with_value_that_does_not_fit_is_none(value: object) -> None:
    assert position_of(row({"x": value}), [Sort("x")], field_path) is None


def test_rows_after_with_simple_field_bounds_the_index_scan() -> None:
    position = Position((START,), "obj_1")
    assert rows_after(position, [Sort("created_at")], field_path, simple=SIMPLE) == {
        "$and": [
            {"created_at": {"$gte": START}},
            {
                "$or": [
                    {"created_at": {"$gt": START}},
                    {"$and": [{"created_at": {"$eq": START}}, {"_id": {"$gt": "obj_1"}}]},
                ]
            },
        ]
    }
    assert rows_after(Position((), "obj_1"), [], field_path) == {"_id": {"$gt": "obj_1"}}


def test_mongo_sort_breaks_ties_by_id_in_the_last_direction() -> None:
    assert mongo_sort([], field_path) == [("_id", 1)]
    assert mongo_sort([Sort("x"), Sort("created_at", True)], field_path) == [
        ("custom.x", 1),
        ("created_at", -1),
        ("_id", -1),
    ]
    assert mongo_sort([Sort("object_id", True)], field_path) == [("_id", -1)]
