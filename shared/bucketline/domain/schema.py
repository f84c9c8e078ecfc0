"""Validation of objects against the schema of their bucket.

A schema is the ``bucket_schema`` of the contract, stored as it was sent: ``{"properties": {name: field}}``. A field
has ``type`` and optionally ``required``, ``default``, ``enum``, ``items``, ``properties``, ``description``,
``examples`` and keys of the producer. The functions here expect a valid schema, which
:func:`bucketline.domain.schema_definition.schema_faults` validates.

Fields outside the schema are ignored. A list of issues has at most :data:`MAX_FAULTS` entries, in the order in which
the properties are declared.
"""

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime
from itertools import islice

from bucketline.errors import ValidationIssue

SCALAR_TYPES = frozenset({"string", "number", "integer", "float", "boolean", "date", "datetime"})
METADATA_TYPES = SCALAR_TYPES | {"object", "array"}
FILE_TYPES = frozenset({"text", "image", "audio", "video", "pdf", "excel"})
TYPES = METADATA_TYPES | FILE_TYPES

MAX_FAULTS = 100

Location = tuple[str | int, ...]
Schema = Mapping[str, object]
Field = Mapping[str, object]

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:?[0-5]\d)?")


def properties(schema: Schema) -> Mapping[str, Field]:
    """Return the declared properties by name."""
    return _properties(schema)


def item_field(field: Field) -> Field | None:
    """Return the declared schema of the elements of an array, or None."""
    found = field.get("items")
    return found if isinstance(found, dict) else None


def file_properties(schema: Schema) -> dict[str, str]:
    """Return the type of each property that holds files; for an array of files, the type of its items."""
    found = {}
    for name, field in _properties(schema).items():
        kind = _file_type(field)
        if kind is not None:
            found[name] = kind
    return found


def validate_fields(
    schema: Schema,
    custom: Mapping[str, object],
    *,
    blobs: Collection[str] = (),
    partial: bool = False,
    location: Location = ("body",),
) -> list[ValidationIssue]:
    """Return the issues of the root fields of an object.

    ``blobs`` names the properties that have blobs: a blob also satisfies a required property. With ``partial`` (PATCH)
    only fields in the request are validated, and null for a required field is an issue. Required *files* are checked by
    :func:`missing_files`.
    """
    return list(islice(_field_faults(schema, custom, blobs, partial, location), MAX_FAULTS))


def missing_files(
    schema: Schema, blobs: Collection[str], *, location: Location = ("body", "blobs")
) -> list[ValidationIssue]:
    """Return one issue for each required file property without a blob."""
    absent = (
        ValidationIssue("missing", location, f"a blob of property {name} is required")
        for name, field in _properties(schema).items()
        if field.get("required") is True and _file_type(field) is not None and name not in blobs
    )
    return list(islice(absent, MAX_FAULTS))


def apply_defaults(schema: Schema, custom: Mapping[str, object]) -> dict[str, object]:
    """Return ``custom`` with the declared defaults of absent fields, including those inside existing objects.

    An explicit null is kept. ``custom`` is not modified.
    """
    return _with_defaults(_properties(schema), custom)


def validate_blob(
    schema: Schema,
    property: str,  # noqa: A002  # the contract's own names
    type: str | None,  # noqa: A002
    *,
    location: Location = ("body", "blobs"),
) -> str | ValidationIssue:
    """Return the type of a blob of ``property`` in lower case, or an issue if the property or the type does not fit.

    Without ``type``, the declared type is used; for an array of files, the type of its items.
    """
    field = _properties(schema).get(property)
    if field is None:
        return ValidationIssue(
            "unknown_property", (*location, "property"), f"{property!r} is not a property of the bucket schema"
        )
    declared = str(field["type"])
    items = item_field(field)
    item_type = None if items is None else str(items["type"])
    if type is None:
        return item_type if declared == "array" and item_type in FILE_TYPES else declared
    given = type.lower()
    if given not in TYPES:
        return ValidationIssue(
            "enum", (*location, "type"), f"{type!r} is not one of the types: {', '.join(sorted(TYPES))}"
        )
    if given == declared or (declared == "array" and given == item_type):
        return given
    expected = f"{declared} of {item_type}" if item_type else declared
    return ValidationIssue(
        "type_mismatch", (*location, "type"), f"property {property!r} is declared as {expected}, not {given}"
    )


