import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixpeek.models.logical_operator_input import LogicalOperatorInput

from bucketline.domain.filters import MAX_CONDITIONS, Condition, Group, parse_filter, to_mongo
from bucketline.domain.schema import MAX_FAULTS
from bucketline.errors import ValidationFailed


@pytest.mark.parametrize("raw", [None, {}, {"AND": None, "OR": [], "NOT": [], "case_sensitive": False}])
def test_nothing_selects_everything(raw: object) -> None:
    assert parse_filter(raw) == Group()


def test_conditions_groups_and_shorthand() -> None:
    raw = {
        "AND": [{"field": "state", "operator": "eq", "value": "open"}, {"field": "qty", "operator": "gte", "value": 2}],
        "OR": [{"field": "a", "value": None}, {"b": True}],
        "NOT": [{"AND": [{"field": "tags", "operator": "in", "value": ["x", 1]}]}],
        "metadata.title": "Report",
    }
    assert parse_filter(raw) == Group(
        every=(
            Condition("state", "eq", "open"),
            Condition("qty", "gte", 2),
            Condition("metadata.title", "eq", "Report"),
        ),
        some=(Condition("a", "eq", None), Group(every=(Condition("b", "eq", True),))),
        none=(Group(every=(Condition("tags", "in", ("x", 1)),)),),
    )


def test_a_condition_may_stand_alone_and_a_field_may_be_called_field() -> None:
    assert parse_filter({"field": "a", "operator": "ne", "value": 1}) == Condition("a", "ne", 1)
    assert parse_filter({"field": "x", "sku": "A"}) == Group(
        every=(Condition("field", "eq", "x"), Condition("sku", "eq", "A"))
    )


def test_true_for_case_holds_for_everything_inside() -> None:
    entry = {"field": "a", "operator": "eq", "value": "x", "case_sensitive": False}
    assert parse_filter(entry) == Condition("a", "eq", "x", case_sensitive=False)
    assert parse_filter({**entry, "case_sensitive": True}) == Condition("a", "eq", "x", case_sensitive=True)
    inside = parse_filter({"AND": [{"OR": [entry]}], "b": "y", "case_sensitive": True})
    assert inside == Group(every=(Group(some=(Condition("a", "eq", "x", True),)), Condition("b", "eq", "y", True)))
    assert parse_filter({"a": "x"}, exact=["a"]) == Group(every=(Condition("a", "eq", "x", True),))


def test_requests_of_the_official_client_are_accepted() -> None:
    sent = LogicalOperatorInput.from_dict({"AND": [{"field": "state", "operator": "eq", "value": "open"}], "sku": "A"})
    assert sent is not None
    assert parse_filter(sent.to_dict()) == Group(every=(Condition("state", "eq", "open"), Condition("sku", "eq", "A")))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T10:00:00Z", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01t10:00:00.123987+02:00", datetime(2026, 3, 1, 8, 0, 0, 123000, tzinfo=UTC)),
        ("2026-03-01 10:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ],
)
def test_dates_of_ours_are_compared_as_dates(text: str, moment: datetime) -> None:
    assert parse_filter({"field": "created_at", "operator": "gt", "value": text}) == Condition(
        "created_at", "gt", moment
    )
    assert parse_filter({"field": "updated_at", "operator": "in", "value": [text, None]}) == Condition(
        "updated_at", "in", (moment, None)
    )
    assert parse_filter({"field": "due", "operator": "gt", "value": text}) == Condition("due", "gt", text)
    assert parse_filter({"due": text}, dates=["due"]) == Group(every=(Condition("due", "eq", moment),))


