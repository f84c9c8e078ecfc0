"""The identity of an object in a bucket with a unique key: values of one or several of its root fields.

``config`` is the ``unique_key`` of the contract: ``{"fields": [...], "default_policy": null | policy}``.
"""

import json
from collections.abc import Mapping, Sequence

from bucketline.domain.insertion_policy import POLICIES
from bucketline.domain.schema import SCALAR_TYPES, Location, Schema, properties
from bucketline.errors import ValidationIssue

MAX_KEY_FIELDS = 10
MAX_STRING = 255

_AT: Location = ("body", "unique_key")


def config_faults(config: Mapping[str, object], schema: Schema) -> list[ValidationIssue]:
    """Return the issues of a unique key for a bucket with this valid schema."""
    faults = []
    fields = config.get("fields")
    at = (*_AT, "fields")
    if not isinstance(fields, list):
        faults.append(
            ValidationIssue("missing" if fields is None else "list_type", at, "a list of field names is expected")
        )
    elif not fields:
        faults.append(ValidationIssue("too_short", at, "at least one field is needed"))
    elif len(fields) > MAX_KEY_FIELDS:
        faults.append(ValidationIssue("too_long", at, f"at most {MAX_KEY_FIELDS} fields"))
    else:
        faults += _named_faults(fields, schema, at)
    policy = config.get("default_policy")
    if policy is not None and policy not in POLICIES:
        faults.append(ValidationIssue("enum", (*_AT, "default_policy"), f"not one of {', '.join(POLICIES)}"))
    return faults


def change_faults(old: Mapping[str, object] | None, new: Mapping[str, object]) -> list[ValidationIssue]:
    """Return the issues of a change: after creation only ``default_policy`` may change, and null clears it."""
    if old is None:
        return [ValidationIssue("fixed", _AT, "a bucket made without a unique key cannot get one")]
    fields, given = old.get("fields"), new.get("fields")
    if not isinstance(given, list) or not isinstance(fields, list) or sorted(map(str, given)) != sorted(fields):
        return [ValidationIssue("fixed", (*_AT, "fields"), "the fields of a unique key cannot change: repeat them")]
    policy = new.get("default_policy")
    if policy is not None and policy not in POLICIES:
        return [ValidationIssue("enum", (*_AT, "default_policy"), f"not one of {', '.join(POLICIES)}")]
    return []


def key_faults(
    fields: Sequence[str], values: Mapping[str, object], *, location: Location = ("body",)
) -> list[ValidationIssue]:
    """Return an issue for each key field without a usable value in ``values``, the root fields of an object."""
    faults = []
    for name in fields:
        value = values.get(name)
        at = (*location, name)
        if value is None:
            faults.append(ValidationIssue("missing", at, "a field of the unique key cannot be absent or null"))
        elif isinstance(value, str):
            if not value.strip():
                faults.append(ValidationIssue("string_too_short", at, "a field of the unique key cannot be empty"))
            elif len(value) > MAX_STRING:
                faults.append(
                    ValidationIssue(
                        "string_too_long", at, f"a field of the unique key has at most {MAX_STRING} characters"
                    )
                )
        elif not isinstance(value, int | float):
            faults.append(
                ValidationIssue("scalar_type", at, "a field of the unique key must be a string, number or boolean")
            )
    return faults


def key_values(fields: Sequence[str], values: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """Return the values of the key for messages. Call it only if :func:`key_faults` returned nothing."""
    found = {}
    for name in fields:
        value = values[name]
        if not isinstance(value, str | int | float):
            raise TypeError(f"{name} is not a scalar")
        found[name] = value
    return found


def canonical_key(fields: Sequence[str], values: Mapping[str, object]) -> str:
    """Return the string for the unique index. Call it only if :func:`key_faults` returned nothing.

    The order of ``fields`` does not matter; 1 and 1.0 are one number, but ``1``, ``"1"`` and ``true`` are three values.
    """
    typed = [[name, _one_number(value)] for name, value in sorted(key_values(fields, values).items())]
    return json.dumps(typed, ensure_ascii=False, separators=(",", ":"))


def _one_number(value: str | int | float | bool) -> str | int | float | bool:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _named_faults(fields: Sequence[object], schema: Schema, location: Location) -> list[ValidationIssue]:
    faults = []
    declared = properties(schema)
    for index, name in enumerate(fields):
        at = (*location, index)
        if not isinstance(name, str):
            faults.append(ValidationIssue("string_type", at, "a field name is expected"))
        elif name in fields[:index]:
            faults.append(ValidationIssue("duplicate", at, f"{name!r} is named twice"))
        elif name not in declared:
            faults.append(ValidationIssue("unknown_property", at, f"{name!r} is not a property of the bucket schema"))
        elif str(declared[name].get("type")) not in SCALAR_TYPES:
            faults.append(ValidationIssue("scalar_type", at, f"{name!r} is not of a scalar type"))
    return faults
