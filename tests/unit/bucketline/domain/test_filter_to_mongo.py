from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.bucketline.domain.filter_strategies import FILTERS, documents, field_path
from tests.unit.bucketline.domain.mongo_conditions import selects

from bucketline.domain.filter_match import matches
from bucketline.domain.filter_to_mongo import to_mongo
from bucketline.domain.filters import parse

KNOWN = {
    "$and", "$or", "$nor", "$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$regex", "$elemMatch"
}  # fmt: skip


def query(raw: object) -> dict[str, object]:
    return to_mongo(parse(raw, exact=["object_id"]), field_path)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, {}),
        ({"object_id": "obj_1"}, {"_id": {"$eq": "obj_1"}}),
        ({"field": "object_id", "operator": "in", "value": ["obj_1", "obj_2"]}, {"_id": {"$in": ["obj_1", "obj_2"]}}),
        ({"qty": 4}, {"custom.qty": {"$eq": 4}}),
        ({"zip": "89073"}, {"custom.zip": {"$eq": "89073"}}),
        ({"a": "Ab", "case_sensitive": True}, {"custom.a": {"$eq": "Ab"}}),
        ({"field": "a", "operator": "ne", "value": 1}, {"custom.a": {"$ne": 1}}),
        ({"field": "metadata.x", "operator": "gt", "value": 1}, {"custom.metadata.x": {"$gt": 1}}),
        ({"field": "a", "operator": "contains", "value": 7}, {"custom.a": {"$elemMatch": {"$eq": 7}}}),
    ],
)
def test_plain_comparisons_stay_plain_so_that_an_index_serves_them(raw: object, expected: object) -> None:
    assert query(raw) == expected


@given(FILTERS, st.lists(documents(), min_size=1, max_size=4))
def test_query_and_evaluator_agree(raw: dict[str, Any], contents: list[dict[str, Any]]) -> None:
    wanted = parse(raw, exact=["object_id"])
    condition = to_mongo(wanted, field_path)
    for number, content in enumerate(contents):
        row = {"_id": f"obj_{number}", **content}
        assert selects(condition, row) == matches(wanted, row, field_path)


def operators(value: object) -> set[str]:
    if isinstance(value, dict):
        return {key for key in value if key.startswith("$")} | {o for inner in value.values() for o in operators(inner)}
    if isinstance(value, list):
        return {o for inner in value for o in operators(inner)}
    return set()


@given(FILTERS)
def test_only_operators_of_ours_reach_the_server(raw: dict[str, Any]) -> None:
    condition = query(raw)
    assert operators(condition) <= KNOWN


def test_text_that_looks_like_an_operator_is_text() -> None:
    assert query({"zip": "$1"}) == {"custom.zip": {"$eq": "$1"}}
    assert operators(query({"field": "a", "operator": "in", "value": ["$where", "$gt"]})) == {"$regex"}


def test_a_long_list_is_spread_over_several_patterns() -> None:
    values = [f"value-{number}" * 5 for number in range(100)]
    condition = query({"field": "a", "operator": "in", "value": values})
    patterns = condition["$or"]
    assert isinstance(patterns, list)
    assert len(patterns) > 1
    for value in values:
        assert selects(condition, {"custom": {"a": value.upper()}})
    assert not selects(condition, {"custom": {"a": "value-1"}})
