"""Validates what a producer sent against the bucket, before it becomes an object or changes one. No I/O."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import MAX_OBJECT_BYTES, BlobDocument, ObjectDocument, stored_size
from bucketline.domain.blob_sources import (
    InlineSource,
    InvalidData,
    PropertiesSource,
    Source,
    UploadSource,
    content_key,
    declared_type,
    free_form,
    parse_data,
    properties_hash,
)
from bucketline.domain.field_validation import custom_faults, promoted, storable_faults
from bucketline.domain.schema import (
    METADATA_TYPES,
    Location,
    Schema,
    apply_defaults,
    file_properties,
    missing_files,
    properties,
    validate_blob,
    validate_fields,
    value_faults,
)
from bucketline.domain.status import RANK_NEW, RANK_QUEUED, Status
from bucketline.domain.unique_key import canonical_key, key_faults, key_values
from bucketline.errors import Forbidden, NotFound, PayloadTooLarge, ValidationFailed, ValidationIssue
from bucketline.ids import Ids
from bucketline_ingest_api.objects.schemas import CreateBlob, CreateObject
from bucketline_ingest_api.settings import ApiSettings

MAX_FAULTS = 100

_CHECKSUM = re.compile(r"[a-z][a-z0-9-]{1,31}:[0-9a-f]{8,256}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Scalar = str | int | float | bool


@dataclass
class BlobDraft:
    """A valid blob of a request. ``hash`` is set for inline content and if the producer sent it."""

    document: BlobDocument
    source: Source
    hash: str | None
    inline_size: int = 0


@dataclass(frozen=True)
class UniqueKeyValue:
    """The value of a unique key: ``text`` for the unique index, ``values`` for responses."""

    text: str
    values: dict[str, Scalar]


@dataclass(frozen=True)
class ObjectDraft:
    """A valid create request.

    ``fields`` are the root fields that were sent, promoted blob metadata included. ``incomplete`` lists what is missing
    for a *new* object.
    """

    body: CreateObject
    fields: dict[str, object]
    blobs: list[BlobDraft]
    edges: list[dict[str, object]]
    unique_key: UniqueKeyValue | None
    incomplete: list[ValidationIssue]

    @property
    def content_key(self) -> str | None:
        """The fingerprint of the content, if the hash of every blob is known."""
        rows = [(blob.document["property"], blob.hash) for blob in self.blobs]
        hashed = [(name, value) for name, value in rows if value is not None]
        return content_key(hashed) if len(hashed) == len(rows) else None


def refuse_too_large(document: ObjectDocument) -> None:
    """Raise :class:`PayloadTooLarge` for an object that would outgrow a MongoDB document while it is processed."""
    size = stored_size(document)
    if size > MAX_OBJECT_BYTES:
        raise PayloadTooLarge(
            f"fields and metadata of an object may have at most {MAX_OBJECT_BYTES} bytes together",
            details={"limit_bytes": MAX_OBJECT_BYTES, "size_bytes": size},
        )


def ensure_writable(bucket: BucketDocument) -> None:
    """Raise :class:`NotFound` for a bucket that is being deleted, :class:`Forbidden` for a locked one."""
    if bucket.get("deleting"):
        raise NotFound.of("bucket", bucket["_id"])
    if bucket.get("is_locked"):
        raise Forbidden("the bucket is locked", details={"bucket_id": bucket["_id"]})


def validate_create(
    bucket: BucketDocument, body: CreateObject, settings: ApiSettings, ids: Ids, *, location: Location = ("body",)
) -> ObjectDraft:
    """Validate a create request; :class:`ValidationFailed` with one row per fault."""
    schema = bucket["schema"]
    declared = properties(schema)
    custom = body.model_extra or {}
    faults = custom_faults(custom, schema_properties=declared, location=location)
    blobs, blob_faults = _read_blobs(schema, body, settings, ids, (*location, "blobs"))
    faults += blob_faults
    edges = [
        edge.model_dump(exclude={"target_collection_id"} if edge.target_collection_id is None else None)
        for edge in body.edges or ()
    ]
    faults += islice(storable_faults(edges, (*location, "edges")), MAX_FAULTS)
    files = file_properties(schema)
    metadata = [blob.metadata or {} for blob in body.blobs or ()]
    fields = promoted(custom, ({k: v for k, v in values.items() if k not in files} for values in metadata))
    names = {blob.property for blob in body.blobs or ()}
    if not faults:
        faults += validate_fields(schema, fields, blobs=names, partial=True, location=location)
    key = None
    if not faults and bucket["unique_key"] is not None:
        key_fields = bucket["unique_key"]["fields"]
        completed = apply_defaults(schema, fields)
        faults += key_faults(key_fields, completed, location=location)
        if not faults:
            key = UniqueKeyValue(canonical_key(key_fields, completed), key_values(key_fields, completed))
    if faults:
        raise ValidationFailed(faults[:MAX_FAULTS])
    incomplete = validate_fields(schema, apply_defaults(schema, fields), blobs=names, location=location)
    incomplete += missing_files(schema, names, location=(*location, "blobs"))
    return ObjectDraft(body, fields, blobs, edges, key, incomplete[:MAX_FAULTS])


def new_object(
    bucket: BucketDocument, draft: ObjectDraft, *, object_id: str, batch_id: str | None, now: datetime, due_at: datetime
) -> ObjectDocument:
    """Return the document of a new object, without its event. ``batch_id`` is set for ``auto_process``.

    :class:`ValidationFailed` if something that the schema requires is missing.
    """
    if draft.incomplete:
        raise ValidationFailed(draft.incomplete)
    auto = batch_id is not None
    document: ObjectDocument = {
        "_id": object_id,
        "namespace_id": bucket["namespace_id"],
        "bucket_id": bucket["_id"],
        "key_prefix": draft.body.key_prefix,
        "blobs": [blob.document for blob in draft.blobs],
        "custom": apply_defaults(bucket["schema"], draft.fields),
        "status": str(Status.QUEUED if auto else Status.DRAFT),
        "error": None,
        "created_at": now,
        "updated_at": now,
        "revision": 1,
        "blobs_revision": 1,
        "run": {"id": 1, "rank": RANK_QUEUED} if auto else {"id": 0, "rank": RANK_NEW},
        "mirror": {"state": "pending", "attempts": 0, "due_at": due_at},
        "skip_duplicates": draft.body.skip_duplicates,
        "auto_process": auto,
    }
    if auto:
        document["batch_id"] = batch_id
        document["moved_at"] = now
    if draft.body.edges is not None:
        document["edges"] = draft.edges
    if draft.unique_key is not None:
        document["unique_key"] = draft.unique_key.text
    if draft.body.idempotency_key is not None:
        document["idempotency_keys"] = [draft.body.idempotency_key]
    if (content := draft.content_key) is not None:
        document["content_key"] = content
    return document


def _read_blobs(
    schema: Schema, body: CreateObject, settings: ApiSettings, ids: Ids, location: Location
) -> tuple[list[BlobDraft], list[ValidationIssue]]:
    """Return the valid blobs, and the faults of the others."""
    drafts, faults = [], []
    for index, blob in enumerate(body.blobs or ()):
        draft = _read_blob(schema, body, blob, settings, ids, (*location, index))
        if isinstance(draft, BlobDraft):
            drafts.append(draft)
        else:
            faults += draft
    return drafts, faults[:MAX_FAULTS]


def _read_blob(
    schema: Schema, body: CreateObject, blob: CreateBlob, settings: ApiSettings, ids: Ids, at: Location
) -> BlobDraft | list[ValidationIssue]:
    kind = validate_blob(schema, blob.property, blob.type, location=at)
    if isinstance(kind, ValidationIssue):
        return [kind]
    faults: list[ValidationIssue] = []
    source = _parse_source(blob, kind, settings, at)
    if isinstance(source, ValidationIssue):
        faults.append(source)
    declared = properties(schema)[blob.property]
    if isinstance(blob.data, dict | list):
        faults += islice(storable_faults(blob.data, (*at, "data")), MAX_FAULTS)
    if kind in METADATA_TYPES and declared["type"] == kind and not isinstance(blob.data, dict | list | None):
        faults += islice(value_faults(declared, blob.data, (*at, "data")), MAX_FAULTS)
    faults += islice(storable_faults(blob.metadata or {}, (*at, "metadata")), MAX_FAULTS)
    checksum = _normalize_checksum(blob.checksum)
    if blob.checksum is not None and checksum is None:
        message = "algorithm:hex or 64 hexadecimal digits are expected"
        faults.append(ValidationIssue("checksum", (*at, "checksum"), message))
    if faults or isinstance(source, ValidationIssue):
        return faults
    stored: dict[str, object] | None = None
    content_hash = checksum if checksum is not None and checksum.startswith("sha256:") else None
    if isinstance(source, PropertiesSource):
        free = dict(source.value)
        content_hash = checksum or properties_hash(source.value)
    else:
        free = dict(free_form(kind, blob.data))
        stored = source.to_document()
    size = 0
    if isinstance(source, InlineSource) and stored is not None:
        content = source.content()
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        if content_hash not in (None, f"sha256:{digest}"):
            return [ValidationIssue("checksum", (*at, "checksum"), "the checksum is not that of the data")]
        content_hash = f"sha256:{digest}"
        # What responses show until the content is mirrored.
        stored |= {"sha256": digest, "size": size, "mime_type": declared_type(source)}
    document: BlobDocument = {
        "blob_id": ids.new("blob"),
        "property": blob.property,
        "type": kind,
        "key_prefix": blob.key_prefix,
        "properties": {**free, **(blob.metadata or {})},
        "source": stored,
        "canonicalize": body.canonicalize_source if blob.canonicalize_source is None else blob.canonicalize_source,
        "force": body.force_remirror if blob.force_remirror is None else blob.force_remirror,
        "checksum": checksum,
        "details": None,
        "storage": None,
        "state": "none" if stored is None else "pending",
        "error": None,
    }
    return BlobDraft(document, source, content_hash, size)


def _parse_source(blob: CreateBlob, kind: str, settings: ApiSettings, at: Location) -> Source | ValidationIssue:
    if (blob.data is None) == (blob.upload_id is None):
        return ValidationIssue("data_or_upload_id", at, "send either data or upload_id")
    if blob.upload_id is not None:
        return UploadSource(blob.upload_id)
    try:
        return parse_data(
            kind, blob.data, allow_file=settings.allow_file_sources, max_inline_bytes=settings.max_inline_bytes
        )
    except InvalidData as error:
        return ValidationIssue("blob_data", (*at, "data"), error.reason)


def _normalize_checksum(checksum: str | None) -> str | None:
    """Return ``algorithm:hex`` in lower case, or None if it is not a checksum."""
    text = (checksum or "").lower()
    text = f"sha256:{text}" if _SHA256.fullmatch(text) else text
    algorithm, _, digits = text.partition(":")
    valid = _CHECKSUM.fullmatch(text) and (algorithm != "sha256" or _SHA256.fullmatch(digits))
    return text if valid else None
