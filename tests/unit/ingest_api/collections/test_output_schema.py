"""What a collection's documents look like."""

from copy import deepcopy
from typing import Any

import pytest

from bucketline.db.collections import FieldPassthrough
from bucketline.extractors import ExtractorInfo
from bucketline_ingest_api.collections.output_schema import merged, output_schema, passthrough_faults, warnings

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


def of(*rules: FieldPassthrough, include_all: bool = False, **parameters: object) -> Any:
    return output_schema(SOURCE, INFO, parameters, rules, include_all=include_all)["properties"]


def test_passed_fields_come_under_their_last_name_and_are_never_required() -> None:
    assert of(rule("sku"), rule("vendor.name")) == {
        "sku": {"type": "string"},
        "name": {"type": "string"},
        "words": {"type": "integer"},
    }


def test_a_target_may_be_nested() -> None:
    assert of(rule("sku", "ids.sku"), rule("vendor.vat", "ids.vat"))["ids"] == {
        "type": "object",
        "properties": {"sku": {"type": "string"}, "vat": {"type": "integer"}},
    }


def test_the_schema_of_the_source_stays_as_it_is() -> None:
    """It is the bucket's, which is kept for a while and checks what producers send."""
    before = deepcopy(SOURCE)
    vendor = of(rule("sku", "vendor.sku"), include_all=True)["vendor"]
    assert set(vendor["properties"]) == {"name", "vat", "sku"}
    of(rule("vendor"), rule("photo", "vendor.photo"))
    output_schema(merged([SOURCE]), INFO, {}, [rule("vendor"), rule("sku", "vendor.sku")], include_all=False)
    assert before == SOURCE


def test_all_fields_but_the_files_are_included() -> None:
    assert set(of(include_all=True)) == {"sku", "vendor", "words"}


def test_the_extractor_has_the_last_word_and_depends_on_its_parameters() -> None:
    assert of(rule("sku", "words"), **{"as": "string"}) == {"words": {"type": "string"}}


def test_a_file_passed_by_name_is_told_and_an_undeclared_field_is_not() -> None:
    assert set(of(rule("photo"), rule("colour"), rule("vendor.city"))) == {"photo", "words"}
    assert warnings(SOURCE, [rule("sku"), rule("colour")], {"text": "vendor.city", "more": "colour"}) == [
        "'colour' is not declared in the schema of the source",
        "'vendor.city' is not declared in the schema of the source",
    ]


def test_of_two_sources_the_first_one_names_the_type() -> None:
    one = {"properties": {"a": {"type": "string"}}}
    other = {"properties": {"a": {"type": "date"}, "b": {"type": "date"}}}
    assert merged([one, other]) == {"properties": {"a": {"type": "string"}, "b": {"type": "date"}}}


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
def test_paths_that_cannot_be_read_or_written_are_told(source: str, target: str | None) -> None:
    [*faults] = passthrough_faults([rule(source, target)], {})
    assert faults
    assert faults[0]["location"][:4] == ["body", "feature_extractor", "field_passthrough", 0]  # type: ignore[index,call-overload]


@pytest.mark.parametrize("mappings", [{"": "a"}, {"$x": "a"}, {"a.b": "c"}, {"text": "a..b"}, {"x" * 101: "a"}])
def test_inputs_need_plain_names_and_paths(mappings: dict[str, str]) -> None:
    assert passthrough_faults([], mappings)


def test_plain_paths_are_fine() -> None:
    assert passthrough_faults([rule("sku"), rule("vendor.name", "vendor")], {"text": "note"}) == []
