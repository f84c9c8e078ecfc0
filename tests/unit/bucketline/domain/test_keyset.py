from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.bucketline.domain.mongo_conditions import selects

from bucketline.domain.bson_compare import EMPTY, compare, sort_key
from bucketline.domain.keyset import Position, mongo_sort, position_of, rows_after
from bucketline.domain.paging import OBJECTS as BOUNDS
from bucketline.domain.paging import PageRequest, cut, resolve_page
from bucketline.domain.sorting import Sort

START = datetime(2026, 1, 1, tzinfo=UTC)
PATHS = {"object_id": "_id", "created_at": "created_at"}
SIMPLE = ("_id", "created_at")

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(-2, 3, allow_nan=False)
    | st.sampled_from(["", "a", "B", "b", "é", "🎉"])
)
VALUES: st.SearchStrategy[Any] = SCALARS | st.lists(SCALARS, max_size=3) | st.just({"deep": 1}) | st.just([[1]])
INNER = st.dictionaries(st.just("z"), VALUES, max_size=1)
CUSTOM = st.dictionaries(st.sampled_from("xy"), VALUES | INNER | st.lists(SCALARS | INNER, max_size=3), max_size=2)
ORDERS = st.lists(
    st.builds(Sort, st.sampled_from(["x", "y", "y.z", "created_at", "object_id"]), st.booleans()),
    max_size=3,
    unique_by=lambda sort: sort.field,
)


def field_path(field: str) -> str:
    return PATHS.get(field, f"custom.{field}")


def in_order(rows: Sequence[dict[str, Any]], sorts: Sequence[Sort]) -> list[dict[str, Any]]:
    """What MongoDB would return, sorted."""

    def order(left: dict[str, Any], right: dict[str, Any]) -> int:
        for path, direction in mongo_sort(sorts, field_path):
            keys = (sort_key(row, path, descending=direction < 0) for row in (left, right))
            if result := compare(*keys) * direction:
                return result
        return 0

    return sorted(rows, key=cmp_to_key(order))


def row(number: int, custom: dict[str, Any]) -> dict[str, Any]:
    return {"_id": f"obj_{number:04}", "created_at": START + timedelta(seconds=number // 3), "custom": custom}


def page(rows: list[dict[str, Any]], sorts: tuple[Sort, ...], request: PageRequest) -> tuple[list[str], str | None]:
    """One page as the routes read it."""
    if request.cursor is not None and request.cursor.position is not None:
        condition = rows_after(request.cursor.position, sorts, field_path, simple=SIMPLE)
        rows = [candidate for candidate in rows if selects(condition, candidate)]
    fetched = in_order(rows, sorts)[request.skip :][: request.size + 1]
    shown, text = cut(fetched, request, sorts, field_path)
    return [str(found["_id"]) for found in fetched[:shown]], text


@given(st.lists(CUSTOM, max_size=25), ORDERS, st.integers(1, 7))
def test_pages_put_together_are_the_list(customs: list[dict[str, Any]], order: list[Sort], size: int) -> None:
    rows = [row(number, custom) for number, custom in enumerate(customs)]
    sorts = tuple(order)
    seen: list[str] = []
    request: PageRequest | None = PageRequest(size)
    while request is not None:
        ids, text = page(rows, sorts, request)
        seen += ids
        request = resolve_page({"cursor": text, "limit": str(size)}, None, BOUNDS) if text else None
        assert len(seen) <= len(rows)
    assert seen == [str(found["_id"]) for found in in_order(rows, sorts)]


PLAIN = st.dictionaries(st.sampled_from("xy"), SCALARS | st.lists(SCALARS, max_size=3), max_size=2)


@given(st.lists(PLAIN, max_size=20), ORDERS, st.integers(1, 5), st.data())
def test_no_row_is_missed_or_doubled_while_others_come_and_go(
    customs: list[dict[str, Any]], order: list[Sort], size: int, data: st.DataObject
) -> None:
    rows = [row(number, custom) for number, custom in enumerate(customs)]
    stays = {str(found["_id"]) for found in rows}
    sorts = tuple(order)
    seen: list[str] = []
    request: PageRequest | None = PageRequest(size)
    number = len(rows)
    while request is not None:
        ids, text = page(rows, sorts, request)
        seen += ids
        request = resolve_page({"cursor": text, "limit": str(size)}, None, BOUNDS) if text else None
        for custom in data.draw(st.lists(PLAIN, max_size=2)) if number < 60 else []:
            rows.append(row(number, custom))
            number += 1
        if rows and data.draw(st.booleans()):
            gone = rows.pop(data.draw(st.integers(0, len(rows) - 1)))
            stays.discard(str(gone["_id"]))
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)


@pytest.mark.parametrize(
    ("custom", "descending", "key"),
    [
        ({}, False, None),
        ({"x": None}, True, None),
        ({"x": []}, False, EMPTY),
        ({"x": [2, 1]}, False, 1),
        ({"x": [2, 1]}, True, 2),
        ({"x": "words"}, False, "words"),
    ],
)
def test_a_position_holds_the_value_that_the_database_sorts_by(
    custom: dict[str, Any], descending: bool, key: Any
) -> None:
    assert position_of(row(7, custom), [Sort("x", descending)], field_path) == Position((key,), "obj_0007")


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], [{"a": 1}], "x" * 513])
def test_some_values_have_no_position(value: object) -> None:
    assert position_of(row(7, {"x": value}), [Sort("x")], field_path) is None


def test_the_usual_order_bounds_the_index() -> None:
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


def test_the_id_breaks_ties_in_the_direction_of_the_last_field() -> None:
    assert mongo_sort([], field_path) == [("_id", 1)]
    assert mongo_sort([Sort("x"), Sort("created_at", True)], field_path) == [
        ("custom.x", 1),
        ("created_at", -1),
        ("_id", -1),
    ]
    assert mongo_sort([Sort("object_id", True)], field_path) == [("_id", -1)]
