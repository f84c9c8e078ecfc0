"""From what an extractor yields to stored documents.

A document's id is derived from its object, its collection and its ordinal (and, in a later tier, the document it was
made from): making it again replaces it, wherever and however often that happens.
"""

from collections.abc import Mapping
from datetime import datetime

from bucketline.clock import wire_time
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.media_types import document_blob_type
from bucketline.extractors import Document
from bucketline.ids import derived
from bucketline_processor.extraction_plan import PipelineStage
from bucketline_processor.extractors.values import json_value


def document_id(object_id: str, collection_id: str, parent: str | None, ordinal: int) -> str:
    """The id under which the document is known, now and after every re-processing."""
    return derived("doc", object_id, collection_id, parent or "", ordinal)


class DocumentBuilder:
    """What all documents of one collection share that are made from one object, or from one of its documents."""

    def __init__(
        self,
        obj: ObjectDocument,
        step: PipelineStage,
        *,
        parent: DocumentDocument | None,
        fields: Mapping[str, object],
        run: int,
        now: datetime,
    ) -> None:
        self._obj = obj
        self._step = step
        self._parent = parent
        self._fields = _storable(fields)
        self._run = run
        self._now = now
        self._stamp = wire_time(now)
        lineage = _lineage_of(parent)
        chain = lineage.get("chain")
        self._chain: list[object] = list(chain) if isinstance(chain, list) else []
        self._path = f"{lineage.get('path', obj['bucket_id'])}/{step.id}"

    def document(
        self, made: Document, ordinal: int, derived_blobs: list[dict[str, object]], *, place: int
    ) -> DocumentDocument:
        """The document as stored: the extractor's fields over those passed through, with its lineage.

        Whatever the extractor yields is stored as JSON that can be read back.

        ``ordinal`` counts what is made from one source, and decides the id; ``place`` counts the documents of the
        object in the collection, and decides where it stands in a list.
        """
        obj, step, parent, stamp = self._obj, self._step, self._parent, self._stamp
        parent_id = parent["_id"] if parent else None
        identifier = document_id(obj["_id"], step.id, parent_id, ordinal)
        sources = [b for b in obj["blobs"] if not made.source_blobs or b["blob_id"] in made.source_blobs]
        internal: dict[str, object] = {
            "namespace_id": obj["namespace_id"],
            "document_id": identifier,
            "collection_id": step.id,
            "created_at": stamp,
            "updated_at": stamp,
            "lineage": {
                "root_object_id": obj["_id"],
                "root_bucket_id": obj["bucket_id"],
                "source_type": step.collection["source"]["type"],
                "source_object_id": obj["_id"],
                **({"source_document_id": parent_id} if parent_id else {}),
                "path": self._path,
                "chain": [
                    *self._chain,
                    {
                        "collection_id": step.id,
                        "feature_extractor_id": step.collection["extractor"]["id"],
                        "document_id": identifier,
                        "timestamp": stamp,
                    },
                ],
            },
            "source_blobs": [
                {"blob_id": b["blob_id"], "blob_property": b["property"], "blob_type": b["type"]} for b in sources
            ],
        }
        first = next((b["details"] for b in sources if b["details"] is not None), None)
        if first is not None:
            internal["content_hash"] = first["hash"].removeprefix("sha256:")
            internal["mime_type"] = first["mime_type"]
            internal["size_bytes"] = first["size_bytes"]
        return {
            "_id": identifier,
            "namespace_id": obj["namespace_id"],
            "collection_id": step.id,
            "object_id": obj["_id"],
            "bucket_id": obj["bucket_id"],
            "ordinal": place,
            "run": self._run,
            "revision": obj["revision"],
            "source_document_id": parent_id,
            "fields": {**self._fields, **_storable(made.fields)},
            "blobs": [*filter(None, map(_source_blob, sources)), *derived_blobs],
            "internal": internal,
            "created_at": self._now,
            "updated_at": self._now,
        }


def _storable(fields: Mapping[str, object]) -> dict[str, object]:
    """As JSON: what is none, or a name that the database reads as its own, would make every list that holds the
    document fail.
    """
    stored = json_value(fields)
    assert isinstance(stored, dict)  # noqa: S101  a mapping stays one
    return stored


def _lineage_of(parent: DocumentDocument | None) -> Mapping[str, object]:
    found = parent["internal"].get("lineage") if parent else None
    return found if isinstance(found, Mapping) else {}


def _source_blob(blob: BlobDocument) -> dict[str, object] | None:
    details, storage = blob["details"], blob["storage"]
    if details is None or storage is None:
        return None
    return {
        "field": blob["property"],
        "role": "source",
        "type": document_blob_type(blob["type"]),
        "url": storage["url"],
        "size_bytes": details["size_bytes"],
        "content_type": details["mime_type"],
        "checksum": details["hash"],
        "source_blob_id": blob["blob_id"],
    }
