"""Serializes objects for responses, as sections 1.3 and 1.4 of the contract define them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import orjson
from starlette.responses import Response

from bucketline.clock import wire_time
from bucketline.db.batches import task_of
from bucketline.db.blobs import blob_key
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.field_validation import CREATE_FIELDS, RESERVED
from bucketline.domain.media_types import safe_filename
from bucketline.domain.status import FINAL

ALWAYS_SHOWN = ("object_id", "bucket_id")
DECLARED = RESERVED | CREATE_FIELDS

PollField = Literal["document_count", "status"]
"""The field that a client polls after a write, see :meth:`bucketline_ingest_api.container.Container.poll_field`."""

UrlOf = Callable[[str], str]
"""Returns the ``s3://`` URL of a key of our store."""


class JsonResponse(Response):
    """A response whose content needs no validation: FastAPI would validate it against the response model again."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Return the content as JSON."""
        return orjson.dumps(content)


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
        # Names that begin with an underscore are reserved, so this cannot be a custom field.
        shown["_internal"] = {"warnings": obj["warnings"]}
    return shown


def project(
    shown: Mapping[str, Any],
    fields: Collection[str],
    *,
    always: Collection[str] = ALWAYS_SHOWN,
    whole: Collection[str] = DECLARED,
) -> dict[str, Any]:
    """Keep these fields and those in ``always``. Dots select inside a field unless it is in ``whole``."""
    projected: dict[str, Any] = {name: shown[name] for name in always if name in shown}
    for field in fields:
        root, *path = field.split(".")
        if root in projected and (root in whole or not path):
            projected[root] = shown[root]
        elif root in shown:
            selected = shown[root] if root in whole else _select(shown[root], path)
            projected[root] = _merge_selections(projected.get(root), selected)
    return projected


def written_headers(obj: ObjectDocument) -> dict[str, str]:
    """Return the headers that name the batch and the task of a write with ``auto_process``."""
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
    """Return what dedup found; before that, what is known of inline content and uploads, and what the producer sent."""
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
    """Return the URL of our copy, or where it will be, or (until there is one) the producer's URL."""
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


def _select(value: object, path: list[str]) -> object:
    """Return the part of a custom field that the path selects."""
    if not path or not isinstance(value, Mapping):
        return value
    return {path[0]: _select(value[path[0]], path[1:])} if path[0] in value else {}


def _merge_selections(first: object, second: object) -> object:
    """Return both selections of one field."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {**first, **{name: _merge_selections(first.get(name), value) for name, value in second.items()}}
    return second
