"""What a producer sent, checked against the bucket, before it becomes an object or changes one. No I/O."""

from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import MAX_OBJECT_BYTES, BlobDocument, ObjectDocument, stored_size
from bucketline.domain.field_validation import custom_faults, promoted, storable_faults
from bucketline.domain.fingerprint import content_key
from bucketline.domain.schema import (
    Location,
    apply_defaults,
    file_properties,
    missing_files,
    properties,
    validate_fields,
)
from bucketline.domain.status import RANK_NEW, RANK_QUEUED, Status
from bucketline.domain.unique_key import canonical_key, key_faults, key_values
from bucketline.errors import Forbidden, NotFound, PayloadTooLarge, ValidationFailed, ValidationIssue
from bucketline.ids import Ids
from bucketline_ingest_api.objects.blobs import BlobDraft, Rules, read_blobs
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.settings import ApiSettings

MAX_FAULTS = 100

Scalar = str | int | float | bool


@dataclass(frozen=True)
class UniqueKeyValue:
    """``text`` is what the unique index sees, ``values`` what an answer shows."""

    text: str
    values: dict[str, Scalar]


@dataclass(frozen=True)
class ObjectDraft:
    """A sound request.

    ``fields`` are the root fields that were sent, promoted blob metadata included. ``blobs`` is None when no list was
    sent. What a *new* object needs beyond that is in ``incomplete``.
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
        """Names the content, if every blob's hash is known."""
        rows = [(blob.document["property"], blob.hash) for blob in self.blobs or ()]
        known = [(name, found) for name, found in rows if found is not None]
        return content_key(known) if len(known) == len(rows) else None


def refuse_too_large(document: ObjectDocument) -> None:
    """:class:`PayloadTooLarge` for an object that MongoDB could not hold with what will be added to it."""
    size = stored_size(document)
    if size > MAX_OBJECT_BYTES:
        raise PayloadTooLarge(
            f"fields and metadata of an object may have at most {MAX_OBJECT_BYTES} bytes together",
            details={"limit_bytes": MAX_OBJECT_BYTES, "size_bytes": size},
        )


def ensure_writable(bucket: BucketDocument) -> None:
    """:class:`NotFound` for a bucket that is being deleted, :class:`Forbidden` for a locked one."""
    if bucket.get("deleting"):
        raise NotFound.of("bucket", bucket["_id"])
    if bucket.get("is_locked"):
        raise Forbidden("the bucket is locked", details={"bucket_id": bucket["_id"]})


def validate_create(
    bucket: BucketDocument, body: CreateObject, settings: ApiSettings, ids: Ids, *, location: Location = ("body",)
) -> ObjectDraft:
    """Raises :class:`ValidationFailed` with one row a fault."""
    schema = bucket["schema"]
    declared = properties(schema)
    custom = body.model_extra or {}
    faults = custom_faults(custom, schema_properties=declared, location=location)
    rules = Rules(
        schema=schema,
        canonicalize=body.canonicalize_source,
        force=body.force_remirror,
        allow_file=settings.allow_file_sources,
        inline_limit=settings.max_inline_bytes,
    )
    blobs, blob_faults = read_blobs(body.blobs or (), rules, ids, location=(*location, "blobs"))
    faults += blob_faults
    edges, edge_faults = _edges(body, location)
    faults += edge_faults
    files = file_properties(schema)
    fields = promoted(custom, ({k: v for k, v in blob.metadata.items() if k not in files} for blob in blobs))
    names = {blob.document["property"] for blob in blobs}
    if not faults:
        faults += validate_fields(schema, fields, blobs=names, partial=True, location=location)
    key = None
    if not faults and bucket["unique_key"] is not None:
        named = bucket["unique_key"]["fields"]
        filled = apply_defaults(schema, fields)
        faults += key_faults(named, filled, location=location)
        if not faults:
            key = UniqueKeyValue(canonical_key(named, filled), key_values(named, filled))
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
    """The document of a new object, still without its event. ``batch_id`` is given for ``auto_process``.

    :class:`ValidationFailed` when something that the schema requires is missing.
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
    if (found := draft.content_key) is not None:
        document["content_key"] = found
    return document


def stored_blobs(draft: ObjectDraft) -> list[BlobDocument]:
    return [blob.document for blob in draft.blobs or ()]


def _edges(body: CreateObject, location: Location) -> tuple[list[dict[str, object]] | None, list[ValidationIssue]]:
    if body.edges is None:
        return None, []
    edges: list[dict[str, object]] = []
    for edge in body.edges:
        shown = edge.model_dump()
        if edge.target_collection_id is None:
            del shown["target_collection_id"]
        edges.append(shown)
    return edges, list(islice(storable_faults(edges, (*location, "edges")), MAX_FAULTS))
