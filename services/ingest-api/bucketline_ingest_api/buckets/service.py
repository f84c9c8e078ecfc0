"""Create, find, list and update buckets."""

from datetime import timedelta
from typing import Any

from bucketline.db.buckets import BucketDocument, UniqueKey
from bucketline.db.mongo import DuplicateKey
from bucketline.domain.field_validation import free_form_faults
from bucketline.domain.pagination import BUCKETS
from bucketline.domain.schema_definition import breaking_changes, schema_faults
from bucketline.domain.unique_key import change_faults, config_faults
from bucketline.errors import AlreadyExists, BadRequest, Forbidden, NotFound, ServiceUnavailable, ValidationFailed
from bucketline_ingest_api.buckets.schemas import Bucket, BucketSettings, CreateBucket, UniqueKeyConfig, UpdateBucket
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import ListSpec, field_mapper

MAX_UPDATE_ATTEMPTS = 5
TIME_RESOLUTION = timedelta(milliseconds=1)

LIST_SPEC = ListSpec(
    bounds=BUCKETS,
    field_path=field_mapper(
        {"bucket_id": "_id", "bucket_name": "name", "bucket_schema": "schema"},
        unchanged=Bucket.model_fields.keys() - {"settings"},
    ),
    searched=("_id", "name", "description"),
    exact=frozenset({"bucket_id"}),
)


async def find_bucket(container: Container, namespace_id: str, identifier: str) -> BucketDocument:
    """Return the bucket with this id or name, even while it is being deleted. Raises :class:`NotFound`."""
    bucket = await container.buckets.resolve(namespace_id, identifier)
    if bucket is None:
        raise NotFound.of("bucket", identifier)
    return bucket


async def create_bucket(container: Container, namespace_id: str, body: CreateBucket) -> BucketDocument:
    """Create a bucket. Raises :class:`AlreadyExists` when the name is taken in the namespace."""
    schema = body.bucket_schema.model_dump(exclude_unset=True)
    faults = schema_faults(schema)
    unique_key = _stored_key(body.unique_key) if body.unique_key else None
    if unique_key is not None and not faults:
        faults = config_faults(dict(unique_key), schema)
    faults += free_form_faults(body.metadata or {}, ("body", "metadata"))
    if faults:
        raise ValidationFailed(faults)
    now = container.clock.now()
    bucket: BucketDocument = {
        "_id": container.ids.new("bkt"),
        "namespace_id": namespace_id,
        "name": body.bucket_name,
        "description": body.description,
        "schema": schema,
        "unique_key": unique_key,
        "metadata": body.metadata or {},
        "storage_class": body.storage_class or "standard",
        "settings": _stored_settings(body.settings),
        "created_at": now,
        "updated_at": now,
    }
    try:
        await container.buckets.create(bucket)
    except DuplicateKey as error:
        raise _name_taken(body.bucket_name) from error
    container.forget_buckets()
    return bucket


async def update_bucket(
    container: Container, namespace_id: str, identifier: str, body: UpdateBucket, *, force: bool
) -> BucketDocument:
    """Set the fields that were sent and return the updated bucket.

    A schema is written only if the stored one is still the one that it was compared with. ``force`` allows changes
    that stored objects may not fit.
    """
    for _ in range(MAX_UPDATE_ATTEMPTS):
        bucket = await find_bucket(container, namespace_id, identifier)
        if bucket.get("deleting"):
            raise NotFound.of("bucket", identifier)
        changes = _changes(bucket, body, force=force)
        if not changes:
            return bucket
        changes["updated_at"] = max(container.clock.now(), bucket["updated_at"] + TIME_RESOLUTION)
        try:
            updated = await container.buckets.change(bucket["_id"], changes, seen=bucket["updated_at"])
        except DuplicateKey as error:
            raise _name_taken(str(body.bucket_name)) from error
        if updated is not None:
            container.forget_buckets()
            return updated
    raise ServiceUnavailable("the bucket is being modified concurrently; try again", retry_after_seconds=1)


def _changes(bucket: BucketDocument, body: UpdateBucket, *, force: bool) -> dict[str, object]:
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
        changes["settings"] = {**bucket["settings"], **_stored_settings(body.settings)}
    if body.is_locked is not None:
        changes["is_locked"] = body.is_locked
    if body.unique_key is not None:
        key = _stored_key(body.unique_key)
        if faults := change_faults(bucket["unique_key"], dict(key)):
            raise ValidationFailed(faults)
        changes["unique_key"] = key
    if body.bucket_schema is not None:
        changes["schema"] = _checked_schema(bucket, body.bucket_schema.model_dump(exclude_unset=True), force=force)
    return changes


def _checked_schema(bucket: BucketDocument, schema: dict[str, Any], *, force: bool) -> dict[str, Any]:
    faults = schema_faults(schema)
    if not faults and bucket["unique_key"] is not None:
        faults = config_faults(dict(bucket["unique_key"]), schema)
    if faults:
        raise ValidationFailed(faults)
    breaks = breaking_changes(bucket["schema"], schema)
    if breaks and not force:
        raise BadRequest(
            "stored objects may not fit this schema: pass ?force_schema_break=true to change it anyway",
            code="schema_break",
            details={"bucket_id": bucket["_id"], "changes": breaks[:100]},
        )
    return schema


def _stored_key(config: UniqueKeyConfig) -> UniqueKey:
    """Return the unique key with its fields sorted, since their order has no meaning."""
    return {"fields": sorted(config.fields), "default_policy": config.default_policy}


def _stored_settings(settings: BucketSettings | None) -> dict[str, Any]:
    batching = settings.batching if settings else None
    return {"batching": batching.model_dump() if batching else None}


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "a bucket with this name exists in the namespace", code="bucket_name_taken", details={"bucket_name": name}
    )
