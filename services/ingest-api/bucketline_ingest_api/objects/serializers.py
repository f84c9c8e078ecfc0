"""An object as the contract shows it (section 1.3 and 1.4)."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import orjson

from bucketline.clock import wire_time
from bucketline.db.batches import task_of
from bucketline.db.blobs import blob_key
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.field_validation import CREATE_FIELDS, RESERVED
from bucketline.domain.filenames import safe_filename
from bucketline.domain.status import FINAL

PRESIGNED_SECONDS = 3600

ALWAYS_SHOWN = ("object_id", "bucket_id")
DECLARED = RESERVED | CREATE_FIELDS

PollField = Literal["document_count", "status"]
"""What a client polls after a write; :meth:`bucketline_ingest_api.container.Container.poll_field` chooses it."""

UrlOf = Callable[[str], str]
"""The ``s3://`` URL of a key of our store."""


def to_json(value: object) -> bytes:
    """The bytes of an answer."""
    return orjson.dumps(value)


def serialize(
    obj: ObjectDocument,
    url_of: UrlOf,
    *,
    document_count: int | None = None,
    presigned: Mapping[str, str] | None = None,
    poll: PollField | None = None,
) -> dict[str, Any]:
    """``presigned`` maps blob ids to URLs; ``poll`` is set in answers to writes, which say what to do next."""
    bucket_id = obj["bucket_id"]
    shown: dict[str, Any] = {
        **obj["custom"],
        "object_id": obj["_id"],
        "bucket_id": bucket_id,
        "key_prefix": obj["key_prefix"],
        "blobs": [_blob(blob, url_of, (presigned or {}).get(blob["blob_id"])) for blob in obj["blobs"]],
        "source_details": [{"type": "bucket", "source_id": bucket_id}],
        "status": obj["status"],
        "error": obj["error"],
        "created_at": wire_time(obj["created_at"]),
        "updated_at": wire_time(obj["updated_at"]),
        "document_count": document_count,
        "consistency": _consistency(obj, poll) if poll is not None else None,
    }
    if "edges" in obj:
        shown["edges"] = obj["edges"]
    if obj.get("warnings") and obj["status"] in FINAL:
        # names with an underscore are reserved: this one meets no custom field
        shown["_internal"] = {"warnings": obj["warnings"]}
    return shown


def project(
    shown: Mapping[str, Any],
    fields: Collection[str],
    *,
    always: Collection[str] = ALWAYS_SHOWN,
    whole: Collection[str] = DECLARED,
) -> dict[str, Any]:
    """Only these fields, and those in ``always``. Dots lead into custom fields; what is in ``whole`` is not cut."""
    kept: dict[str, Any] = {name: shown[name] for name in always if name in shown}
    for field in fields:
        root, *path = field.split(".")
        if root in kept and (root in whole or not path):
            kept[root] = shown[root]
        elif root in shown:
            found = shown[root] if root in whole else _only(shown[root], path)
            kept[root] = _joined(kept.get(root), found)
    return kept


def written_headers(obj: ObjectDocument) -> dict[str, str]:
    """Which batch and task a write with ``auto_process`` started."""
    batch_id = obj.get("batch_id") if obj["auto_process"] else None
    return {"X-Batch-Id": batch_id, "X-Task-Id": task_of(batch_id)} if batch_id else {}


def _consistency(obj: ObjectDocument, poll: PollField) -> dict[str, Any]:
    bucket = f"/v1/buckets/{obj['bucket_id']}"
    batch_id = obj.get("batch_id") if obj["auto_process"] else None
    if batch_id:
        task_id = task_of(batch_id)
        actions = [
            {"action": "poll_batch", "endpoint": f"{bucket}/batches/{batch_id}", "batch_id": batch_id},
            {"action": "poll_task", "endpoint": f"/v1/tasks/{task_id}", "task_id": task_id},
        ]
    else:
        actions = [{"action": "create_batch", "endpoint": f"{bucket}/batches"}]
    return {
        "retriever_visible": "after_processing",
        "recommended_header": None,
        "write_token_available": False,
        "expected_visible_within_ms": None,
        "poll": {
            "endpoint": f"{bucket}/objects/{obj['_id']}",
            "field": poll,
            "ready_when": "> 0" if poll == "document_count" else "== COMPLETED",
        },
        "next_actions": actions,
    }


def _blob(blob: BlobDocument, url_of: UrlOf, presigned_url: str | None) -> dict[str, Any]:
    properties = dict(blob["properties"])
    if (url := _url(blob, url_of)) is not None:
        properties["url"] = url
    if presigned_url is not None:
        properties["presigned_url"] = presigned_url
    return {
        "blob_id": blob["blob_id"],
        "property": blob["property"],
        "key_prefix": blob["key_prefix"],
        "type": blob["type"],
        "properties": properties,
        "presigned_url": presigned_url,
        "details": _details(blob),
    }


def _details(blob: BlobDocument) -> Mapping[str, object] | None:
    """What dedup found; before that, what is known of inline content and of uploads, and what the producer said."""
    if blob["details"] is not None:
        return {name: value for name, value in blob["details"].items() if name != "charset"}
    source = blob["source"] or {}
    sha256, filename, media_type = source.get("sha256"), source.get("filename"), source.get("mime_type")
    details = {
        "filename": safe_filename(filename) if isinstance(filename, str) else None,
        "size_bytes": source.get("size"),
        "mime_type": media_type.partition(";")[0].strip() if isinstance(media_type, str) else None,
        "hash": f"sha256:{sha256}" if sha256 else blob["checksum"],
    }
    return details if details["size_bytes"] is not None or details["hash"] is not None else None


def _url(blob: BlobDocument, url_of: UrlOf) -> str | None:
    """Where the bytes are: our copy, or where it will be, or (until there is one) where the producer has them."""
    if blob["storage"] is not None:
        return blob["storage"]["url"]
    source = blob["source"] or {}
    if source.get("kind") in ("url", "s3"):
        return str(source["url"])
    if blob["state"] != "pending":
        return None
    if sha256 := source.get("sha256"):
        return url_of(blob_key(str(sha256)))
    return url_of(str(source["key"])) if source.get("kind") == "upload" else None


def _only(value: object, path: list[str]) -> object:
    if not path or not isinstance(value, Mapping):
        return value
    return {path[0]: _only(value[path[0]], path[1:])} if path[0] in value else {}


def _joined(kept: object, found: object) -> object:
    """Two selections of one field."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return {**kept, **{name: _joined(kept.get(name), value) for name, value in found.items()}}
    return found
