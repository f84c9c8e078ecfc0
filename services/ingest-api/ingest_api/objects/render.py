"""An object as the contract shows it (section 1.3 and 1.4)."""

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from bucketline.clock import wire_time
from bucketline.domain.reserved import CREATE_FIELDS, RESERVED
from bucketline.domain.status import FINAL
from bucketline.storage.batches import task_of
from bucketline.storage.objects import BlobDocument, ObjectDocument

PRESIGNED_SECONDS = 3600

ALWAYS_SHOWN = ("object_id", "bucket_id")
DECLARED = RESERVED | CREATE_FIELDS


def to_json(value: object) -> bytes:
    """The bytes of an answer."""
    return orjson.dumps(value)


def show(
    obj: ObjectDocument,
    *,
    document_count: int | None = None,
    presigned: Mapping[str, str] | None = None,
    consistency: bool = False,
) -> dict[str, Any]:
    """``presigned`` maps blob ids to URLs; ``consistency`` is for answers to writes."""
    bucket_id = obj["bucket_id"]
    shown: dict[str, Any] = {
        **obj["custom"],
        "object_id": obj["_id"],
        "bucket_id": bucket_id,
        "key_prefix": obj["key_prefix"],
        "blobs": [_blob(blob, (presigned or {}).get(blob["blob_id"])) for blob in obj["blobs"]],
        "source_details": [{"type": "bucket", "source_id": bucket_id}],
        "status": obj["status"],
        "error": obj["error"],
        "created_at": wire_time(obj["created_at"]),
        "updated_at": wire_time(obj["updated_at"]),
        "document_count": document_count,
        "consistency": _consistency(obj) if consistency else None,
    }
    if "edges" in obj:
        shown["edges"] = obj["edges"]
    if obj.get("warnings") and obj["status"] in FINAL:
        # names with an underscore are reserved: this one meets no custom field
        shown["_internal"] = {"warnings": obj["warnings"]}
    return shown


def select(shown: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Only these fields and the ids. Dots lead into custom fields; what the contract declares is kept whole."""
    kept: dict[str, Any] = {name: shown[name] for name in ALWAYS_SHOWN}
    for field in fields:
        root, *path = field.split(".")
        if root in kept and (root in DECLARED or not path):
            kept[root] = shown[root]
        elif root in shown:
            found = shown[root] if root in DECLARED else _only(shown[root], path)
            kept[root] = _joined(kept.get(root), found)
    return kept


def written_headers(obj: ObjectDocument) -> dict[str, str]:
    """Which batch and task a write with ``auto_process`` started."""
    batch_id = obj.get("batch_id") if obj["auto_process"] else None
    return {"X-Batch-Id": batch_id, "X-Task-Id": task_of(batch_id)} if batch_id else {}


def _consistency(obj: ObjectDocument) -> dict[str, Any]:
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
            "field": "document_count",
            "ready_when": "> 0",
        },
        "next_actions": actions,
    }


def _blob(blob: BlobDocument, presigned_url: str | None) -> dict[str, Any]:
    properties = dict(blob["properties"])
    if (url := _url(blob)) is not None:
        properties["url"] = url
    if presigned_url is not None:
        properties["presigned_url"] = presigned_url
    details: Mapping[str, object] | None = blob["details"]
    if details is None and blob["checksum"] is not None:
        details = {"filename": None, "size_bytes": None, "mime_type": None, "hash": blob["checksum"]}
    if details is not None:
        details = {name: value for name, value in details.items() if name != "charset"}
    return {
        "blob_id": blob["blob_id"],
        "property": blob["property"],
        "key_prefix": blob["key_prefix"],
        "type": blob["type"],
        "properties": properties,
        "presigned_url": presigned_url,
        "details": details,
    }


def _url(blob: BlobDocument) -> str | None:
    """Where the bytes are: our copy, or (until there is one) where the producer said."""
    if blob["storage"] is not None:
        return blob["storage"]["url"]
    source = blob["source"]
    if source is not None and source.get("kind") in ("url", "s3"):
        return str(source["url"])
    return None


def _only(value: object, path: list[str]) -> object:
    if not path or not isinstance(value, Mapping):
        return value
    return {path[0]: _only(value[path[0]], path[1:])} if path[0] in value else {}


def _joined(kept: object, found: object) -> object:
    """Two selections of one field."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return {**kept, **{name: _joined(kept.get(name), value) for name, value in found.items()}}
    return found
