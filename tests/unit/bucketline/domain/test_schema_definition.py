import copy
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.schema import MAX_FAULTS, TYPES, apply_defaults, validate_fields
from bucketline.domain.schema_definition import breaking_changes, schema_faults
from bucketline.errors import ValidationIssue

SOUND: dict[str, Any] = {
    "properties": {
        "invoice": {"type": "pdf", "description": "scan", "required": True},
        "qty": {"type": "integer", "default": 1, "examples": [1, 12]},
        "state": {"type": "string", "enum": ["open", "paid"], "default": "open"},
        "vendor": {"type": "object", "properties": {"name": {"type": "string"}}},
        "tags": {"type": "array", "items": {"type": "string"}},
        "extra": {"type": "string", "x-unit": "mm"},
    }
}


def nested(levels: int) -> dict[str, Any]:
    field: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        field = {"type": "object", "properties": {"in": field}}
    return {"properties": {"out": field}}


def test_a_sound_schema_of_every_type_has_no_fault() -> None:
    assert schema_faults(SOUND) == []
    assert len(TYPES) == 15
    assert schema_faults({"properties": {f"p_{name}": {"type": name} for name in TYPES}}) == []
    assert schema_faults({"properties": {}}) == []
    assert schema_faults(nested(7)) == []


@pytest.mark.parametrize(
    ("field", "kind", "where"),
    [
        ({}, "missing", ["type"]),
        ({"type": "json"}, "enum", ["type"]),
        ({"type": "PDF"}, "enum", ["type"]),
        ({"type": ["string"]}, "enum", ["type"]),
        ("string", "dict_type", []),
        ({"type": "string", "required": "yes"}, "bool_type", ["required"]),
        ({"type": "string", "description": 5}, "string_type", ["description"]),
        ({"type": "string", "enum": "open"}, "list_type", ["enum"]),
        ({"type": "string", "enum": []}, "too_short", ["enum"]),
        ({"type": "string", "enum": ["a", 1]}, "string_type", ["enum", 1]),
        ({"type": "string", "examples": {}}, "list_type", ["examples"]),
        ({"type": "string", "default": 1}, "string_type", ["default"]),
        ({"type": "string", "enum": ["a"], "default": "b"}, "enum", ["default"]),
        ({"type": "image", "default": "x"}, "unexpected", ["default"]),
        ({"type": "string", "items": {"type": "string"}}, "unexpected", ["items"]),
        ({"type": "string", "properties": {}}, "unexpected", ["properties"]),
        ({"type": "array", "items": {"type": "list"}}, "enum", ["items", "type"]),
        ({"type": "object", "properties": []}, "dict_type", ["properties"]),
        ({"type": "object", "properties": {"a": {"type": "x"}}}, "enum", ["properties", "a", "type"]),
        ({"type": "object", "properties": {"$a": {"type": "string"}}}, "field_name", ["properties", "$a"]),
        ({"type": "object", "properties": {"a.b": {"type": "string"}}}, "property_name", ["properties", "a.b"]),
        ({"type": "integer", "default": 2**63}, "int_size", ["default"]),
    ],
)
def test_an_unsound_field_is_one_row(field: object, kind: str, where: list[object]) -> None:
    (fault,) = schema_faults({"properties": {"it": field}})
    assert (fault["type"], fault["location"]) == (kind, ["body", "bucket_schema", "properties", "it", *where])


@pytest.mark.parametrize("schema", [None, [], "x", {}, {"properties": None}, {"properties": []}])
def test_invalid_schema_is_refused(schema: object) -> None:
    assert len(schema_faults(schema)) == 1


@pytest.mark.parametrize("name", ["status", "_internal", "blobs", "object_id", "key_prefix"])
def test_reserved_field_name_is_refused_except_for_files(name: str) -> None:
    assert [fault["type"] for fault in schema_faults({"properties": {name: {"type": "string"}}})] == ["reserved"]
    assert schema_faults({"properties": {name: {"type": "image"}}}) == []


