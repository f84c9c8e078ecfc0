import pytest

from bucketline.domain.sorting import Sort, path_fault, resolve_sorts, with_ties
from bucketline.errors import ValidationFailed


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
def test_one_or_several_fields_ascending_by_default(
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
def test_anything_else_is_a_row(sort: object, kind: str, location: list[object]) -> None:
    with pytest.raises(ValidationFailed) as caught:
        resolve_sorts(sort)
    (fault,) = caught.value.faults
    assert (fault["type"], fault["location"]) == (kind, location)


@pytest.mark.parametrize(
    ("sorts", "expected"),
    [
        ((Sort("at"),), (Sort("at"), Sort("object"), Sort("place"))),
        ((Sort("at", True),), (Sort("at", True), Sort("object", True), Sort("place", True))),
        ((Sort("object", True), Sort("b")), (Sort("object", True), Sort("b"), Sort("place"))),
    ],
)
def test_ties_follow_the_last_field_and_what_is_named_is_not_said_again(
    sorts: tuple[Sort, ...], expected: tuple[Sort, ...]
) -> None:
    assert with_ties(sorts, ("object", "place")) == expected
    assert with_ties(sorts, ()) == sorts


@pytest.mark.parametrize("path", ["", ".", "a.", "a..b", "$a", "a.$b", "a\0", "\ud800", "x" * 257, ".".join("x" * 17)])
def test_paths_that_must_not_reach_the_database(path: str) -> None:
    assert path_fault(path) is not None


@pytest.mark.parametrize("path", ["a", "a.b.0.c", "metadata.größe", "a$b", "with space"])
def test_paths_that_may(path: str) -> None:
    assert path_fault(path) is None
