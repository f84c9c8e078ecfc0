"""Objects, collections and documents as the database has them, with nothing in them that a test does not ask for."""

from datetime import UTC, datetime
from typing import Any, cast

from bucketline.db.collections import CollectionDocument
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument

NOW = datetime(2026, 3, 1, 9, 0, 5, 250_000, tzinfo=UTC)
SHA256 = "9f" * 32


def an_object(**changes: Any) -> ObjectDocument:
    found: ObjectDocument = {
        "_id": "obj_1",
        "namespace_id": "ns_1",
        "bucket_id": "bkt_1",
        "key_prefix": None,
        "blobs": [],
        "custom": {"sku": "A-17", "vendor": {"name": "Acme", "country": "DE"}},
        "status": "QUEUED",
        "error": None,
        "created_at": NOW,
        "updated_at": NOW,
        "revision": 1,
        "blobs_revision": 1,
        "run": {"id": 1, "rank": 1},
        "mirror": {"state": "done", "attempts": 0},
        "skip_duplicates": False,
        "auto_process": False,
        "batch_id": "btch_1",
    }
    return {**found, **changes}  # type: ignore[typeddict-item]  # tests change any field


def a_blob(blob_id: str = "blob_1", **changes: Any) -> BlobDocument:
    found: BlobDocument = {
        "blob_id": blob_id,
        "property": "invoice",
        "type": "pdf",
        "key_prefix": None,
        "properties": {},
        "source": None,
        "canonicalize": False,
        "force": False,
        "checksum": None,
        "details": {
            "filename": "a.pdf",
            "size_bytes": 3,
            "mime_type": "application/pdf",
            "hash": f"sha256:{SHA256}",
        },
        "storage": {"url": f"s3://local/{SHA256}", "key": f"blobs/{SHA256}", "duplicate": False},
        "state": "stored",
        "error": None,
    }
    return {**found, **changes}  # type: ignore[typeddict-item]  # tests change any field


def a_collection(
    collection_id: str = "col_1",
    *,
    reads: list[str] | None = None,
    extractor: str = "passthrough_extractor",
    **config: Any,
) -> CollectionDocument:
    """Reads the bucket, or the collections in ``reads``."""
    source = (
        {"type": "collection", "bucket_ids": [], "collection_ids": reads}
        if reads
        else {"type": "bucket", "bucket_ids": ["bkt_1"], "collection_ids": []}
    )
    found: Any = {
        "_id": collection_id,
        "namespace_id": "ns_1",
        "name": f"name of {collection_id}",
        "description": None,
        "source": source,
        "extractor": {
            "id": f"{extractor}_v1",
            "name": extractor,
            "version": "v1",
            "input_mappings": {},
            "field_passthrough": [],
            "include_all_source_fields": False,
            "parameters": {},
        }
        | config,
        "output_schema": {},
        "enabled": True,
        "metadata": {},
        "created_at": NOW,
        "updated_at": NOW,
    }
    return cast("CollectionDocument", found)


def rule(source_path: str, target_path: str | None = None, **more: Any) -> dict[str, Any]:
    return {"source_path": source_path, "target_path": target_path, "default": None, "required": False} | more


def a_document(number: int, **fields: Any) -> DocumentDocument:
    return {
        "_id": f"doc_{number}",
        "namespace_id": "ns_1",
        "collection_id": "col_1",
        "object_id": "obj_1",
        "bucket_id": "bkt_1",
        "ordinal": number,
        "run": 1,
        "revision": 1,
        "fields": {"number": number, **fields},
        "blobs": [],
        "internal": {},
        "created_at": NOW,
        "updated_at": NOW,
    }