def test_depth_size_and_rows_are_bounded() -> None:
    assert [fault["type"] for fault in schema_faults(nested(8))] == ["too_deep"]
    assert schema_faults(nested(5000))[0]["type"] == "too_deep"
    many = {f"p{i}": {"type": "string"} for i in range(501)}
    assert [fault["type"] for fault in schema_faults({"properties": many})] == ["too_large"]
    inner = {"properties": {"o": {"type": "array", "items": {"type": "object", "properties": many}}}}
    assert [fault["type"] for fault in schema_faults(inner)] == ["too_large"]
    long = {"properties": {"p": {"type": "string", "description": "x" * 300_000}}}
    assert [fault["type"] for fault in schema_faults(long)] == ["too_large"]
    assert len(schema_faults({"properties": {f"p{i}": {} for i in range(400)}})) == MAX_FAULTS


def changed(**fields: object) -> dict[str, Any]:
    schema = copy.deepcopy(SOUND)
    for name, field in fields.items():
        if field is None:
            del schema["properties"][name]
        else:
            schema["properties"][name] = field
    return schema


@pytest.mark.parametrize(
    "new",
    [
        SOUND,
        changed(colour={"type": "string"}),
        changed(colour={"type": "string", "required": False, "default": "red"}),
        changed(invoice={"type": "pdf", "description": "other words", "required": True}),
        changed(extra={"type": "string", "x-unit": "mm", "required": False}),
        changed(vendor={"type": "object", "properties": {"name": {"type": "string"}, "city": {"type": "string"}}}),
    ],
)
def test_additions_that_no_stored_object_can_miss_are_free(new: dict[str, Any]) -> None:
    assert breaking_changes(SOUND, new) == []


@pytest.mark.parametrize(
    ("new", "named"),
    [
        (changed(qty=None), "qty was removed"),
        (changed(colour={"type": "string", "required": True}), "colour is new and required"),
        (changed(qty={"type": "number", "default": 1}), "type of qty changed"),
        (changed(qty={"type": "integer", "default": 2}), "default of qty changed"),
        (changed(qty={"type": "integer", "default": 1, "required": True}), "required of qty changed"),
        (changed(invoice={"type": "pdf"}), "required of invoice changed"),
        (changed(state={"type": "string", "enum": ["open"], "default": "open"}), "enum of state changed"),
        (changed(tags={"type": "array", "items": {"type": "integer"}}), "type of tags[] changed"),
        (changed(tags={"type": "array"}), "items of tags changed"),
        (changed(vendor={"type": "object", "properties": {}}), "vendor.name was removed"),
        (changed(extra={"type": "string", "x-unit": "cm"}), "x-unit of extra changed"),
    ],
)
def test_anything_else_is_named(new: dict[str, Any], named: str) -> None:
    assert breaking_changes(SOUND, new) == [named]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELD: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.fixed_dictionaries(
        cast("dict[str, st.SearchStrategy[Any]]", {"type": st.sampled_from(sorted(TYPES))}),
        optional={
            "required": st.booleans() | st.none(),
            "default": JSON,
            "enum": st.lists(JSON, max_size=3),
            "items": FIELD,
            "properties": st.dictionaries(st.sampled_from(["a", "b"]), FIELD, max_size=2),
        },
    )
)


@given(
    JSON | st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("abc"), FIELD | JSON, max_size=3)}),
    JSON,
)
def test_whatever_passes_can_be_validated_against(schema: Any, value: Any) -> None:
    """No schema makes validation crash later, and the defaults of a sound schema are valid values."""
    faults = schema_faults(schema)
    assert all(isinstance(fault, ValidationIssue) for fault in faults)
    if not faults:
        custom = dict.fromkeys(schema["properties"], value)
        assert len(validate_fields(schema, custom)) <= MAX_FAULTS
        filled = apply_defaults(schema, {})
        wrong = [row["location"] for row in validate_fields(schema, filled) if row["type"] != "missing"]
        assert wrong == []
        assert breaking_changes(schema, schema) == []
