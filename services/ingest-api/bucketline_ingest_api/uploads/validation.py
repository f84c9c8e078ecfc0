"""Validates new uploads before a URL is signed for them. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bucketline.db.buckets import BucketDocument
from bucketline.domain.field_validation import custom_faults, free_form_faults
from bucketline.domain.media_types import media_fits, type_of_media
from bucketline.domain.schema import FILE_TYPES, TYPES, Location, file_properties, properties, validate_blob
from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline.ids import Ids
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.validation import UniqueKeyValue, validate_create
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.uploads.schemas import PROPERTY, CreateUpload

MAX_FAULTS = 100


@dataclass(frozen=True)
class UploadDraft:
    """A valid upload. ``unique_key`` is that of the future object, if its fields are known."""

    body: CreateUpload
    metadata: dict[str, object] | None
    object_metadata: dict[str, object] | None
    blob_property: str
    blob_type: str | None
    unique_key: UniqueKeyValue | None


def validate_upload(
    bucket: BucketDocument,
    body: CreateUpload,
    settings: ApiSettings,
    ids: Ids,
    *,
    shared: Mapping[str, Any] | None = None,
    shared_object: Mapping[str, Any] | None = None,
    location: Location = ("body",),
) -> UploadDraft:
    """Validate an upload; its own metadata overrides the shared. :class:`ValidationFailed` with one row per fault."""
    metadata = _merge(shared, body.metadata)
    object_metadata = _merge(shared_object, body.object_metadata)
    name = body.blob_property or default_property(bucket, body.filename)
    faults = free_form_faults(metadata or {}, (*location, "metadata"))
    faults += free_form_faults(object_metadata or {}, (*location, "object_metadata"))
    kind = body.blob_type.lower() if body.blob_type is not None else type_of_media(body.content_type)
    if body.blob_type is not None and kind not in TYPES:
        faults.append(ValidationIssue("enum", (*location, "blob_type"), "not a type of the bucket schemas"))
    key = None
    if body.create_object_on_confirm:
        declared, blob_faults = _validate_blob_property(bucket, name, body, location)
        faults += blob_faults
        kind = declared or kind
        key, object_faults = _validate_object(
            bucket, name, object_metadata, settings, ids, (*location, "object_metadata")
        )
        if not faults:
            faults = object_faults
    if faults:
        raise ValidationFailed(faults[:MAX_FAULTS])
    return UploadDraft(body, metadata, object_metadata, name, kind, key)


def default_property(bucket: BucketDocument, filename: str) -> str:
    """Return the only file property of the schema, or else the name of the file without its extension."""
    files = list(file_properties(bucket["schema"]))
    return files[0] if len(files) == 1 else PurePosixPath(filename).stem


def object_body(
    name: str, upload_id: str, metadata: Mapping[str, Any] | None, *, idempotency_key: str | None = None
) -> CreateObject:
    """Return the request that creates the object of an upload."""
    return CreateObject.model_validate(
        {
            **(metadata or {}),
            "blobs": [{"property": name, "upload_id": upload_id}],
            **({"idempotency_key": idempotency_key} if idempotency_key else {}),
        }
    )


def _validate_blob_property(
    bucket: BucketDocument, name: str, body: CreateUpload, location: Location
) -> tuple[str | None, list[ValidationIssue]]:
    """Return the type that the schema declares for the property, and the faults of the upload with respect to it."""
    if not PROPERTY.fullmatch(name):
        message = f"{name[:100]!r} has other characters than letters, digits and _: name the property"
        return None, [ValidationIssue("blob_property", (*location, "blob_property"), message)]
    kind = validate_blob(bucket["schema"], name, body.blob_type, location=location)
    if isinstance(kind, ValidationIssue):
        at = (*location, "blob_type" if name in properties(bucket["schema"]) else "blob_property")
        return None, [ValidationIssue(str(kind["type"]), at, str(kind["message"]))]
    if kind not in FILE_TYPES:
        return kind, [
            ValidationIssue("blob_property", (*location, "blob_property"), f"{name!r} takes no file: it is a {kind}")
        ]
    if not media_fits(body.content_type, kind):
        message = f"{body.content_type} does not fit the property {name!r}, which is of type {kind}"
        return kind, [ValidationIssue("content_type", (*location, "content_type"), message)]
    return kind, []


def _validate_object(
    bucket: BucketDocument,
    name: str,
    metadata: Mapping[str, Any] | None,
    settings: ApiSettings,
    ids: Ids,
    location: Location,
) -> tuple[UniqueKeyValue | None, list[ValidationIssue]]:
    """Return the unique key of the future object, and the faults that would keep it from being created."""
    faults = custom_faults(metadata or {}, schema_properties=properties(bucket["schema"]), location=location)
    if faults:
        return None, faults
    try:
        draft = validate_create(bucket, object_body(name, "upl_later", metadata), settings, ids, location=location)
    except ValidationFailed as error:
        return None, [fault for fault in error.issues if "blobs" not in _path(fault)]
    key = bucket["unique_key"]
    # An update may complete an existing object; whether there is one is only known when the upload is confirmed.
    may_update = key is not None and key["default_policy"] != "insert"
    return draft.unique_key, [] if may_update else draft.incomplete


def _path(fault: ValidationIssue) -> list[Any]:
    location = fault["location"]
    return list(location) if isinstance(location, list) else []


def _merge(shared: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> dict[str, object] | None:
    return None if shared is None and own is None else {**(shared or {}), **(own or {})}
