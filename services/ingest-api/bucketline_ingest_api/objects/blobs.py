"""From the blobs of a request to those of an object: checked, with the place where their bytes come from."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from bucketline.db.objects import BlobDocument
from bucketline.domain.blob_sources import (
    InlineSource,
    InvalidData,
    PropertiesSource,
    Source,
    UploadSource,
    declared_type,
    free_form,
    parse_data,
)
from bucketline.domain.field_validation import storable_faults
from bucketline.domain.fingerprint import properties_hash
from bucketline.domain.schema import METADATA_TYPES, Location, Schema, properties, validate_blob, value_faults
from bucketline.errors import ValidationIssue
from bucketline.ids import Ids
from bucketline_ingest_api.objects.schemas import CreateBlob

_CHECKSUM = re.compile(r"[a-z][a-z0-9-]{1,31}:[0-9a-f]{8,256}")
_BARE_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_FAULTS = 100


@dataclass(frozen=True)
class Rules:
    """What holds for every blob of a request."""

    schema: Schema
    canonicalize: bool
    force: bool
    allow_file: bool
    inline_limit: int


@dataclass
class BlobDraft:
    """A blob on its way into an object.

    ``hash`` is known for inline content and where the producer gave it; ``inline_size`` counts the content's bytes.
    """

    document: BlobDocument
    source: Source
    location: Location
    metadata: Mapping[str, object] = field(default_factory=dict)
    hash: str | None = None
    inline_size: int = 0


def read_blobs(
    blobs: Sequence[CreateBlob], rules: Rules, ids: Ids, *, location: Location
) -> tuple[list[BlobDraft], list[ValidationIssue]]:
    """The blobs that are sound, and what is wrong with the others, one row a fault."""
    drafts, faults = [], []
    for index, blob in enumerate(blobs):
        found = _read(blob, rules, ids, (*location, index))
        if isinstance(found, BlobDraft):
            drafts.append(found)
        else:
            faults += found
    return drafts, faults[:MAX_FAULTS]


def _read(blob: CreateBlob, rules: Rules, ids: Ids, at: Location) -> BlobDraft | list[ValidationIssue]:
    kind = validate_blob(rules.schema, blob.property, blob.type, location=at)
    if isinstance(kind, ValidationIssue):
        return [kind]
    faults: list[ValidationIssue] = []
    source = _source(blob, kind, rules, at)
    if isinstance(source, ValidationIssue):
        faults.append(source)
    if isinstance(blob.data, dict | list):
        faults += islice(storable_faults(blob.data, (*at, "data")), MAX_FAULTS)
    elif blob.data is not None:
        faults += _value_faults(blob, kind, rules.schema, at)
    faults += islice(storable_faults(blob.metadata or {}, (*at, "metadata")), MAX_FAULTS)
    checksum = _checksum(blob.checksum)
    if blob.checksum is not None and checksum is None:
        faults.append(
            ValidationIssue("checksum", (*at, "checksum"), "algorithm:hex or 64 hexadecimal digits are expected")
        )
    if faults or isinstance(source, ValidationIssue):
        return faults
    content_hash, size = _hash(source, checksum)
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
        "source": _described(source, content_hash, size) if bytes_follow else None,
        "canonicalize": rules.canonicalize if blob.canonicalize_source is None else blob.canonicalize_source,
        "force": rules.force if blob.force_remirror is None else blob.force_remirror,
        "checksum": checksum,
        "details": None,
        "storage": None,
        "state": "pending" if bytes_follow else "none",
        "error": None,
    }
    return BlobDraft(document, source, at, metadata, content_hash, size)


def _described(source: Source, content_hash: str | None, size: int) -> dict[str, object]:
    """The source as it is stored; inline content with what is known of it, which answers show until it is mirrored."""
    kept = source.to_document()
    if isinstance(source, InlineSource):
        kept["sha256"] = str(content_hash).removeprefix("sha256:")
        kept["size"] = size
        kept["mime_type"] = declared_type(source)
    return kept


def _source(blob: CreateBlob, kind: str, rules: Rules, at: Location) -> Source | ValidationIssue:
    if (blob.data is None) == (blob.upload_id is None):
        return ValidationIssue("data_or_upload_id", at, "send either data or upload_id")
    if blob.upload_id is not None:
        return UploadSource(blob.upload_id)
    try:
        return parse_data(kind, blob.data, allow_file=rules.allow_file, max_inline_bytes=rules.inline_limit)
    except InvalidData as error:
        return ValidationIssue("blob_data", (*at, "data"), error.reason)


def _value_faults(blob: CreateBlob, kind: str, schema: Schema, at: Location) -> Sequence[ValidationIssue]:
    """A value that is sent as a blob must be what the schema says of the property; an object may say where it is."""
    declared = properties(schema)[blob.property]
    if kind not in METADATA_TYPES or declared["type"] != kind or isinstance(blob.data, dict):
        return ()
    return list(islice(value_faults(declared, blob.data, (*at, "data")), MAX_FAULTS))


def _free_form(source: Source, kind: str, blob: CreateBlob) -> dict[str, object]:
    if isinstance(source, PropertiesSource):
        return dict(source.value)
    return dict(free_form(kind, blob.data))


def _checksum(given: str | None) -> str | None:
    if given is None:
        return None
    lowered = given.lower()
    if _BARE_SHA256.fullmatch(lowered):
        return f"sha256:{lowered}"
    if not _CHECKSUM.fullmatch(lowered):
        return None
    algorithm, _, digits = lowered.partition(":")
    return lowered if algorithm != "sha256" or _BARE_SHA256.fullmatch(digits) else None


def _hash(source: Source, checksum: str | None) -> tuple[str | None, int]:
    """``sha256:<hex>`` where it is known without fetching anything, and how many bytes came with the request."""
    if isinstance(source, PropertiesSource):
        return checksum or properties_hash(source.value), 0
    if isinstance(source, InlineSource):
        content = source.content()
        return f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)
    return (checksum if checksum is not None and checksum.startswith("sha256:") else None), 0
