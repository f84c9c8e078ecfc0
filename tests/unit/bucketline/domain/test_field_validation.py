from typing import Any

import pytest

from bucketline.domain.field_validation import (
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_FREE_FORM_BYTES,
    custom_faults,
    free_form_faults,
    promoted,
)
from bucketline.domain.schema import MAX_FAULTS


@pytest.mark.parametrize(
    "name",
    ["object_id", "bucket_id", "namespace_id", "status", "error", "created_at", "updated_at", "document_count",
     "source_details", "consistency", "_internal", "_", "_id"],
)  # fmt: skip
def test_reserved_names_are_refused(name: str) -> None:
    (fault,) = custom_faults({name: 1, "fine": 2})
    assert (fault["type"], fault["location"]) == ("reserved", ["body", name])


@pytest.mark.parametrize("name", ["blobs", "edges", "idempotency_key"])
def test_fields_of_an_object_that_a_patch_cannot_change_are_refused(name: str) -> None:
    assert [fault["type"] for fault in custom_faults({name: []})] == ["reserved"]


def test_auto_process_belongs_into_the_query_unless_the_schema_has_it() -> None:
    (fault,) = custom_faults({"auto_process": True})
    assert fault["type"] == "extra_forbidden"
    assert custom_faults({"auto_process": True}, schema_properties=["auto_process"]) == []


@pytest.mark.parametrize("name", ["", "a.b", "$set", "nul\0", "half\ud800", "x" * 257])
def test_names_that_would_not_come_back_as_they_were_sent_are_refused(name: str) -> None:
    (fault,) = custom_faults({name: 1})
    assert fault["type"] == "field_name"
    str(fault).encode()  # whatever was sent, the answer can be written


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "kind", "where"),
    [
        ("half \udc00", "string_unicode", []),
        (float("nan"), "finite_number", []),
        ({"a": [1, float("inf")]}, "finite_number", ["a", 1]),
        (2**63, "int_size", []),
        (-(2**63) - 1, "int_size", []),
        ({"$ref": "x", "$id": 1}, "field_name", ["$ref"]),
        ({"a": {"nul\0": 1}}, "field_name", ["a", "nul\0"]),
        (deep(MAX_DEPTH), "too_deep", None),
    ],
)
def test_values_that_cannot_be_kept_are_refused(value: object, kind: str, where: list[object] | None) -> None:
    faults = custom_faults({"field": value})
    assert faults[0]["type"] == kind
    if where is not None:
        assert faults[0]["location"] == ["body", "field", *where]


@pytest.mark.parametrize(
    "value",
    [None, True, 2**63 - 1, -(2**63), 1.5, "", "nul \0 and 🎉", {"a.b": {"c": []}}, deep(MAX_DEPTH - 1)],
)
def test_all_other_json_is_kept(value: object) -> None:
    assert custom_faults({"field": value}) == []


def test_fields_and_rows_are_bounded() -> None:
    assert [f["type"] for f in custom_faults({f"f{i}": 1 for i in range(MAX_FIELDS + 1)})] == ["too_many_fields"]
    assert len(custom_faults({f"_{i}": 1 for i in range(MAX_FIELDS)})) == MAX_FAULTS


def test_blob_metadata_is_promoted_first_come_first_served() -> None:
    metadata = [
        {"author": "first", "status": "mine", "_x": 1, "a.b": 1, "blobs": []},
        {"author": "second", "year": 2026, "sku": "B"},
    ]
    custom = {"sku": "A"}
    assert promoted(custom, metadata) == {"sku": "A", "author": "first", "year": 2026}
    assert custom == {"sku": "A"}


def test_free_form_data_has_a_size_in_bytes_and_not_in_characters() -> None:
    room = MAX_FREE_FORM_BYTES - len('{"a": ""}')
    assert free_form_faults({"a": "x" * room}, ("body",)) == []
    for text in ("x" * (room + 1), "ü" * (room // 2 + 1)):
        [fault] = free_form_faults({"a": text}, ("body", "metadata"))
        assert (fault["type"], fault["location"]) == ("too_large", ["body", "metadata"])
    [fault] = free_form_faults({"a": "\udc00" * room}, ("body",))
    assert fault["type"] == "string_unicode"
