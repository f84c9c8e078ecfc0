"""Changes of a bucket: only what is sent, and nothing that breaks stored objects unless it is forced."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from bucketline.db.buckets import BucketDocument
from bucketline.db.mongo import DuplicateKey
from bucketline.domain.field_validation import free_form_faults
from bucketline.domain.schema_definition import breaking_changes, schema_faults
from bucketline.domain.unique_key import change_faults, config_faults
from bucketline.errors import BadRequest, Forbidden, ServiceUnavailable, ValidationFailed
from bucketline_ingest_api.buckets.create import name_taken, stored_key, stored_settings
from bucketline_ingest_api.buckets.lookup import live_bucket
from bucketline_ingest_api.buckets.schemas import ChangeBucket
from bucketline_ingest_api.container import Container

ATTEMPTS = 5
RESOLUTION = timedelta(milliseconds=1)


async def change_bucket(
    deps: Container, namespace_id: str, identifier: str, body: ChangeBucket, *, force: bool
) -> BucketDocument:
    """The bucket afterwards. What is decided on the stored schema is written only if it is still that one."""
    for _ in range(ATTEMPTS):
        bucket = await live_bucket(deps, namespace_id, identifier)
        changes = _changes(bucket, body, force=force)
        if not changes:
            return bucket
        changes["updated_at"] = max(deps.clock.now(), bucket["updated_at"] + RESOLUTION)
        try:
            changed = await deps.buckets.change(bucket["_id"], changes, seen=bucket["updated_at"])
        except DuplicateKey as error:
            raise name_taken(str(body.bucket_name)) from error
        if changed is not None:
            deps.forget_buckets()
            return changed
    raise ServiceUnavailable("the bucket is being changed by others", retry_after_seconds=1)


def _changes(bucket: BucketDocument, body: ChangeBucket, *, force: bool) -> dict[str, object]:
    sent = body.model_fields_set
    if bucket.get("is_locked") and body.is_locked is not False:
        raise Forbidden("the bucket is locked", code="bucket_locked", details={"bucket_id": bucket["_id"]})
    changes: dict[str, object] = {}
    if body.bucket_name is not None:
        changes["name"] = body.bucket_name
    if "description" in sent:
        changes["description"] = body.description
    if "metadata" in sent:
        if faults := free_form_faults(body.metadata or {}, ("body", "metadata")):
            raise ValidationFailed(faults)
        changes["metadata"] = body.metadata or {}
    if body.storage_class is not None:
        changes["storage_class"] = body.storage_class
    if body.settings is not None:
        changes["settings"] = {**bucket["settings"], **stored_settings(body.settings)}
    if body.is_locked is not None:
        changes["is_locked"] = body.is_locked
    if body.unique_key is not None:
        key = stored_key(body.unique_key)
        if faults := change_faults(bucket["unique_key"], dict(key)):
            raise ValidationFailed(faults)
        changes["unique_key"] = key
    if body.bucket_schema is not None:
        changes["schema"] = _schema(bucket, body.bucket_schema.model_dump(exclude_unset=True), force=force)
    return changes


def _schema(bucket: BucketDocument, schema: dict[str, Any], *, force: bool) -> Mapping[str, Any]:
    faults = schema_faults(schema)
    if not faults and bucket["unique_key"] is not None:
        faults = config_faults(dict(bucket["unique_key"]), schema)
    if faults:
        raise ValidationFailed(faults)
    breaks = breaking_changes(bucket["schema"], schema)
    if breaks and not force:
        raise BadRequest(
            "stored objects may not fit this schema: pass ?force_schema_break=true to change it all the same",
            code="schema_break",
            details={"bucket_id": bucket["_id"], "changes": breaks[:100]},
        )
    return schema
