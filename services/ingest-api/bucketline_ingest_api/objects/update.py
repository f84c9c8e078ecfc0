"""Updates objects: by policy with a whole request, or single fields by PATCH and PUT.

Every update is a compare-and-set on the revision that was read, so that no concurrent update is lost. Its event is
written with it, and the events of an object are published in order.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import cast

from bucketline.db.buckets import BucketDocument
from bucketline.db.mongo import DuplicateKey
from bucketline.db.objects import MAX_IDEMPOTENCY_KEYS, BlobDocument, ObjectDocument, event_state
from bucketline.db.outbox_store import outbox_entry_of
from bucketline.domain.field_validation import custom_faults
from bucketline.domain.insertion_policy import key_taken, put_fields
from bucketline.domain.schema import properties, same, validate_fields
from bucketline.domain.status import OBJECT_IN_FLIGHT, RANK_NEW, RANK_QUEUED, Status
from bucketline.domain.text_encodings import charset_of
from bucketline.domain.unique_key import canonical_key, key_faults, key_values
from bucketline.errors import NotFound, ServiceUnavailable, ValidationFailed
from bucketline.events.models import ObjectUpdated
from bucketline.observability.metrics import OBJECTS
from bucketline.observability.tracing import current_trace
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.schemas import PatchObject, PutObject
from bucketline_ingest_api.objects.validation import (
    BlobDraft,
    ObjectDraft,
    ensure_writable,
    refuse_too_large,
)

MAX_ATTEMPTS = 10


async def merge_object(
    deps: Container, existing: ObjectDocument, draft: ObjectDraft, *, auto_process: bool
) -> ObjectDocument | None:
    """Merge a create request into the object that has its key; None if the object was changed concurrently.

    Root fields that were sent replace their namesakes, a list of blobs that was sent replaces the stored one. A changed
    object becomes a draft again, or is queued in a new run with ``auto_process``. If nothing changes and nothing has to
    run, the object stays as it is and no event is written.
    """
    now = deps.clock.now()
    changes = _changed_fields(existing, draft)
    blobs_changed = draft.body.blobs is not None and not _same_blobs(existing["blobs"], draft.blobs)
    running = existing["status"] in OBJECT_IN_FLIGHT
    if not changes and not blobs_changed and (running or not auto_process):
        return existing
    sets: dict[str, object] = {**changes, "error": None, "skip_duplicates": draft.body.skip_duplicates}
    unsets: dict[str, object] = {}
    if blobs_changed:
        sets["blobs"] = [blob.document for blob in draft.blobs]
        sets["blobs_revision"] = existing["blobs_revision"] + 1
        sets["mirror"] = {
            "state": "pending",
            "attempts": 0,
            "due_at": now + timedelta(seconds=deps.reconcile.stale_after_seconds),
        }
        if (content := draft.content_key) is not None:
            sets["content_key"] = content
        else:
            unsets["content_key"] = ""
    sets["auto_process"] = auto_process
    sets["run"] = {"id": existing["run"]["id"] + 1, "rank": RANK_QUEUED if auto_process else RANK_NEW}
    sets["moved_at"] = now
    if auto_process:
        sets["status"] = str(Status.QUEUED)
        sets["batch_id"] = deps.ids.new("btch")
    else:
        sets["status"] = str(Status.DRAFT)
        unsets["batch_id"] = ""
    if draft.body.idempotency_key is not None:
        keys = [key for key in existing.get("idempotency_keys", []) if key != draft.body.idempotency_key]
        sets["idempotency_keys"] = [*keys, draft.body.idempotency_key][-MAX_IDEMPOTENCY_KEYS:]
    try:
        return await _write(deps, existing, sets, unsets, now, blobs_changed=blobs_changed, auto_process=auto_process)
    except DuplicateKey:
        # Another object got the idempotency key since: the caller looks it up and replays it.
        return None


async def patch_object(deps: Container, bucket: BucketDocument, object_id: str, body: PatchObject) -> ObjectDocument:
    """Change the fields that were sent. The status stays, and nothing is processed."""
    ensure_writable(bucket)
    for _ in range(MAX_ATTEMPTS):
        existing = await deps.objects.get(bucket["_id"], object_id)
        if existing is None:
            raise NotFound.of("object", object_id)
        sent = _read_fields(bucket, existing, body)
        custom = {**existing["custom"], **sent}
        sets: dict[str, object] = {}
        if not same(custom, existing["custom"]):
            sets["custom"] = custom
        if "key_prefix" in body.model_fields_set and body.key_prefix != existing["key_prefix"]:
            sets["key_prefix"] = body.key_prefix
        if body.skip_duplicates is not None and body.skip_duplicates != existing["skip_duplicates"]:
            sets["skip_duplicates"] = body.skip_duplicates
        key_values_sent = _update_unique_key(bucket, custom, sent, sets)
        if not sets:
            return existing
        try:
            changed = await _write(deps, existing, sets, {}, deps.clock.now(), blobs_changed=False, auto_process=False)
        except DuplicateKey as error:
            other = await deps.objects.by_unique_key(bucket["_id"], str(sets["unique_key"]))
            if other is None:
                continue
            raise key_taken(other["_id"], key_values_sent) from error
        if changed is not None:
            OBJECTS.labels("updated").inc()
            return changed
    raise ServiceUnavailable("the object is being modified concurrently; try again", retry_after_seconds=1)


async def _write(
    deps: Container,
    existing: ObjectDocument,
    sets: Mapping[str, object],
    unsets: Mapping[str, object],
    now: datetime,
    *,
    blobs_changed: bool,
    auto_process: bool,
) -> ObjectDocument | None:
    written = cast("ObjectDocument", {**existing, **sets})
    refuse_too_large(written)
    event = deps.new_event(
        ObjectUpdated(
            object_id=existing["_id"],
            bucket_id=existing["bucket_id"],
            namespace_id=existing["namespace_id"],
            revision=existing["revision"] + 1,
            **event_state(written),
            blobs_changed=blobs_changed,
            auto_process=auto_process,
            updated_at=now,
        )
    )
    operators: dict[str, Mapping[str, object]] = {"$set": {**sets, "trace": current_trace()}}
    if unsets:
        operators["$unset"] = unsets
    changed = await deps.objects.change(
        existing["_id"], existing["revision"], operators, event, now, run=existing["run"]["id"]
    )
    if changed is not None:
        deps.object_outbox.enqueue([outbox_entry_of(changed)])
    return changed


def _changed_fields(existing: ObjectDocument, draft: ObjectDraft) -> dict[str, object]:
    """Return what a create request changes, apart from blobs."""
    changes: dict[str, object] = {}
    custom = {**existing["custom"], **draft.fields}
    if not same(custom, existing["custom"]):
        changes["custom"] = custom
    if "key_prefix" in draft.body.model_fields_set and draft.body.key_prefix != existing["key_prefix"]:
        changes["key_prefix"] = draft.body.key_prefix
    if draft.body.edges is not None and draft.edges != existing.get("edges"):
        changes["edges"] = draft.edges
    return changes


def _same_blobs(stored: list[BlobDocument], sent: list[BlobDraft]) -> bool:
    return len(stored) == len(sent) and all(map(_same_blob, stored, sent))


def _same_blob(stored: BlobDocument, sent: BlobDraft) -> bool:
    """Return whether the blob is the stored one: then it keeps its id, and nothing is fetched again."""
    new = sent.document
    if stored["state"] == "failed" or new["force"]:
        return False
    if any(stored[name] != new[name] for name in ("property", "type", "key_prefix", "canonicalize", "checksum")):
        return False
    if not same(stored["properties"], new["properties"]):
        return False
    if new["state"] == "none":
        return stored["state"] == "none"
    source = new["source"] or {}
    charset = charset_of(str(source.get("mime_type") or source.get("media_type") or ""))
    details = stored["details"] if source.get("kind") != "text" else None
    if details is not None and charset not in (None, details.get("charset")):
        return False
    stored_hash = stored["details"]["hash"] if stored["details"] is not None else None
    if stored_hash is None and (sha256 := (stored["source"] or {}).get("sha256")):
        stored_hash = f"sha256:{sha256}"
    return stored_hash == sent.hash if stored_hash is not None else stored["source"] == new["source"]


def _read_fields(bucket: BucketDocument, existing: ObjectDocument, body: PatchObject) -> dict[str, object]:
    """Return the root fields that a PATCH or PUT sets; :class:`ValidationFailed` for invalid ones."""
    fields = dict(body.model_extra or {})
    faults = custom_faults(fields, schema_properties=properties(bucket["schema"]))
    if isinstance(body, PutObject) and body.metadata is not None:
        inner = put_fields(existing["custom"], body.metadata)
        faults += custom_faults(inner, location=("body", "metadata"))
        fields = {**inner, **fields}
    if not faults:
        blob_names = {blob["property"] for blob in existing["blobs"]}
        faults = validate_fields(bucket["schema"], fields, blobs=blob_names, partial=True)
    if faults:
        raise ValidationFailed(faults)
    return fields


def _update_unique_key(
    bucket: BucketDocument, custom: Mapping[str, object], sent: Mapping[str, object], sets: dict[str, object]
) -> dict[str, str | int | float | bool]:
    """Add the unique key to ``sets`` if a field of it was sent; return the key's values."""
    key = bucket["unique_key"]
    if key is None or "custom" not in sets or not any(name in sent for name in key["fields"]):
        return {}
    if faults := key_faults(key["fields"], custom):
        raise ValidationFailed(faults)
    sets["unique_key"] = canonical_key(key["fields"], custom)
    return key_values(key["fields"], custom)
