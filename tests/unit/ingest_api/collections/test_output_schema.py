"""What a collection's documents look like."""

from copy import deepcopy
from typing import Any

import pytest

from bucketline.db.collections import FieldPassthrough
from bucketline.extractors import ExtractorInfo
from bucketline_ingest_api.collections.output_schema import (
    build_output_schema,
    merge_schemas,
    passthrough_issues,
    undeclared_field_warnings,
)

SOURCE = {
    "properties": {
        "photo": {"type": "image", "required": True},
        "sku": {"type": "string", "required": True, "default": "?"},
        "vendor": {"type": "object", "properties": {"name": {"type": "string"}, "vat": {"type": "integer"}}},
    }
}
INFO = ExtractorInfo(
    name="words",
    version="v1",
    description="",
    output_schema=lambda parameters: {"properties": {"words": {"type": str(parameters.get("as", "integer"))}}},
)


def rule(source: str, target: str | None = None) -> FieldPassthrough:
    return {"source_path": source, "target_path": target, "default": None, "required": False}


AS_STRING: dict[str, Any] = {"as": "string"}


def of(*rules: FieldPassthrough, include_all: bool = False, **parameters: object) -> Any:
    return build_output_schema(SOURCE, INFO, parameters, rules, include_all=include_all)["properties"]


def test_passed_through_fields_take_the_last_name_and_are_optional() -> None:
    assert of(rule("sku"), rule("vendor.name")) == {
        "sku": {"type": "string"},
        "name": {"type": "string"},
        "words": {"type": "integer"},
    }


def test_nested_target_paths_create_objects() -> None:
    assert of(rule("sku", "ids.sku"), rule("vendor.vat", "ids.vat"))["ids"] == {
        "type": "object",
        "properties": {"sku": {"type": "string"}, "vat": {"type": "integer"}},
    }


def test_build_does_not_modify_the_source_schema() -> None:
    before = deepcopy(SOURCE)
    vendor = of(rule("sku", "vendor.sku"), include_all=True)["vendor"]
    assert set(vendor["properties"]) == {"name", "vat", "sku"}
    of(rule("vendor"), rule("photo", "vendor.photo"))
    build_output_schema(
        merge_schemas([SOURCE]), INFO, {}, [rule("vendor"), rule("sku", "vendor.sku")], include_all=False
    )
    assert before == SOURCE


def test_include_all_includes_every_field_except_files() -> None:
    assert set(of(include_all=True)) == {"sku", "vendor", "words"}


def test_fields_of_the_extractor_take_precedence_and_depend_on_its_parameters() -> None:
    assert of(rule("sku", "words"), **AS_STRING) == {"words": {"type": "string"}}


def test_undeclared_fields_are_warned_about_and_not_part_of_the_schema() -> None:
    assert set(of(rule("photo"), rule("colour"), rule("vendor.city"))) == {"photo", "words"}
    assert undeclared_field_warnings(
        SOURCE, [rule("sku"), rule("colour")], {"text": "vendor.city", "more": "colour"}
    ) == [
        "'colour' is not declared in the schema of the source",
        "'vendor.city' is not declared in the schema of the source",
    ]


def test_merge_with_conflicting_types_keeps_the_first() -> None:
    one = {"properties": {"a": {"type": "string"}}}
    other = {"properties": {"a": {"type": "date"}, "b": {"type": "date"}}}
    assert merge_schemas([one, other]) == {"properties": {"a": {"type": "string"}, "b": {"type": "date"}}}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a..b", None),
        ("$where", None),
        ("a", "b.$c"),
        ("a", "_id"),
        ("a", "_internal.lineage"),
        ("_x", None),
        ("a.document_id", None),
        ("a", "collection_id.x"),
        ("a", "document_blobs"),
        ("a\0", None),
    ],
)
def test_passthrough_with_an_invalid_path_returns_an_issue(source: str, target: str | None) -> None:
    [*faults] = passthrough_issues([rule(source, target)], {})
    assert faults
    assert faults[0]["location"][:4] == ["body", "feature_extractor", "field_passthrough", 0]  # type: ignore[index]


@pytest.mark.parametrize("mappings", [{"": "a"}, {"$x": "a"}, {"a.b": "c"}, {"text": "a..b"}, {"x" * 101: "a"}])
def test_input_mappings_with_invalid_names_or_paths_return_issues(mappings: dict[str, str]) -> None:
    assert passthrough_issues([], mappings)


def test_valid_paths_return_no_issues() -> None:
    assert passthrough_issues([rule("sku"), rule("vendor.name", "vendor")], {"text": "note"}) == []
