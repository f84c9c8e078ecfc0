"""Validates what a producer sent against the bucket, before it becomes an object or changes one. No I/O."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
_BARE_SHA256 = re.compile(r"[0-9a-f]{64}")

Scalar = str | int | float | bool


@dataclass(frozen=True)
class BlobOptions:
    """Options that apply to every blob of a request."""

    schema: Schema
    canonicalize: bool
    force: bool
    allow_file: bool
    inline_limit: int


@dataclass
class BlobDraft:
    """A valid blob of a request.

    ``hash`` is set for inline content and if the producer sent it; ``inline_size`` is the size of inline content.
    """

    document: BlobDocument
    source: Source
    location: Location
    metadata: Mapping[str, object] = field(default_factory=dict)
    hash: str | None = None
    inline_size: int = 0


@dataclass(frozen=True)
class UniqueKeyValue:
    """The value of a unique key: ``text`` for the unique index, ``values`` for responses."""

    text: str
    values: dict[str, Scalar]


@dataclass(frozen=True)
class ObjectDraft:
    """A valid create request.

    ``fields`` are the root fields that were sent, promoted blob metadata included. ``blobs`` is None if no list was
    sent. ``incomplete`` lists what is missing for a *new* object.
    """

    key_prefix: str | None
    key_prefix_sent: bool
    fields: dict[str, object]
    blobs: list[BlobDraft] | None
    edges: list[dict[str, object]] | None
    skip_duplicates: bool
    idempotency_key: str | None
    unique_key: UniqueKeyValue | None
    incomplete: list[ValidationIssue]

    @property
    def content_key(self) -> str | None:
        """The fingerprint of the content, if the hash of every blob is known."""
        rows = [(blob.document["property"], blob.hash) for blob in self.blobs or ()]
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
    options = BlobOptions(
        schema=schema,
        canonicalize=body.canonicalize_source,
        force=body.force_remirror,
        allow_file=settings.allow_file_sources,
        inline_limit=settings.max_inline_bytes,
    )
    blobs, blob_faults = read_blobs(body.blobs or (), options, ids, location=(*location, "blobs"))
    faults += blob_faults
    edges, edge_faults = _read_edges(body, location)
    faults += edge_faults
    files = file_properties(schema)
    fields = promoted(custom, ({k: v for k, v in blob.metadata.items() if k not in files} for blob in blobs))
    names = {blob.document["property"] for blob in blobs}
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
    return ObjectDraft(
        key_prefix=body.key_prefix,
        key_prefix_sent="key_prefix" in body.model_fields_set,
        fields=fields,
        blobs=None if body.blobs is None else blobs,
        edges=edges,
        skip_duplicates=body.skip_duplicates,
        idempotency_key=body.idempotency_key,
        unique_key=key,
        incomplete=incomplete[:MAX_FAULTS],
    )


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
        "key_prefix": draft.key_prefix,
        "blobs": stored_blobs(draft),
        "custom": apply_defaults(bucket["schema"], draft.fields),
        "status": str(Status.QUEUED if auto else Status.DRAFT),
        "error": None,
        "created_at": now,
        "updated_at": now,
        "revision": 1,
        "blobs_revision": 1,
        "run": {"id": 1, "rank": RANK_QUEUED} if auto else {"id": 0, "rank": RANK_NEW},
        "mirror": {"state": "pending", "attempts": 0, "due_at": due_at},
        "skip_duplicates": draft.skip_duplicates,
        "auto_process": auto,
    }
    if auto:
        document["batch_id"] = batch_id
        document["moved_at"] = now
    if draft.edges is not None:
        document["edges"] = draft.edges
    if draft.unique_key is not None:
        document["unique_key"] = draft.unique_key.text
    if draft.idempotency_key is not None:
        document["idempotency_keys"] = [draft.idempotency_key]
    if (content := draft.content_key) is not None:
        document["content_key"] = content
    return document


def stored_blobs(draft: ObjectDraft) -> list[BlobDocument]:
    """Return the documents of the blobs."""
    return [blob.document for blob in draft.blobs or ()]


def _read_edges(body: CreateObject, location: Location) -> tuple[list[dict[str, object]] | None, list[ValidationIssue]]:
    if body.edges is None:
        return None, []
    edges: list[dict[str, object]] = []
    for edge in body.edges:
        document = edge.model_dump()
        if edge.target_collection_id is None:
            del document["target_collection_id"]
        edges.append(document)
    return edges, list(islice(storable_faults(edges, (*location, "edges")), MAX_FAULTS))


def read_blobs(
    blobs: Sequence[CreateBlob], options: BlobOptions, ids: Ids, *, location: Location
) -> tuple[list[BlobDraft], list[ValidationIssue]]:
    """Return the valid blobs, and the faults of the others."""
    drafts, faults = [], []
    for index, blob in enumerate(blobs):
        draft = _read_blob(blob, options, ids, (*location, index))
        if isinstance(draft, BlobDraft):
            drafts.append(draft)
        else:
            faults += draft
    return drafts, faults[:MAX_FAULTS]


def _read_blob(blob: CreateBlob, options: BlobOptions, ids: Ids, at: Location) -> BlobDraft | list[ValidationIssue]:
    kind = validate_blob(options.schema, blob.property, blob.type, location=at)
    if isinstance(kind, ValidationIssue):
        return [kind]
    faults: list[ValidationIssue] = []
    source = _parse_source(blob, kind, options, at)
    if isinstance(source, ValidationIssue):
        faults.append(source)
    if isinstance(blob.data, dict | list):
        faults += islice(storable_faults(blob.data, (*at, "data")), MAX_FAULTS)
    elif blob.data is not None:
        faults += _value_faults(blob, kind, options.schema, at)
    faults += islice(storable_faults(blob.metadata or {}, (*at, "metadata")), MAX_FAULTS)
    checksum = _normalize_checksum(blob.checksum)
    if blob.checksum is not None and checksum is None:
        faults.append(
            ValidationIssue("checksum", (*at, "checksum"), "algorithm:hex or 64 hexadecimal digits are expected")
        )
    if faults or isinstance(source, ValidationIssue):
        return faults
    content_hash, size = _hash_content(source, checksum)
    if checksum is not None and checksum.startswith("sha256:") and content_hash != checksum:
        return [ValidationIssue("checksum", (*at, "checksum"), "the checksum is not that of the data")]
    metadata = blob.metadata or {}
    bytes_follow = not isinstance(source, PropertiesSource)
    document: BlobDocument = {
        "blob_id": ids.new("blob"),
        "property": blob.property,
        "type": kind,
        "key_prefix": blob.key_prefix,
        "properties": {**_free_form(source, kind, blob), **metadata},
        "source": _source_document(source, content_hash, size) if bytes_follow else None,
        "canonicalize": options.canonicalize if blob.canonicalize_source is None else blob.canonicalize_source,
        "force": options.force if blob.force_remirror is None else blob.force_remirror,
        "checksum": checksum,
        "details": None,
        "storage": None,
        "state": "pending" if bytes_follow else "none",
        "error": None,
    }
    return BlobDraft(document, source, at, metadata, content_hash, size)


def _source_document(source: Source, content_hash: str | None, size: int) -> dict[str, object]:
    """Return the source as it is stored, for inline content with the details that responses show before mirroring."""
    document = source.to_document()
    if isinstance(source, InlineSource):
        document["sha256"] = str(content_hash).removeprefix("sha256:")
        document["size"] = size
        document["mime_type"] = declared_type(source)
    return document


def _parse_source(blob: CreateBlob, kind: str, options: BlobOptions, at: Location) -> Source | ValidationIssue:
    if (blob.data is None) == (blob.upload_id is None):
        return ValidationIssue("data_or_upload_id", at, "send either data or upload_id")
    if blob.upload_id is not None:
        return UploadSource(blob.upload_id)
    try:
        return parse_data(kind, blob.data, allow_file=options.allow_file, max_inline_bytes=options.inline_limit)
    except InvalidData as error:
        return ValidationIssue("blob_data", (*at, "data"), error.reason)


def _value_faults(blob: CreateBlob, kind: str, schema: Schema, at: Location) -> Sequence[ValidationIssue]:
    """Validate a plain value that is sent as a blob against the type of its property. An object may be a source."""
    declared = properties(schema)[blob.property]
    if kind not in METADATA_TYPES or declared["type"] != kind or isinstance(blob.data, dict):
        return ()
    return list(islice(value_faults(declared, blob.data, (*at, "data")), MAX_FAULTS))


def _free_form(source: Source, kind: str, blob: CreateBlob) -> dict[str, object]:
    if isinstance(source, PropertiesSource):
        return dict(source.value)
    return dict(free_form(kind, blob.data))


def _normalize_checksum(checksum: str | None) -> str | None:
    """Return ``algorithm:hex`` in lower case, or None if it is not a checksum."""
    if checksum is None:
        return None
    lowered = checksum.lower()
    if _BARE_SHA256.fullmatch(lowered):
        return f"sha256:{lowered}"
    if not _CHECKSUM.fullmatch(lowered):
        return None
    algorithm, _, digits = lowered.partition(":")
    return lowered if algorithm != "sha256" or _BARE_SHA256.fullmatch(digits) else None


def _hash_content(source: Source, checksum: str | None) -> tuple[str | None, int]:
    """Return ``sha256:<hex>`` if it is known without fetching anything, and the size of inline content."""
    if isinstance(source, PropertiesSource):
        return checksum or properties_hash(source.value), 0
    if isinstance(source, InlineSource):
        content = source.content()
        return f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)
    return (checksum if checksum is not None and checksum.startswith("sha256:") else None), 0
