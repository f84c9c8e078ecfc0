"""One blob of one object: which way its bytes take, and what the object says of it afterwards."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from bucketline.blobs.store import BlobStore
from bucketline.clock import Clock
from bucketline.db.blobs import Blobs, blob_key
from bucketline.db.objects import BlobDocument, Details, ObjectDocument, Objects
from bucketline.domain.blob_sources import (
    PropertiesSource,
    S3Source,
    Source,
    StagedSource,
    UploadSource,
    UrlSource,
    from_document,
)
from bucketline.domain.media_types import safe_filename
from bucketline.observability.metrics import BLOB_BYTES, BLOBS
from bucketline_dedup.content_store import (
    STAGING,
    ContentBeingDeleted,
    ContentStore,
    LargeTransferSlot,
    PutRequest,
    StoredContent,
)
from bucketline_dedup.errors import AddressRefused, ChecksumMismatch, SourceNotFound, SourceUnavailable
from bucketline_dedup.hashing import sha256_of_checksum
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import SourceOpener

OUTSIDE = frozenset({"url", "s3", "file"})
"""Sources that stay where they are when they are not to be copied; everything else is ours already."""

URL_ATTEMPTS = 3
"""Attempts before a URL of our content is refused: a new object has its URL before its content is mirrored."""

_CONTENT = re.compile(r"blobs/sha256/([0-9a-f]{2})/([0-9a-f]{2})/(\1\2[0-9a-f]{60})")


def stays_outside(blob: BlobDocument) -> bool:
    """Whether this blob is only linked: ``canonicalize_source`` is off, and the source is not ours."""
    return not blob["canonicalize"] and (blob["source"] or {}).get("kind") in OUTSIDE


class BlobMirror:
    """Gets the bytes of one blob into the store."""

    def __init__(
        self,
        store: BlobStore,
        storing: ContentStore,
        opener: SourceOpener,
        objects: Objects,
        records: Blobs,
        settings: DedupSettings,
        *,
        clock: Clock,
    ) -> None:
        self._store = store
        self._storing = storing
        self._opener = opener
        self._objects = objects
        self._records = records
        self._settings = settings
        self._clock = clock

    async def mirror(self, obj: ObjectDocument, blob: BlobDocument, turn: str, room: LargeTransferSlot) -> BlobDocument:
        """The blob as it is afterwards: stored, linked, or without bytes.

        Raises :class:`~bucketline_dedup.errors.SourceError`, ``StoreUnavailable``, and what
        :mod:`bucketline_dedup.content_store` raises. ``turn``
        is in the name of everything staged on the way, so that it is known whose it was.
        """
        source = from_document(blob["source"] or {})
        if isinstance(source, PropertiesSource):
            return without_bytes(blob)
        if stays_outside(blob):
            return linked(blob)
        given = blob["source"] or {}
        wanted = PutRequest(
            staging=f"{STAGING}/{obj['_id']}/{turn}/{blob['blob_id']}",
            mime_type=_text(given.get("mime_type")),
            filename=safe_filename(_text(given.get("filename"))),
            checksum=blob["checksum"],
            force=blob["force"],
        )
        known = await self._known(obj, source, wanted)
        if known is not None:
            BLOBS.labels("skipped").inc()
            return stored(blob, known, self._store)
        key = self._own_key(source, given)
        if key is not None:
            taken = await self._storing.verified(key, await self._storing.head(key), wanted)
            if taken is not None:
                counted(taken, read=False)
                return stored(blob, taken, self._store)
            source = StagedSource(key)
        async with self._opener.open(source, max_bytes=self._settings.max_bytes) as stream:
            taken = await self._storing.stream(stream, wanted, room)
        counted(taken)
        return stored(blob, taken, self._store)

    async def _known(self, obj: ObjectDocument, source: Source, wanted: PutRequest) -> StoredContent | None:
        """Content that needs no look at the source: it is named by its hash, and the producer has it already.

        Knowing a hash is no proof of having the content, so a hash counts only where the producer could read the
        content anyway: in the same bucket (``skip_duplicates``) or namespace (a URL of ours).
        """
        announced = sha256_of_checksum(wanted.checksum)
        if isinstance(source, S3Source) and (content := _CONTENT.fullmatch(self._store.key_of(source.url) or "")):
            sha256 = content[3]
            if not await self._refers(sha256, "namespace_id", obj["namespace_id"]):
                if obj["mirror"]["attempts"] < URL_ATTEMPTS:
                    raise SourceUnavailable("the source is not stored yet", detail=sha256)
                raise AddressRefused(detail=f"no object of the namespace has {sha256}")
            if announced not in (None, sha256):
                raise ChecksumMismatch(expected=f"sha256:{announced}", actual=f"sha256:{sha256}")
            known = await self._record(sha256, wanted.filename)
            if known is None:
                raise SourceNotFound(detail=sha256)
            return known
        if not obj["skip_duplicates"] or wanted.force or announced is None:
            return None
        if not await self._refers(announced, "bucket_id", obj["bucket_id"]):
            return None
        path = urlsplit(source.url).path if isinstance(source, UrlSource | S3Source) else None
        return await self._record(announced, wanted.filename or safe_filename(path))

    async def _record(self, sha256: str, filename: str | None) -> StoredContent | None:
        claimed = await self._records.claim([sha256], self._clock.now())
        if sha256 in claimed.leaving:
            raise ContentBeingDeleted("the content is being removed")
        record = claimed.held.get(sha256)
        if record is None:
            return None
        kept = record["size_bytes"], record["mime_type"], filename
        return StoredContent(sha256, *kept, duplicate=True, charset=record.get("charset"))

    async def _refers(self, sha256: str, scope: str, value: str) -> bool:
        where = {"blobs.details.hash": f"sha256:{sha256}", scope: value}
        return await self._objects.collection.find_one(where, fields=["_id"]) is not None

    def _own_key(self, source: Source, given: Mapping[str, object]) -> str | None:
        """The key of a source that lies in our own bucket; None for every other source."""
        if isinstance(source, StagedSource):
            return source.key
        if isinstance(source, UploadSource):
            return _text(given.get("key"))
        if not isinstance(source, S3Source) or (key := self._store.key_of(source.url)) is None:
            return None
        if not key.startswith(self._settings.allowed_key_prefixes):
            raise AddressRefused(detail=f"{key} is not below an allowed prefix of our bucket")
        return key


def stored(blob: BlobDocument, taken: StoredContent, store: BlobStore) -> BlobDocument:
    """The blob with its content; where it came from is forgotten."""
    details: Details = {
        "filename": taken.filename,
        "size_bytes": taken.size_bytes,
        "mime_type": taken.mime_type,
        "hash": f"sha256:{taken.sha256}",
    }
    if taken.charset is not None:
        details["charset"] = taken.charset
    key = blob_key(taken.sha256)
    return {
        **blob,
        "state": "stored",
        "source": None,
        "error": None,
        "details": details,
        "storage": {"url": store.url_of(key), "key": key, "duplicate": taken.duplicate},
    }


def linked(blob: BlobDocument) -> BlobDocument:
    """The blob left where it is. Nothing was read, so nothing is known but what the producer said."""
    BLOBS.labels("linked").inc()
    return {**blob, "state": "linked", "error": None}


def without_bytes(blob: BlobDocument) -> BlobDocument:
    return {**blob, "state": "none", "source": None, "error": None}


def failed(blob: BlobDocument, message: str) -> BlobDocument:
    """The blob with the reason; its source stays, so that it can be tried anew."""
    BLOBS.labels("failed").inc()
    return {**blob, "state": "failed", "error": message}


def hash_of(blob: BlobDocument) -> str | None:
    """The SHA-256 of the blob's bytes in hex, where it is known."""
    return blob["details"]["hash"].removeprefix("sha256:") if blob["details"] is not None else None


def counted(taken: StoredContent, *, read: bool = True) -> None:
    """What came in and what of it was new: their quotient is what deduplication saves."""
    BLOBS.labels("duplicate" if taken.duplicate else "stored").inc()
    BLOB_BYTES.labels("received").inc(taken.size_bytes)
    BLOB_BYTES.labels("duplicate" if taken.duplicate else "stored").inc(taken.size_bytes)
    if not read:
        BLOB_BYTES.labels("unread").inc(taken.size_bytes)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