@pytest.mark.parametrize(
    ("raw", "kind", "where"),
    [
        ([], "dict_type", []),
        ("a = 1", "dict_type", []),
        ({"AND": {}}, "list_type", ["AND"]),
        ({"OR": [1]}, "dict_type", ["OR", 0]),
        ({"case_sensitive": "no"}, "bool_type", ["case_sensitive"]),
        ({"field": "a"}, "missing", ["value"]),
        ({"field": "a", "operator": "eq"}, "missing", ["value"]),
        ({"field": 1, "value": 1}, "string_type", ["field"]),
        ({"field": "a", "operator": "geo_radius", "value": 1}, "enum", ["operator"]),
        ({"field": "a", "operator": ["eq"], "value": 1}, "enum", ["operator"]),
        ({"field": "a", "operator": "$gt", "value": 1}, "enum", ["operator"]),
        ({"field": "a", "op": "gt", "value": 1}, "extra_forbidden", ["op"]),
        ({"field": "$where", "value": "1"}, "field_path", ["field"]),
        ({"$where": "1"}, "field_path", ["$where"]),
        ({"a.$b": "1"}, "field_path", ["a.$b"]),
        ({"a": {"$gt": ""}}, "value_type", ["a"]),
        ({"a": ["x"]}, "value_type", ["a"]),
        ({"field": "a", "operator": "eq", "value": {"x": 1}}, "value_type", ["value"]),
        ({"field": "a", "operator": "gt", "value": None}, "value_type", ["value"]),
        ({"field": "a", "operator": "gt", "value": True}, "value_type", ["value"]),
        ({"field": "a", "operator": "in", "value": "x"}, "list_type", ["value"]),
        ({"field": "a", "operator": "nin", "value": ["x", {}]}, "value_type", ["value", 1]),
        ({"field": "a", "operator": "in", "value": [1] * 1001}, "too_long", ["value"]),
        ({"field": "a", "operator": "contains", "value": None}, "value_type", ["value"]),
        ({"field": "a", "operator": "starts_with", "value": 1}, "value_type", ["value"]),
        ({"field": "a", "operator": "exists", "value": "yes"}, "bool_type", ["value"]),
        ({"field": "a", "operator": "words", "value": "?!"}, "string_too_short", ["value"]),
        ({"field": "a", "operator": "phrase", "value": "a " * 31}, "string_too_long", ["value"]),
        ({"field": "a", "operator": "regex", "value": "(a"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "a)|(b"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "a**"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "(?i)a"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "a(?s:.)"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": r"\p{L}"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "(?R)"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "(*LIMIT_MATCH=9)a"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "(?<=a+)b"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "a\0"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "a{99999999999}"}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "x" * 501}, "regex", ["value"]),
        ({"field": "a", "operator": "regex", "value": "(a+)+"}, "regex", ["value"]),
        ({"a": "x" * 1025}, "string_too_long", ["a"]),
        ({"a": "\ud800"}, "string_unicode", ["a"]),
        ({"a": 2**63}, "int_size", ["a"]),
        ({"a": float("nan")}, "finite_number", ["a"]),
        ({"created_at": "yesterday"}, "datetime_type", ["created_at"]),
        ({"created_at": "0001-01-01T00:00:00+05:00"}, "datetime_type", ["created_at"]),
    ],
)
def test_each_issue_is_one_row(raw: object, kind: str, where: list[object]) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_filter(raw)
    (fault,) = caught.value.issues
    assert (fault["type"], fault["location"]) == (kind, ["body", "filters", *where])


def test_all_issues_are_reported_together() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_filter({"AND": [{"field": "a", "operator": "x", "value": 1}, {"b": []}], "NOT": [5], "$c": 1})
    assert len(caught.value.issues) == 4


def nested(levels: int) -> dict[str, Any]:
    raw: dict[str, Any] = {"a": 1}
    for _ in range(levels - 1):
        raw = {"NOT": [raw]}
    return raw


def test_depth_and_size_are_bounded() -> None:
    parse_filter(nested(10))
    raw: object
    for raw in (
        nested(11),
        nested(900),
        {"OR": [{"field": "a", "value": 1}] * (MAX_CONDITIONS + 1)},
        {"AND": [{"OR": [{"field": "a", "value": 1}] * 101}] * 2},
        {"AND": [{"AND": [{}] * 199}] * 2},
        {"AND": [{"field": "a", "operator": "in", "value": ["x" * 1024] * 201}]},
        {"AND": [{"field": "a", "operator": "regex", "value": "x" * 400}] * 3},
    ):
        with pytest.raises(ValidationFailed) as caught:
            parse_filter(raw)
        assert len(caught.value.issues) <= MAX_FAULTS
    parse_filter({"OR": [{"field": "a", "value": 1}] * MAX_CONDITIONS})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["AND", "OR", "NOT", "field", "operator", "value", "case_sensitive", "a", "$where"]),
            inner | st.sampled_from(["eq", "in", "regex", "exists"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_filter_or_rows_of_faults(raw: object) -> None:
    try:
        parsed = parse_filter(raw)
    except ValidationFailed as error:
        faults = error.issues
    else:
        faults = []
        assert isinstance(parsed, Condition | Group)
    assert len(faults) <= MAX_FAULTS


OPERATORS = {
    "$and", "$or", "$nor", "$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$regex", "$elemMatch"
}  # fmt: skip


def query(raw: object) -> dict[str, object]:
    paths = {"object_id": "_id"}
    return to_mongo(parse_filter(raw, exact=["object_id"]), lambda name: paths.get(name, f"custom.{name}"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, {}),
        ({"object_id": "obj_1"}, {"_id": {"$eq": "obj_1"}}),
        ({"field": "object_id", "operator": "in", "value": ["obj_1", "obj_2"]}, {"_id": {"$in": ["obj_1", "obj_2"]}}),
        ({"qty": 4}, {"custom.qty": {"$eq": 4}}),
        ({"zip": "89073"}, {"custom.zip": {"$eq": "89073"}}),
        ({"zip": "$1"}, {"custom.zip": {"$eq": "$1"}}),
        ({"a": "Ab", "case_sensitive": True}, {"custom.a": {"$eq": "Ab"}}),
        ({"field": "a", "operator": "ne", "value": 1}, {"custom.a": {"$ne": 1}}),
        ({"field": "metadata.x", "operator": "gt", "value": 1}, {"custom.metadata.x": {"$gt": 1}}),
        ({"field": "a", "operator": "contains", "value": 7}, {"custom.a": {"$elemMatch": {"$eq": 7}}}),
        (
            {"field": "a", "operator": "starts_with", "value": "x/Y", "case_sensitive": True},
            {"custom.a": {"$regex": r"\Ax/Y"}},
        ),
    ],
)
def test_to_mongo_keeps_plain_comparisons_plain_so_that_an_index_serves_them(raw: object, expected: object) -> None:
    assert query(raw) == expected


def operators(value: object) -> set[str]:
    if isinstance(value, dict):
        return {key for key in value if key.startswith("$")} | {o for inner in value.values() for o in operators(inner)}
    if isinstance(value, list):
        return {o for inner in value for o in operators(inner)}
    return set()


@given(JSON)
def test_to_mongo_sends_only_known_operators(raw: object) -> None:
    try:
        sent = query(raw)
    except ValidationFailed:
        return
    assert operators(sent) <= OPERATORS


def test_to_mongo_splits_a_long_list_over_several_patterns() -> None:
    values = [f"value-{number}" * 30 for number in range(100)]
    patterns = query({"field": "a", "operator": "in", "value": values})["$or"]
    assert isinstance(patterns, list)
    assert len(patterns) > 1
    for value in values:
        assert sum(bool(re.search(p["custom.a"]["$regex"].replace(r"\z", r"\Z"), value.upper())) for p in patterns) == 1
