from typing import Any

import pytest

from bucketline.domain.schema import (
    MAX_FAULTS,
    apply_defaults,
    file_properties,
    missing_files,
    validate_blob,
    validate_fields,
)
from bucketline.errors import ValidationIssue

INVOICES: dict[str, Any] = {
    "properties": {
        "invoice": {"type": "pdf", "required": True},
        "photo": {"type": "image"},
        "pages": {"type": "array", "items": {"type": "image"}},
        "note": {"type": "text"},
        "sku": {"type": "string", "required": True},
        "qty": {"type": "integer", "default": 1},
        "price": {"type": "number"},
        "weight": {"type": "float"},
        "paid": {"type": "boolean"},
        "state": {"type": "string", "enum": ["open", "paid"]},
        "level": {"type": "integer", "enum": [1, 2]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "anything": {"type": "array"},
        "vendor": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "required": True},
                "country": {"type": "string", "default": "DE"},
            },
        },
        "due": {"type": "date"},
        "seen": {"type": "datetime"},
    }
}


def faults_of(name: str, value: object) -> list[dict[str, Any]]:
    return [dict(fault) for fault in validate_fields(INVOICES, {"sku": "A", name: value})]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sku", "A-17"),
        ("qty", 3),
        ("qty", 3.0),
        ("qty", -(2**40)),
        ("price", 3),
        ("price", 3.5),
        ("weight", 3),
        ("weight", 0.25),
        ("paid", False),
        ("state", "paid"),
        ("level", 2),
        ("level", 2.0),
        ("tags", []),
        ("tags", ["a", "b"]),
        ("anything", [1, "a", None, {}]),
        ("vendor", {"name": "Acme", "more": [1]}),
        ("due", "2026-02-28"),
        ("seen", "2026-02-28T10:00:00Z"),
        ("seen", "2026-02-28t10:00:00.123456+02:00"),
        ("seen", "2026-02-28 10:00"),
        ("note", "text of a file property may stand at the root"),
        ("undeclared", {"what": ["ever", None]}),
        ("qty", None),
    ],
)
def test_a_fitting_value_has_no_fault(name: str, value: object) -> None:
    assert faults_of(name, value) == []


@pytest.mark.parametrize(
    ("name", "value", "kind", "location"),
    [
        ("sku", 17, "string_type", ["sku"]),
        ("qty", "3", "integer_type", ["qty"]),
        ("qty", 3.5, "integer_type", ["qty"]),
        ("qty", True, "integer_type", ["qty"]),
        ("qty", float("inf"), "integer_type", ["qty"]),
        ("price", "3.5", "number_type", ["price"]),
        ("price", False, "number_type", ["price"]),
        ("weight", [1.5], "float_type", ["weight"]),
        ("paid", 1, "boolean_type", ["paid"]),
        ("paid", "true", "boolean_type", ["paid"]),
        ("state", "PAID", "enum", ["state"]),
        ("level", 3, "enum", ["level"]),
        ("tags", "a", "array_type", ["tags"]),
        ("tags", ["a", 1], "string_type", ["tags", 1]),
        ("tags", [None], "string_type", ["tags", 0]),
        ("vendor", [], "object_type", ["vendor"]),
        ("vendor", {}, "missing", ["vendor", "name"]),
        ("vendor", {"name": None}, "missing", ["vendor", "name"]),
        ("vendor", {"name": 1}, "string_type", ["vendor", "name"]),
        ("due", "2026-02-30", "date_type", ["due"]),
        ("due", "20260228", "date_type", ["due"]),
        ("due", "2026-02-28T10:00:00Z", "date_type", ["due"]),
        ("due", 20260228, "date_type", ["due"]),
        ("seen", "2026-02-28", "datetime_type", ["seen"]),
        ("seen", "2026-02-28T25:00:00Z", "datetime_type", ["seen"]),
        ("seen", "yesterday", "datetime_type", ["seen"]),
        ("photo", "https://example.com/a.jpg", "file_expected", ["photo"]),
        ("pages", ["https://example.com/a.jpg"], "file_expected", ["pages", 0]),
    ],
)
def test_a_value_of_another_type_is_one_row(name: str, value: object, kind: str, location: list[object]) -> None:
    (fault,) = faults_of(name, value)
    assert (fault["type"], fault["location"]) == (kind, ["body", *location])
    assert fault["message"]


