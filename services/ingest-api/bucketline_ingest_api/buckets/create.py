"""A new bucket."""

from typing import Any

from bucketline.db.buckets import BucketDocument, UniqueKey
from bucketline.db.mongo import DuplicateKey
from bucketline.domain.field_validation import free_form_faults
from bucketline.domain.schema_definition import schema_faults
from bucketline.domain.unique_key import config_faults
from bucketline.errors import AlreadyExists, ValidationFailed
from bucketline_ingest_api.buckets.schemas import BucketSettings, CreateBucket, UniqueKeyConfig
from bucketline_ingest_api.container import Container


async def create_bucket(deps: Container, namespace_id: str, body: CreateBucket) -> BucketDocument:
    """A bucket with a sound schema. :class:`AlreadyExists` when the name is taken in the namespace."""
    schema = body.bucket_schema.model_dump(exclude_unset=True)
    faults = schema_faults(schema)
    unique_key = stored_key(body.unique_key) if body.unique_key else None
    if unique_key is not None and not faults:
        faults = config_faults(dict(unique_key), schema)
    faults += free_form_faults(body.metadata or {}, ("body", "metadata"))
    if faults:
        raise ValidationFailed(faults)
    now = deps.clock.now()
    bucket: BucketDocument = {
        "_id": deps.ids.new("bkt"),
        "namespace_id": namespace_id,
        "name": body.bucket_name,
        "description": body.description,
        "schema": schema,
        "unique_key": unique_key,
        "metadata": body.metadata or {},
        "storage_class": body.storage_class or "standard",
        "settings": stored_settings(body.settings),
        "created_at": now,
        "updated_at": now,
    }
    try:
        await deps.buckets.collection.insert(bucket)
    except DuplicateKey as error:
        raise name_taken(body.bucket_name) from error
    deps.forget_buckets()
    return bucket


def stored_key(config: UniqueKeyConfig) -> UniqueKey:
    """The order of the fields says nothing, so they are sorted."""
    return {"fields": sorted(config.fields), "default_policy": config.default_policy}


def stored_settings(settings: BucketSettings | None) -> dict[str, Any]:
    batching = settings.batching if settings else None
    return {"batching": batching.model_dump() if batching else None}


def name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "a bucket with this name exists in the namespace", code="bucket_name_taken", details={"bucket_name": name}
    )
