"""Validation of bucket schemas, and of changes to them."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice

from bucketline.domain.field_validation import is_reserved, name_fault, shown, storable_faults
from bucketline.domain.schema import (
    FILE_TYPES,
    MAX_FAULTS,
    TYPES,
    Field,
    Location,
    Schema,
    properties,
    same,
    value_faults,
)
from bucketline.errors import ValidationIssue

MAX_DEPTH = 8
MAX_PROPERTIES = 500
MAX_ENUM = 500
MAX_PROPERTY_NAME = 100
MAX_BYTES = 256 * 1024

_ANNOTATIONS = frozenset({"description", "examples"})
"""Keys that say nothing about a value."""


def schema_faults(schema: object) -> list[ValidationIssue]:
    """Return the issues of a schema."""
    return list(islice(_schema_faults(schema, ("body", "bucket_schema")), MAX_FAULTS))


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return why objects stored under ``old`` may not fit ``new``, one sentence per change.

    New optional properties, descriptions and examples are always allowed; every other change is reported.
    """
    found = list(_property_changes(properties(old), properties(new), ""))
    if not same(_rest(old, frozenset({"properties"})), _rest(new, frozenset({"properties"}))):
        found.append("the schema's own keys changed")
    return found


def _schema_faults(schema: object, location: Location) -> Iterator[ValidationIssue]:
    if not isinstance(schema, dict):
        yield ValidationIssue("dict_type", location, "an object is expected")
        return
    declared = schema.get("properties")
    if not isinstance(declared, dict):
        kind = "missing" if declared is None else "dict_type"
        yield ValidationIssue(kind, (*location, "properties"), "an object of property name to field is expected")
        return
    unstorable = list(islice(storable_faults(schema, location), MAX_FAULTS))
    if unstorable:
        yield from unstorable
        return
    if len(json.dumps(schema)) > MAX_BYTES:
        yield ValidationIssue("too_large", location, f"a schema has at most {MAX_BYTES} bytes")
        return
    if _count(declared) > MAX_PROPERTIES:
        yield ValidationIssue(
            "too_large", location, f"a schema has at most {MAX_PROPERTIES} properties, nested ones included"
        )
        return
    at = (*location, "properties")
    for name, field in declared.items():
        if isinstance(field, dict) and str(field.get("type")) not in FILE_TYPES and is_reserved(name):
            yield ValidationIssue("reserved", (*at, shown(name)), f"{shown(name)!r} is set by the server")
    yield from _properties_faults(declared, at, 1)


def _properties_faults(declared: Mapping[str, object], location: Location, depth: int) -> Iterator[ValidationIssue]:
    for name, field in declared.items():
        at = (*location, shown(name))
        if (reason := name_fault(name)) is not None:
            yield ValidationIssue("property_name", at, reason)
        elif len(name) > MAX_PROPERTY_NAME:
            yield ValidationIssue("property_name", at, f"a property name has at most {MAX_PROPERTY_NAME} characters")
        yield from _definition_faults(field, at, depth)


def _definition_faults(field: object, location: Location, depth: int) -> Iterator[ValidationIssue]:
    if not isinstance(field, dict):
        yield ValidationIssue("dict_type", location, "an object with a type is expected")
        return
    if depth > MAX_DEPTH:
        yield ValidationIssue("too_deep", location, f"properties nest at most {MAX_DEPTH} levels")
        return
    before = True
    for fault in _own_faults(field, location):
        before = False
        yield fault
    nested = list(_nested_faults(field, location, depth))
    yield from nested
    if before and not nested:
        yield from _value_faults(field, location)


def _own_faults(field: Field, location: Location) -> Iterator[ValidationIssue]:
    kind = field.get("type")
    if kind is None:
        yield ValidationIssue("missing", (*location, "type"), "Field required")
    elif not isinstance(kind, str) or kind not in TYPES:
        yield ValidationIssue("enum", (*location, "type"), f"not one of the types: {', '.join(sorted(TYPES))}")
    if not isinstance(field.get("required"), bool | None):
        yield ValidationIssue("bool_type", (*location, "required"), "true or false is expected")
    if not isinstance(field.get("description"), str | None):
        yield ValidationIssue("string_type", (*location, "description"), "a string is expected")
    for key in ("enum", "examples"):
        values = field.get(key)
        if values is None:
            continue
        if not isinstance(values, list):
            yield ValidationIssue("list_type", (*location, key), "an array is expected")
        elif len(values) > MAX_ENUM:
            yield ValidationIssue("too_long", (*location, key), f"at most {MAX_ENUM} values")
        elif not values and key == "enum":
            yield ValidationIssue("too_short", (*location, key), "no value would be allowed")


def _nested_faults(field: Field, location: Location, depth: int) -> Iterator[ValidationIssue]:
    kind = field.get("type")
    if (items := field.get("items")) is not None:
        if kind != "array":
            yield ValidationIssue("unexpected", (*location, "items"), "only an array has items")
        else:
            yield from _definition_faults(items, (*location, "items"), depth + 1)
    if (declared := field.get("properties")) is not None:
        if kind != "object":
            yield ValidationIssue("unexpected", (*location, "properties"), "only an object has properties")
        elif not isinstance(declared, dict):
            yield ValidationIssue(
                "dict_type", (*location, "properties"), "an object of property name to field is expected"
            )
        else:
            yield from _properties_faults(declared, (*location, "properties"), depth + 1)


def _value_faults(field: Field, location: Location) -> Iterator[ValidationIssue]:
    """Yield an issue for each default, enum value or example that does not have the declared type."""
    if field["type"] in FILE_TYPES:
        for key in ("default", "enum"):
            if field.get(key) is not None:
                yield ValidationIssue("unexpected", (*location, key), f"a file has no {key}")
        return
    choices = field.get("enum")
    if isinstance(choices, list):
        for index, choice in enumerate(choices):
            yield from value_faults(_rest(field, frozenset({"enum"})), choice, (*location, "enum", index))
    yield from value_faults(field, field.get("default"), (*location, "default"))


def _count(declared: object, depth: int = 0) -> int:
    if not isinstance(declared, dict) or depth > MAX_DEPTH:
        return 0
    return sum(1 + _below(field, depth) for field in declared.values())


def _below(field: object, depth: int) -> int:
    if not isinstance(field, dict) or depth > MAX_DEPTH:
        return 0
    return _count(field.get("properties"), depth + 1) + _below(field.get("items"), depth + 1)


def _property_changes(old: Mapping[str, Field], new: Mapping[str, Field], path: str) -> Iterator[str]:
    for name, field in old.items():
        at = f"{path}{name}"
        if name not in new:
            yield f"{at} was removed"
        else:
            yield from _field_changes(field, new[name], at)
    for name, field in new.items():
        if name not in old and field.get("required") is True:
            yield f"{path}{name} is new and required"


def _field_changes(old: Field, new: Field, at: str) -> Iterator[str]:
    for key in sorted((old.keys() | new.keys()) - _ANNOTATIONS - {"properties", "items"}):
        before, after = old.get(key), new.get(key)
        if key == "required":
            before, after = bool(before), bool(after)
        if not same(before, after):
            yield f"{key} of {at} changed"
    yield from _property_changes(properties(old), properties(new), f"{at}.")
    before, after = old.get("items"), new.get("items")
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _field_changes(before, after, f"{at}[]")
    elif (before is None) != (after is None):
        yield f"items of {at} changed"


def _rest(mapping: Mapping[str, object], without: frozenset[str]) -> dict[str, object]:
    return {key: value for key, value in mapping.items() if key not in without}
