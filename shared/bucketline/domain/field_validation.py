"""Validation of custom fields: the names at the root of an object that Bucketline does not reserve.

Values that MongoDB could not store unchanged are refused: names that it reads as paths or operators, invalid Unicode,
numbers beyond 64 bits, and values that are nested too deeply.
"""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from bucketline.domain.schema import MAX_FAULTS, Location
from bucketline.errors import ValidationIssue

RESERVED = frozenset(
    {
        "object_id",
        "bucket_id",
        "namespace_id",
        "status",
        "error",
        "created_at",
        "updated_at",
        "document_count",
        "source_details",
        "consistency",
    }
)
"""Set by us alone. So is everything that starts with an underscore."""

CREATE_FIELDS = frozenset(
    {
        "key_prefix",
        "blobs",
        "skip_duplicates",
        "canonicalize_source",
        "force_remirror",
        "edges",
        "idempotency_key",
    }
)

MAX_FIELDS = 500
MAX_NAME = 256
MAX_DEPTH = 64
MAX_FREE_FORM_BYTES = 1024 * 1024


def custom_faults(
    custom: Mapping[str, object], *, schema_properties: Collection[str] = (), location: Location = ("body",)
) -> list[ValidationIssue]:
    """Return the issues of custom fields that do not depend on the schema of the bucket."""
    return list(islice(_custom_faults(custom, schema_properties, location), MAX_FAULTS))


def is_reserved(name: str) -> bool:
    """Return whether the name is reserved, so that no custom field may have it."""
    return name in RESERVED or name in CREATE_FIELDS or name.startswith("_")


def promoted(custom: Mapping[str, object], metadata: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Return the root fields together with the metadata of the blobs, in this order.

    A root field that was sent wins, then the first blob that has the key. Names that no custom field may have stay
    on the blob only.
    """
    fields = dict(custom)
    for of_blob in metadata:
        for name, value in of_blob.items():
            if not is_reserved(name) and name_fault(name) is None and len(fields) < MAX_FIELDS:
                fields.setdefault(name, value)
    return fields


def name_fault(name: str) -> str | None:
    """Return why no field can have this name at the root, or None."""
    if "." in name:
        return "a field name cannot hold a dot"
    return _key_fault(name)


def storable_faults(value: object, location: Location) -> Iterator[ValidationIssue]:
    """Yield an issue for each part of a JSON value that cannot be stored unchanged."""
    return _storable_faults(value, location, 0)


def free_form_faults(value: object, location: Location) -> list[ValidationIssue]:
    """Return the issues of free-form data in a record such as a bucket.

    Its size is limited, because it is read with the record every time.
    """
    faults = list(islice(storable_faults(value, location), MAX_FAULTS))
    if not faults and len(json.dumps(value, ensure_ascii=False).encode()) > MAX_FREE_FORM_BYTES:
        faults = [ValidationIssue("too_large", location, f"at most {MAX_FREE_FORM_BYTES} bytes, as JSON")]
    return faults


def _custom_faults(
    custom: Mapping[str, object], schema: Collection[str], location: Location
) -> Iterator[ValidationIssue]:
    if len(custom) > MAX_FIELDS:
        yield ValidationIssue("too_many_fields", location, f"an object has at most {MAX_FIELDS} custom fields")
        return
    for name, value in custom.items():
        at = (*location, shown(name))
        if is_reserved(name):
            yield ValidationIssue("reserved", at, f"{shown(name)!r} is set by the server")
        elif name == "auto_process" and name not in schema:
            yield ValidationIssue("extra_forbidden", at, "auto_process is a query parameter: ?auto_process=true")
        elif (reason := name_fault(name)) is not None:
            yield ValidationIssue("field_name", at, reason)
        else:
            yield from _storable_faults(value, at, 1)


def _storable_faults(value: object, location: Location, depth: int) -> Iterator[ValidationIssue]:
    if isinstance(value, str):
        if not _is_unicode(value):
            yield ValidationIssue("string_unicode", location, "not valid Unicode")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield ValidationIssue("finite_number", location, "a number must be finite")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            yield ValidationIssue("int_size", location, "a whole number has at most 64 bits")
    elif depth >= MAX_DEPTH and isinstance(value, dict | list):
        yield ValidationIssue("too_deep", location, f"nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _storable_faults(item, (*location, index), depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            at = (*location, shown(key))
            if (reason := _key_fault(key)) is not None:
                yield ValidationIssue("field_name", at, reason)
            else:
                yield from _storable_faults(item, at, depth + 1)


def _key_fault(key: str) -> str | None:
    if not key:
        return "a field name cannot be empty"
    if key.startswith("$"):
        # an operator to the database, and {"$ref": …} would be read back as something else
        return "a field name cannot start with $"
    if "\0" in key or not _is_unicode(key):
        return "a field name must be valid Unicode without NUL"
    if len(key) > MAX_NAME:
        return f"a field name has at most {MAX_NAME} characters"
    return None


def _is_unicode(text: str) -> bool:
    """Return whether text has no unpaired surrogate, which JSON can express but UTF-8 cannot encode."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def shown(name: str) -> str:
    """Return a name from a request in a form that is safe and short enough for a response."""
    return name[:MAX_NAME].encode("utf-8", "replace").decode()
