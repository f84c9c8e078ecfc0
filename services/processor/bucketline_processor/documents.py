"""Builds stored documents from what an extractor yields, and stores their derived files.

The id of a document is derived from its object, its collection and its ordinal, and in a later tier from the document
that it was made from. Making it again therefore replaces it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from bucketline.clock import wire_time
from bucketline.db.blobs import Blobs, NewContent, blob_key
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.media_types import document_blob_type
from bucketline.errors import DependencyUnavailable
from bucketline.extractors import DerivedBlob, Document
from bucketline.ids import derived
from bucketline.service_context import ServiceContext
from bucketline_processor.extractors.values import json_value
from bucketline_processor.plan import PipelineStage


def document_id(object_id: str, collection_id: str, parent: str | None, ordinal: int) -> str:
    """Return the id of a document, which stays the same when the object is processed again."""
    return derived("doc", object_id, collection_id, parent or "", ordinal)


class DocumentBuilder:
    """Builds the documents that one collection makes from one object, or from one of its documents (``parent``)."""

    def __init__(
        self,
        obj: ObjectDocument,
        stage: PipelineStage,
        *,
        parent: DocumentDocument | None,
        fields: Mapping[str, object],
        run: int,
        lease: int,
        now: datetime,
    ) -> None:
        self._obj = obj
        self._stage = stage
        self._parent_id = parent["_id"] if parent else None
        self._fields = _to_json(fields)
        self._run = run
        self._lease = lease
        self._now = now
        lineage = parent["internal"].get("lineage") if parent else None
        lineage = lineage if isinstance(lineage, Mapping) else {}
        chain = lineage.get("chain")
        self._chain: list[object] = list(chain) if isinstance(chain, list) else []
        self._path = f"{lineage.get('path', obj['bucket_id'])}/{stage.id}"

    def build(
        self, document: Document, number: int, derived_blobs: list[dict[str, object]], *, ordinal: int
    ) -> DocumentDocument:
        """Return the stored document: the extractor's fields over those passed through, with its lineage.

        The fields are stored as JSON that can be read back. ``number`` counts the documents made from one source and
        determines the id; ``ordinal`` counts the documents of the object in the collection and determines the order.
        """
        obj, stage, parent_id, stamp = self._obj, self._stage, self._parent_id, wire_time(self._now)
        identifier = document_id(obj["_id"], stage.id, parent_id, number)
        sources = [b for b in obj["blobs"] if not document.source_blobs or b["blob_id"] in document.source_blobs]
        step = {
            "collection_id": stage.id,
            "feature_extractor_id": stage.extractor_id,
            "document_id": identifier,
            "timestamp": stamp,
        }
        internal: dict[str, object] = {
            "namespace_id": obj["namespace_id"],
            "document_id": identifier,
            "collection_id": stage.id,
            "created_at": stamp,
            "updated_at": stamp,
            "lineage": {
                "root_object_id": obj["_id"],
                "root_bucket_id": obj["bucket_id"],
                "source_type": stage.collection["source"]["type"],
                "source_object_id": obj["_id"],
                **({"source_document_id": parent_id} if parent_id else {}),
                "path": self._path,
                "chain": [*self._chain, step],
            },
            "source_blobs": [
                {"blob_id": b["blob_id"], "blob_property": b["property"], "blob_type": b["type"]} for b in sources
            ],
        }
        details = next((b["details"] for b in sources if b["details"] is not None), None)
        if details is not None:
            internal["content_hash"] = details["hash"].removeprefix("sha256:")
            internal["mime_type"] = details["mime_type"]
            internal["size_bytes"] = details["size_bytes"]
        return {
            "_id": identifier,
            "namespace_id": obj["namespace_id"],
            "collection_id": stage.id,
            "object_id": obj["_id"],
            "bucket_id": obj["bucket_id"],
            "ordinal": ordinal,
            "run": self._run,
            "lease": self._lease,
            "revision": obj["revision"],
            "source_document_id": parent_id,
            "fields": {**self._fields, **_to_json(document.fields)},
            "blobs": [*filter(None, map(_source_blob, sources)), *derived_blobs],
            "internal": internal,
            "created_at": self._now,
            "updated_at": self._now,
        }


class DerivedBlobs:
    """Stores files that extractors make, like all content once under the SHA-256 of their bytes."""

    def __init__(self, runtime: ServiceContext) -> None:
        self._runtime = runtime
        self._records = Blobs(runtime.database)

    async def store(self, blobs: Sequence[DerivedBlob]) -> list[dict[str, object]]:
        """Store the content and then its record; return the entries for the document's ``blobs``.

        It may be called again with the same blobs; the document must be written within minutes. Raises
        ``DependencyUnavailable`` also while the same content is being deleted, which takes a moment.
        """
        if not blobs:
            return []
        hashes = [hashlib.sha256(blob.data).hexdigest() for blob in blobs]
        claimed = await self._records.claim(set(hashes), self._runtime.clock.now())
        leaving = set(claimed.leaving)
        new = {sha256: blob for sha256, blob in zip(hashes, blobs, strict=True) if sha256 not in claimed.held}
        if not leaving:
            for sha256, blob in new.items():
                await self._runtime.blobs.put_if_absent(
                    blob_key(sha256), blob.data, sha256=sha256, content_type=blob.media_type
                )
            rows = [NewContent(sha256, len(blob.data), blob.media_type) for sha256, blob in new.items()]
            leaving |= await self._records.record(rows, self._runtime.clock.now()) if rows else set()
        if leaving:
            raise DependencyUnavailable("content is being removed, it can be stored again in a moment")
        return [self._describe(blob, sha256) for sha256, blob in zip(hashes, blobs, strict=True)]

    def _describe(self, blob: DerivedBlob, sha256: str) -> dict[str, object]:
        return {
            "field": blob.field,
            "role": blob.role,
            "type": document_blob_type(blob.media_type.partition("/")[0]),
            "url": self._runtime.blobs.url_of(blob_key(sha256)),
            "filename": blob.filename,
            "size_bytes": len(blob.data),
            "content_type": blob.media_type,
            "checksum": f"sha256:{sha256}",
        }


def _to_json(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields as JSON, without names that MongoDB reserves: they would make every list of them fail."""
    converted = json_value(fields)
    assert isinstance(converted, dict)  # noqa: S101  A mapping stays a mapping.
    return converted


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