def test_each_fault_has_its_row_in_the_order_of_the_schema() -> None:
    faults = validate_fields(INVOICES, {"paid": 1, "qty": "x", "tags": [1, "b", 2]})
    assert [fault["location"] for fault in faults] == [
        ["body", "sku"],
        ["body", "qty"],
        ["body", "paid"],
        ["body", "tags", 0],
        ["body", "tags", 2],
    ]


def test_rows_are_bounded() -> None:
    assert len(validate_fields(INVOICES, {"sku": "A", "tags": [0] * 5000})) == MAX_FAULTS


def test_a_required_field_may_be_filled_by_a_blob_and_is_not_asked_for_on_patch() -> None:
    assert [fault["type"] for fault in validate_fields(INVOICES, {})] == ["missing"]
    assert validate_fields(INVOICES, {}, blobs=["sku"]) == []
    assert validate_fields(INVOICES, {}, partial=True) == []
    (fault,) = validate_fields(INVOICES, {"sku": None}, partial=True)
    assert (fault["type"], fault["location"]) == ("missing", ["body", "sku"])


def test_required_files_need_a_blob() -> None:
    (fault,) = missing_files(INVOICES, ["photo"])
    assert fault["location"] == ["body", "blobs"]
    assert "invoice" in str(fault["message"])
    assert missing_files(INVOICES, ["invoice"]) == []


def test_file_properties_include_arrays_of_files() -> None:
    assert file_properties(INVOICES) == {"invoice": "pdf", "photo": "image", "pages": "image", "note": "text"}


def test_defaults_fill_absent_fields_only_and_share_nothing() -> None:
    schema = {"properties": {"list": {"type": "array", "default": []}, **INVOICES["properties"]}}
    sent = {"sku": "A", "vendor": {"name": "Acme"}}
    filled = apply_defaults(schema, sent)
    assert filled == {"sku": "A", "qty": 1, "list": [], "vendor": {"name": "Acme", "country": "DE"}}
    assert sent == {"sku": "A", "vendor": {"name": "Acme"}}
    assert apply_defaults(schema, {"qty": None, "list": [1]}) == {"qty": None, "list": [1]}
    filled["list"].append(1)  # type: ignore[attr-defined]  # it is the list above
    assert apply_defaults(schema, {})["list"] == []


@pytest.mark.parametrize(
    ("property_", "type_", "resolved"),
    [
        ("invoice", "pdf", "pdf"),
        ("invoice", "PDF", "pdf"),
        ("invoice", None, "pdf"),
        ("pages", None, "image"),
        ("pages", "Image", "image"),
        ("pages", "array", "array"),
        ("tags", None, "array"),
        ("sku", None, "string"),
        ("vendor", "object", "object"),
    ],
)
def test_a_blob_takes_the_declared_type(property_: str, type_: str | None, resolved: str) -> None:
    assert validate_blob(INVOICES, property_, type_) == resolved


@pytest.mark.parametrize(
    ("property_", "type_", "kind", "where"),
    [
        ("invoice", "image", "type_mismatch", "type"),
        ("pages", "pdf", "type_mismatch", "type"),
        ("invoice", "json", "enum", "type"),
        ("invoice", "", "enum", "type"),
        ("unknown", "pdf", "unknown_property", "property"),
        ("unknown", None, "unknown_property", "property"),
    ],
)
def test_a_blob_that_does_not_fit_is_a_fault(property_: str, type_: str | None, kind: str, where: str) -> None:
    fault = validate_blob(INVOICES, property_, type_, location=("body", "blobs", 2))
    assert isinstance(fault, ValidationIssue)
    assert (fault["type"], fault["location"]) == (kind, ["body", "blobs", 2, where])
