"""Uploads: presigned PUT URLs for clients. Create, read, list and delete; :mod:`.confirmation` completes them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, cast

from bucketline.db.buckets import BucketDocument
from bucketline.db.uploads import UploadDocument
from bucketline.domain.field_validation import custom_faults, free_form_faults
from bucketline.domain.filters import DATE_FIELDS
from bucketline.domain.media_types import media_fits, type_of_media
from bucketline.domain.pagination import UPLOADS
from bucketline.domain.schema import (
    FILE_TYPES,
    MAX_FAULTS,
    TYPES,
    Location,
    file_properties,
    properties,
    validate_blob,
)
from bucketline.domain.status import Status
from bucketline.errors import BadRequest, NotFound, ValidationFailed, ValidationIssue
from bucketline.ids import Ids
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.validation import UniqueKeyValue, ensure_writable, validate_create
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.uploads.schemas import PROPERTY, CreateUpload, CreateUploads, Upload, UploadStats

KEY_PREFIX = "uploads"
CONFIRM_GRACE = timedelta(minutes=5)
"""How long after its URL expired an upload can be confirmed: a PUT that began in time may take a while."""
DOWNLOAD_URL_SECONDS = 3600
UNDELETABLE_STATUSES = (str(Status.COMPLETED), str(Status.PROCESSING))

LIST_SPEC = ListSpec(
    bounds=UPLOADS,
    field_path=field_mapper(
        {"upload_id": "_id", "file_size_bytes": "size_bytes", "create_object_on_confirm": "create_object"},
        unchanged=[name for name in Upload.model_fields if name in UploadDocument.__annotations__],
    ),
    searched=("_id", "filename", "content_type"),
    counted=False,
    dates=DATE_FIELDS | {"expires_at", "completed_at", "verified_at"},
    exact=frozenset({"upload_id", "bucket_id", "status", "object_id", "batch_id", "task_id"}),
)


async def create_upload(deps: Container, bucket: BucketDocument, body: CreateUpload) -> Upload:
    """Create one upload; 422 with one row per fault."""
    ensure_writable(bucket)
    [upload] = await _create(deps, bucket, [validate_upload(bucket, body, deps.settings, deps.ids)])
    return upload


async def create_uploads(deps: Container, bucket: BucketDocument, body: CreateUploads) -> list[Upload]:
    """Create all uploads, or none if one of them is invalid."""
    ensure_writable(bucket)
    drafts, faults = [], []
    for index, entry in enumerate(body.uploads):
        upload = entry.model_copy(
            update={
                "metadata": _merge(body.shared_metadata, entry.metadata),
                "object_metadata": _merge(body.shared_object_metadata, entry.object_metadata),
            }
        )
        try:
            drafts.append(validate_upload(bucket, upload, deps.settings, deps.ids, location=("body", "uploads", index)))
        except ValidationFailed as error:
            faults += error.issues
    if faults:
        raise ValidationFailed(faults[:MAX_FAULTS])
    return await _create(deps, bucket, drafts)


def validate_upload(
    bucket: BucketDocument, body: CreateUpload, settings: ApiSettings, ids: Ids, *, location: Location = ("body",)
) -> tuple[CreateUpload, UniqueKeyValue | None]:
    """Return the upload with its property and type, and the unique key of the future object if it is known.

    Raises :class:`ValidationFailed` with one row per fault.
    """
    name = body.blob_property or default_property(bucket, body.filename)
    faults = free_form_faults(body.metadata or {}, (*location, "metadata"))
    faults += free_form_faults(body.object_metadata or {}, (*location, "object_metadata"))
    kind = body.blob_type.lower() if body.blob_type is not None else type_of_media(body.content_type)
    if body.blob_type is not None and kind not in TYPES:
        faults.append(ValidationIssue("enum", (*location, "blob_type"), "not a type of the bucket schemas"))
    key = None
    if body.create_object_on_confirm:
        declared, blob_faults = _validate_blob_property(bucket, name, body, location)
        faults += blob_faults
        kind = declared or kind
        key, object_faults = _validate_object(bucket, name, body.object_metadata or {}, settings, ids, location)
        faults = faults or object_faults
    if faults:
        raise ValidationFailed(faults[:MAX_FAULTS])
    return body.model_copy(update={"blob_property": name, "blob_type": kind}), key


def default_property(bucket: BucketDocument, filename: str) -> str:
    """Return the only file property of the schema, or else the name of the file without its extension."""
    files = list(file_properties(bucket["schema"]))
    return files[0] if len(files) == 1 else PurePosixPath(filename).stem


def object_body(
    name: str, upload_id: str, metadata: Mapping[str, Any] | None, *, idempotency_key: str | None = None
) -> CreateObject:
    """Return the request that creates the object of an upload."""
    blobs = [{"property": name, "upload_id": upload_id}]
    return CreateObject.model_validate({**(metadata or {}), "blobs": blobs, "idempotency_key": idempotency_key})


def _validate_blob_property(
    bucket: BucketDocument, name: str, body: CreateUpload, location: Location
) -> tuple[str | None, list[ValidationIssue]]:
    """Return the type that the schema declares for the property, and the faults of the upload with respect to it."""
    at = (*location, "blob_property")
    if not PROPERTY.fullmatch(name):
        message = f"{name[:100]!r} has other characters than letters, digits and _: name the property"
        return None, [ValidationIssue("blob_property", at, message)]
    kind = validate_blob(bucket["schema"], name, body.blob_type, location=location)
    if isinstance(kind, ValidationIssue):
        at = (*location, "blob_type") if name in properties(bucket["schema"]) else at
        return None, [ValidationIssue(str(kind["type"]), at, str(kind["message"]))]
    if kind not in FILE_TYPES:
        return kind, [ValidationIssue("blob_property", at, f"{name!r} takes no file: it is a {kind}")]
    if not media_fits(body.content_type, kind):
        message = f"{body.content_type} does not fit the property {name!r}, which is of type {kind}"
        return kind, [ValidationIssue("content_type", (*location, "content_type"), message)]
    return kind, []


def _validate_object(
    bucket: BucketDocument,
    name: str,
    metadata: Mapping[str, Any],
    settings: ApiSettings,
    ids: Ids,
    location: Location,
) -> tuple[UniqueKeyValue | None, list[ValidationIssue]]:
    """Return the unique key of the future object, and the faults that would keep it from being created."""
    at = (*location, "object_metadata")
    faults = custom_faults(metadata, schema_properties=properties(bucket["schema"]), location=at)
    if faults:
        return None, faults
    try:
        draft = validate_create(bucket, object_body(name, "upl_later", metadata), settings, ids, location=at)
    except ValidationFailed as error:
        return None, [fault for fault in error.issues if "blobs" not in cast("list[object]", fault["location"])]
    key = bucket["unique_key"]
    # An update may complete an existing object; whether there is one is only known when the upload is confirmed.
    may_update = key is not None and key["default_policy"] != "insert"
    return draft.unique_key, [] if may_update else draft.incomplete


def _merge(shared: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> dict[str, object] | None:
    return None if shared is None and own is None else {**(shared or {}), **(own or {})}


async def _create(
    deps: Container, bucket: BucketDocument, drafts: Sequence[tuple[CreateUpload, UniqueKeyValue | None]]
) -> list[Upload]:
    """Store the uploads and sign their URLs. Known content gets no new upload and no URL."""
    hashes = [body.file_hash for body, _ in drafts if body.file_hash is not None and body.skip_duplicates]
    confirmed = await deps.uploads.confirmed(bucket["_id"], hashes) if hashes else {}
    now = deps.clock.now()
    created, new = [], []
    for body, key in drafts:
        duplicate = confirmed.get(body.file_hash or "") if body.skip_duplicates else None
        if duplicate is not None:
            created.append(Upload.of(duplicate, duplicate=True))
            continue
        upload = _new_upload(deps, bucket, body, now)
        existing = await _find_key_holder(deps, bucket, key)
        if existing is not None:
            upload["existing_object_id"] = existing
            upload["message"] = "an object with this unique key exists"
        created.append(Upload.of(upload, presigned_url=None if existing else await _presign_put(deps, upload)))
        new.append(upload)
    await deps.uploads.insert(new)
    return created


async def _find_key_holder(deps: Container, bucket: BucketDocument, value: UniqueKeyValue | None) -> str | None:
    """Return the id of the object that already has the unique key, where the policy only inserts."""
    key = bucket["unique_key"]
    if key is None or key["default_policy"] != "insert" or value is None:
        return None
    existing = await deps.objects.by_unique_key(bucket["_id"], value.text)
    return existing["_id"] if existing is not None else None


async def _presign_put(deps: Container, upload: UploadDocument) -> str:
    return await deps.blobstore.presign_put(
        upload["key"],
        expires=upload["presigned_url_expiration"],
        content_type=upload["content_type"],
        size=upload["size_bytes"],
        sha256=upload["file_hash"],
    )


def _new_upload(deps: Container, bucket: BucketDocument, body: CreateUpload, now: datetime) -> UploadDocument:
    upload_id = deps.ids.new("upl")
    expires_at = now + timedelta(seconds=body.presigned_url_expiration)
    return {
        "_id": upload_id,
        "namespace_id": bucket["namespace_id"],
        "bucket_id": bucket["_id"],
        "key": f"{KEY_PREFIX}/{bucket['namespace_id']}/{upload_id}",
        "filename": body.filename,
        "content_type": body.content_type,
        "size_bytes": body.file_size_bytes,
        "presigned_url_expiration": body.presigned_url_expiration,
        "metadata": body.metadata,
        "create_object": body.create_object_on_confirm,
        "object_metadata": body.object_metadata,
        "blob_property": str(body.blob_property),
        "blob_type": body.blob_type,
        "file_hash": body.file_hash,
        "skip_duplicates": body.skip_duplicates,
        "status": str(Status.PENDING),
        "message": None,
        "created_at": now,
        "expires_at": expires_at,
        "due_at": expires_at + CONFIRM_GRACE,
    }


async def get_upload(
    deps: Container, namespace_id: str, upload_id: str, bucket_id: str | None = None
) -> UploadDocument:
    """Return the upload; :class:`NotFound` also for one of another namespace or bucket."""
    upload = await deps.uploads.get(namespace_id, upload_id, bucket_id)
    if upload is None:
        raise NotFound.of("upload", upload_id)
    return upload


async def presign_download(deps: Container, upload: UploadDocument) -> str | None:
    """Return a URL to download the bytes, valid for an hour; None before they are confirmed."""
    if upload["status"] != Status.COMPLETED:
        return None
    return await deps.blobstore.presign_get(upload["key"], expires=DOWNLOAD_URL_SECONDS, filename=upload["filename"])


async def list_uploads(
    deps: Container, bucket_id: str, query: ListQuery, body: ListBody | None
) -> Page[UploadDocument]:
    """Return a page of the bucket's uploads, newest first."""
    return await list_rows(deps.uploads, {"bucket_id": bucket_id}, LIST_SPEC, query, body)