def value_faults(field: Field, value: object, location: Location) -> Iterator[ValidationIssue]:
    """Yield the issues of one value. Null counts as absent, so it has none."""
    if value is None:
        return
    kind = str(field["type"])
    if kind in FILE_TYPES and not (kind == "text" and isinstance(value, str)):
        yield ValidationIssue("file_expected", location, f"this property is a file ({kind}): send it as a blob")
        return
    if not _fits(kind, value):
        yield ValidationIssue(f"{kind}_type", location, f"{_DESCRIPTIONS[kind]} expected")
        return
    allowed = field.get("enum")
    if isinstance(allowed, list) and not any(same(value, choice) for choice in allowed):
        yield ValidationIssue("enum", location, f"not one of the {len(allowed)} allowed values")
    if isinstance(value, list) and (items := item_field(field)) is not None:
        for index, item in enumerate(value):
            if item is None:
                yield ValidationIssue(f"{items['type']}_type", (*location, index), "null is not allowed in an array")
            else:
                yield from value_faults(items, item, (*location, index))
    if isinstance(value, dict):
        yield from _object_faults(_properties(field), value, location)


def same(left: object, right: object) -> bool:
    """Return whether two JSON values are equal: 1 equals 1.0, but not true; the order of keys does not matter."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    return left == right


def is_date(value: str) -> bool:
    """Return whether the text is a calendar date, ``YYYY-MM-DD``."""
    if not _DATE.fullmatch(value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def is_datetime(value: str) -> bool:
    """Return whether the text is an ISO 8601 date and time, with or without seconds and time zone."""
    if not _DATETIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


def _field_faults(
    schema: Schema, custom: Mapping[str, object], blobs: Collection[str], partial: bool, location: Location
) -> Iterator[ValidationIssue]:
    for name, field in _properties(schema).items():
        value = custom.get(name)
        if value is not None:
            yield from value_faults(field, value, (*location, name))
        elif field.get("required") is True and _file_type(field) is None and name not in blobs:
            if name in custom:
                yield ValidationIssue("missing", (*location, name), "a required field cannot be null")
            elif not partial:
                yield ValidationIssue("missing", (*location, name), "Field required")


def _object_faults(
    declared: Mapping[str, Field], value: Mapping[str, object], location: Location
) -> Iterator[ValidationIssue]:
    for name, field in declared.items():
        inner = value.get(name)
        if inner is not None:
            yield from value_faults(field, inner, (*location, name))
        elif field.get("required") is True:
            yield ValidationIssue("missing", (*location, name), "Field required")


def _fits(kind: str, value: object) -> bool:
    match kind:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            # JSON has only one number type: many clients write 3 as 3.0
            return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        case "number" | "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "date":
            return isinstance(value, str) and is_date(value)
        case "datetime":
            return isinstance(value, str) and is_datetime(value)
    return isinstance(value, str)


def _with_defaults(declared: Mapping[str, Field], value: Mapping[str, object]) -> dict[str, object]:
    filled = dict(value)
    for name, field in declared.items():
        if name not in filled:
            if (default := field.get("default")) is not None:
                filled[name] = copy.deepcopy(default)
        elif isinstance(inner := filled[name], dict):
            filled[name] = _with_defaults(_properties(field), inner)
    return filled


def _properties(holder: Mapping[str, object]) -> Mapping[str, Field]:
    found = holder.get("properties")
    return found if isinstance(found, dict) else {}


def _file_type(field: Field) -> str | None:
    kind = str(field["type"])
    if kind == "array" and (items := item_field(field)) is not None:
        kind = str(items["type"])
    return kind if kind in FILE_TYPES else None


_DESCRIPTIONS = {
    "string": "a string is", "number": "a number is", "integer": "a whole number is", "float": "a number is",
    "boolean": "true or false is", "object": "an object is", "array": "an array is", "text": "text is",
    "date": "a date as YYYY-MM-DD is", "datetime": "an ISO 8601 date and time is",
}  # fmt: skip
