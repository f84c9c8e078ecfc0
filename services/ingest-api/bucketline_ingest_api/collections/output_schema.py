"""What a collection's documents look like, computed from its sources and its extractor. Pure."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

from bucketline.db.collections import FieldPassthrough, target_of
from bucketline.domain.keyset import path_fault
from bucketline.domain.schema import FILE_TYPES, Schema, properties
from bucketline.errors import ValidationIssue
from bucketline.extractors import ExtractorInfo

OURS = frozenset({"document_id", "collection_id", "document_blobs", "_internal"})
"""Names at a document's root that no field can have."""

_AT = ("body", "feature_extractor")


def merged(schemas: Sequence[Schema]) -> dict[str, object]:
    """What objects of any of these sources may have. Where two differ, the first is told."""
    found: dict[str, object] = {}
    for schema in schemas:
        for name, field in properties(schema).items():
            found.setdefault(name, dict(field))
    return {"properties": found}


def passthrough_faults(rules: Sequence[FieldPassthrough], mappings: Mapping[str, str]) -> list[ValidationIssue]:
    """Paths that cannot be read or written."""
    faults = []
    for index, rule in enumerate(rules):
        at = (*_AT, "field_passthrough", index)
        for key, path in (("source_path", rule["source_path"]), ("target_path", target_of(rule))):
            if (reason := path_fault(path)) is not None:
                faults.append(ValidationIssue("field_path", (*at, key), reason))
        root = target_of(rule).partition(".")[0]
        if root in OURS or root.startswith("_"):
            faults.append(ValidationIssue("reserved", (*at, "target_path"), f"{root!r} is set by the server"))
    for name, path in mappings.items():
        if (reason := path_fault(path)) is not None:
            faults.append(ValidationIssue("field_path", (*_AT, "input_mappings", name[:100]), reason))
        if not name or len(name) > 100 or name.startswith("$") or "." in name or "\0" in name:
            faults.append(ValidationIssue("input_name", (*_AT, "input_mappings"), "an input has a plain name"))
    return faults


def output_schema(
    source: Schema,
    info: ExtractorInfo,
    parameters: Mapping[str, object],
    rules: Sequence[FieldPassthrough],
    *,
    include_all: bool,
) -> dict[str, object]:
    """Fields of the source that are passed through, then those of the extractor, which win.

    Fields that no schema declares are passed through as well, but nothing can be said about them.
    """
    found: dict[str, object] = {}
    declared = properties(source)
    if include_all:
        found |= {name: _plain(field) for name, field in declared.items() if field["type"] not in FILE_TYPES}
    for rule in rules:
        field = field_at(source, rule["source_path"])
        if field is not None:
            _put(found, target_of(rule).split("."), _plain(field))
    return {
        "properties": found | {name: dict(field) for name, field in properties(info.schema_for(parameters)).items()}
    }


def warnings(source: Schema, rules: Sequence[FieldPassthrough], mappings: Mapping[str, str]) -> list[str]:
    """Fields that the collection reads and no source declares. Producers may send them all the same."""
    paths = [rule["source_path"] for rule in rules] + list(mappings.values())
    unknown = [path for path in dict.fromkeys(paths) if field_at(source, path) is None]
    return [f"'{path}' is not declared in the schema of the source" for path in unknown[:100]]


def field_at(schema: Schema, path: str) -> Mapping[str, object] | None:
    """What the schema says about a dotted path."""
    holder: Mapping[str, object] = schema
    field: Mapping[str, object] | None = None
    for name in path.split("."):
        field = properties(holder).get(name)
        if field is None:
            return None
        holder = field
    return field


def _plain(field: Mapping[str, object]) -> dict[str, object]:
    """A document may lack what its object had to have. A copy to its depth: others are put into it."""
    return {key: deepcopy(value) for key, value in field.items() if key not in ("required", "default")}


def _put(holder: dict[str, object], path: Sequence[str], field: dict[str, object]) -> None:
    *steps, last = path
    for step in steps:
        outer = holder.setdefault(step, {"type": "object", "properties": {}})
        inner = outer.setdefault("properties", {}) if isinstance(outer, dict) else {}
        holder = inner if isinstance(inner, dict) else {}
    holder[last] = field
