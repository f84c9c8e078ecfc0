"""Correcting a document by hand: its fields, never its lineage.

Processing makes documents, and replaces them: what was changed here stays as long as its object is not processed again,
or processed with ``dedup_strategy`` *skip* and unchanged. Documents that another collection made of this one keep what
they have until they are made again.
"""

from collections.abc import Mapping
from datetime import timedelta
from itertools import islice

import bson

from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import MAX_OBJECT_BYTES
from bucketline.domain.field_validation import name_fault, shown, storable_faults
from bucketline.domain.schema import MAX_FAULTS, same
from bucketline.errors import PayloadTooLarge, ServiceUnavailable, ValidationFailed, ValidationIssue
from bucketline_ingest_api.collections.output_schema import RESERVED_NAMES
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.documents.service import get_document

ATTEMPTS = 10


async def change_document(
    deps: Container, collection_id: str, document_id: str, sent: Mapping[str, object]
) -> DocumentDocument:
    """Sets the fields that were sent; in ``metadata`` each key for itself, and null removes one there."""
    if faults := _faults(sent):
        raise ValidationFailed(faults)
    for _ in range(ATTEMPTS):
        existing = await get_document(deps, collection_id, document_id)
        fields = changed_fields(existing["fields"], sent)
        if same(fields, existing["fields"]):
            return existing
        _refuse_too_large(fields)
        # later than what was seen: the time is what tells a concurrent change
        at = max(deps.clock.now(), existing["updated_at"] + timedelta(milliseconds=1))
        changed = await deps.documents.change(existing, fields, at)
        if changed is not None:
            return changed
    raise ServiceUnavailable("the document is being modified concurrently; try again", retry_after_seconds=1)


def changed_fields(stored: Mapping[str, object], sent: Mapping[str, object]) -> dict[str, object]:
    """``stored`` with what was sent."""
    fields = {**stored, **sent}
    metadata = sent.get("metadata")
    if isinstance(metadata, dict):
        held = stored.get("metadata")
        kept = {name: value for name, value in held.items() if name not in metadata} if isinstance(held, dict) else {}
        fields["metadata"] = kept | {name: value for name, value in metadata.items() if value is not None}
    return fields


def _faults(sent: Mapping[str, object]) -> list[ValidationIssue]:
    faults: list[ValidationIssue] = []
    for name, value in sent.items():
        at = ("body", shown(name))
        if name in RESERVED_NAMES or name.startswith("_"):
            faults.append(ValidationIssue("reserved", at, f"{shown(name)!r} is set by the server"))
        elif (reason := name_fault(name)) is not None:
            faults.append(ValidationIssue("field_name", at, reason))
        else:
            faults += islice(storable_faults(value, at), MAX_FAULTS)
        if len(faults) >= MAX_FAULTS:
            break
    return faults[:MAX_FAULTS]


def _refuse_too_large(fields: Mapping[str, object]) -> None:
    size = len(bson.encode(fields))
    if size > MAX_OBJECT_BYTES:
        raise PayloadTooLarge(
            f"fields of a document may have at most {MAX_OBJECT_BYTES} bytes together",
            details={"limit_bytes": MAX_OBJECT_BYTES, "size_bytes": size},
        )
