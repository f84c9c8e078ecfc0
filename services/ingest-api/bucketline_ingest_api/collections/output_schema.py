"""Compute the schema of a collection's documents from its sources and its extractor."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

from bucketline.db.collections import FieldPassthrough, target_of
from bucketline.domain.keyset import path_fault
from bucketline.domain.schema import FILE_TYPES, Schema, properties
from bucketline.errors import ValidationIssue
from bucketline.extractors import ExtractorInfo

RESERVED_NAMES = frozenset({"document_id", "collection_id", "document_blobs", "_internal"})
"""Names at a document's root that no field can have."""

_AT = ("body", "feature_extractor")


def merge_schemas(schemas: Sequence[Schema]) -> dict[str, object]:
    """Return the schema with the fields of all sources; where two differ, the first one counts."""
    fields: dict[str, object] = {}
    for schema in schemas:
        for name, field in properties(schema).items():
            fields.setdefault(name, dict(field))
    return {"properties": fields}


def passthrough_issues(rules: Sequence[FieldPassthrough], mappings: Mapping[str, str]) -> list[ValidationIssue]:
    """Return an issue for every path that cannot be read or written."""
    faults = []
    for index, rule in enumerate(rules):
        at = (*_AT, "field_passthrough", index)
        for key, path in (("source_path", rule["source_path"]), ("target_path", target_of(rule))):
            if (reason := path_fault(path)) is not None:
                faults.append(ValidationIssue("field_path", (*at, key), reason))
        root = target_of(rule).partition(".")[0]
        if root in RESERVED_NAMES or root.startswith("_"):
            faults.append(ValidationIssue("reserved", (*at, "target_path"), f"{root!r} is set by the server"))
    for name, path in mappings.items():
        if (reason := path_fault(path)) is not None:
            faults.append(ValidationIssue("field_path", (*_AT, "input_mappings", name[:100]), reason))
        if not name or len(name) > 100 or name.startswith("$") or "." in name or "\0" in name:
            faults.append(
                ValidationIssue(
                    "input_name",
                    (*_AT, "input_mappings"),
                    "an input name must not be empty, longer than 100 characters, start with $ or contain a dot",
                )
            )
    return faults


def build_output_schema(
    source: Schema,
    info: ExtractorInfo,
    parameters: Mapping[str, object],
    rules: Sequence[FieldPassthrough],
    *,
    include_all: bool,
) -> dict[str, object]:
    """Return the fields that are passed through and those of the extractor, which take precedence.

    Fields that no schema declares are passed through as well, but are not part of the output schema.
    """
    found: dict[str, object] = {}
    declared = properties(source)
    if include_all:
        found |= {
            name: _without_constraints(field) for name, field in declared.items() if field["type"] not in FILE_TYPES
        }
    for rule in rules:
        field = find_field(source, rule["source_path"])
        if field is not None:
            _set_field(found, target_of(rule).split("."), _without_constraints(field))
    return {
        "properties": found | {name: dict(field) for name, field in properties(info.schema_for(parameters)).items()}
    }


def undeclared_field_warnings(
    source: Schema, rules: Sequence[FieldPassthrough], mappings: Mapping[str, str]
) -> list[str]:
    """Return a warning for every field that the collection reads and no source declares."""
    paths = [rule["source_path"] for rule in rules] + list(mappings.values())
    unknown = [path for path in dict.fromkeys(paths) if find_field(source, path) is None]
    return [f"'{path}' is not declared in the schema of the source" for path in unknown[:100]]


def find_field(schema: Schema, path: str) -> Mapping[str, object] | None:
    """Return the declaration of the field at a dotted path."""
    holder: Mapping[str, object] = schema
    field: Mapping[str, object] | None = None
    for name in path.split("."):
        field = properties(holder).get(name)
        if field is None:
            return None
        holder = field
    return field


def _without_constraints(field: Mapping[str, object]) -> dict[str, object]:
    """Return a deep copy of the declaration without ``required`` and ``default``, which documents need not fulfil."""
    return {key: deepcopy(value) for key, value in field.items() if key not in ("required", "default")}


def _set_field(holder: dict[str, object], path: Sequence[str], field: dict[str, object]) -> None:
    *steps, last = path
    for step in steps:
        outer = holder.setdefault(step, {"type": "object", "properties": {}})
        inner = outer.setdefault("properties", {}) if isinstance(outer, dict) else {}
        holder = inner if isinstance(inner, dict) else {}
    holder[last] = field
