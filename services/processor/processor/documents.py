"""From what an extractor yields to stored documents.

A document's id is derived from its object, its collection and its ordinal (and, in a later tier, the document it was
made from): making it again replaces it, wherever and however often that happens.
"""

from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime

from bucketline.clock import wire_time
from bucketline.domain.paths import lookup, place
from bucketline.extraction import Document, ObjectView, PermanentError
from bucketline.ids import derived
from bucketline.storage.collections import CollectionDocument
from bucketline.storage.documents import DocumentDocument
from bucketline.storage.objects import BlobDocument, ObjectDocument

_MISSING = object()


def document_id(object_id: str, collection_id: str, parent: str | None, ordinal: int) -> str:
    """The id under which the document is known, now and after every re-processing."""
    return derived("doc", object_id, collection_id, parent or "", ordinal)


def passed_through(collection: CollectionDocument, view: ObjectView) -> dict[str, object]:
    """The source's fields that the collection passes on. :class:`PermanentError` for a required one that is absent."""
    extractor = collection["extractor"]
    fields: dict[str, object] = deepcopy(dict(view.fields)) if extractor["include_all_source_fields"] else {}
    for rule in extractor["field_passthrough"]:
        path = rule["source_path"]
        value = lookup(view.fields, path, _MISSING)
        if value is _MISSING:
            if rule["default"] is None and rule["required"]:
                raise PermanentError(f"the field '{path}' is required by the collection and missing")
            value = rule["default"]
            if value is None:
                continue
        place(fields, rule["target_path"] or path.rpartition(".")[2], deepcopy(value))
    return fields


def document_of(
    made: Document,
    *,
    fields: Mapping[str, object],
    obj: ObjectDocument,
    collection: CollectionDocument,
    parent: DocumentDocument | None,
    ordinal: int,
    run: int,
    now: datetime,
    derived_blobs: list[dict[str, object]],
) -> DocumentDocument:
    """The document as stored: the extractor's fields over those passed through, with its lineage."""
    identifier = document_id(obj["_id"], collection["_id"], parent["_id"] if parent else None, ordinal)
    sources = [b for b in obj["blobs"] if not made.source_blobs or b["blob_id"] in made.source_blobs]
    source_type = collection["source"]["type"]
    stamp = wire_time(now)
    link = {
        "collection_id": collection["_id"],
        "feature_extractor_id": collection["extractor"]["id"],
        "document_id": identifier,
        "timestamp": stamp,
    }
    lineage = _lineage_of(parent)
    before, path = _steps(lineage, obj)
    first = next((b["details"] for b in sources if b["details"] is not None), None)
    internal: dict[str, object] = {
        "namespace_id": obj["namespace_id"],
        "document_id": identifier,
        "collection_id": collection["_id"],
        "created_at": stamp,
        "updated_at": stamp,
        "lineage": {
            "root_object_id": obj["_id"],
            "root_bucket_id": obj["bucket_id"],
            "source_type": source_type,
            "source_object_id": obj["_id"],
            **({"source_document_id": parent["_id"]} if parent else {}),
            "path": f"{path}/{collection['_id']}",
            "chain": [*before, link],
        },
        "source_blobs": [
            {"blob_id": b["blob_id"], "blob_property": b["property"], "blob_type": b["type"]} for b in sources
        ],
    }
    if first is not None:
        internal |= {
            "content_hash": first["hash"].removeprefix("sha256:"),
            "mime_type": first["mime_type"],
            "size_bytes": first["size_bytes"],
        }
    return {
        "_id": identifier,
        "namespace_id": obj["namespace_id"],
        "collection_id": collection["_id"],
        "object_id": obj["_id"],
        "bucket_id": obj["bucket_id"],
        "ordinal": ordinal,
        "run": run,
        "revision": obj["revision"],
        "source_document_id": parent["_id"] if parent else None,
        "fields": {**fields, **made.fields},
        "blobs": [*filter(None, map(_source_blob, sources)), *derived_blobs],
        "internal": internal,
        "created_at": now,
        "updated_at": now,
    }


def _lineage_of(parent: DocumentDocument | None) -> Mapping[str, object]:
    found = parent["internal"].get("lineage") if parent else None
    return found if isinstance(found, Mapping) else {}


def _steps(lineage: Mapping[str, object], obj: ObjectDocument) -> tuple[list[object], str]:
    chain = lineage.get("chain")
    return (list(chain) if isinstance(chain, list) else []), str(lineage.get("path", obj["bucket_id"]))


def _source_blob(blob: BlobDocument) -> dict[str, object] | None:
    details, storage = blob["details"], blob["storage"]
    if details is None or storage is None:
        return None
    return {
        "field": blob["property"],
        "role": "source",
        "type": blob["type"],
        "url": storage["url"],
        "size_bytes": details["size_bytes"],
        "content_type": details["mime_type"],
        "checksum": details["hash"],
        "source_blob_id": blob["blob_id"],
    }