def page_stats(uploads: Sequence[UploadDocument]) -> UploadStats:
    """Return the statistics of one page. Uploads of unknown size count as empty."""
    sizes = [upload["size_bytes"] or 0 for upload in uploads]
    return UploadStats(
        total_uploads=len(uploads),
        total_size_bytes=sum(sizes),
        uploads_by_status=dict(Counter(upload["status"] for upload in uploads)),
        avg_file_size_bytes=sum(sizes) / len(sizes) if sizes else 0.0,
        unique_buckets=len({upload["bucket_id"] for upload in uploads}),
    )


async def delete_upload(deps: Container, upload: UploadDocument, *, delete_bytes: bool) -> None:
    """Delete an unconfirmed upload, and its bytes at once or after its URL has expired.

    Its key is kept until then, because the URL accepts bytes for that long. 400 for a confirmed upload: objects may
    refer to it.
    """
    if not await deps.uploads.bury([upload], grace=CONFIRM_GRACE, but=UNDELETABLE_STATUSES):
        current = await deps.uploads.get_by_id(upload["_id"], fields=["status"])
        if current is not None:
            raise BadRequest(
                f"the upload is {current['status']} and cannot be deleted",
                code="upload_not_deletable",
                details={"upload_id": upload["_id"], "status": current["status"]},
            )
    if delete_bytes:
        await deps.blobstore.delete([upload["key"]])


async def delete_bucket_uploads(deps: Container, uploads: Sequence[UploadDocument]) -> None:
    """Delete uploads of any status with their bytes, because their bucket is deleted."""
    await deps.blobstore.delete([upload["key"] for upload in uploads])
    expired_before = deps.clock.now() - CONFIRM_GRACE
    expired = [upload["_id"] for upload in uploads if upload["expires_at"] < expired_before]
    await deps.uploads.delete_by_ids(expired)
    await deps.uploads.bury(
        [upload for upload in uploads if upload["expires_at"] >= expired_before], grace=CONFIRM_GRACE
    )
