"""Mirrors one blob of one object: chooses how its bytes are read, and describes the result on the object."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from bucketline.blobs.store import BlobStore
from bucketline.clock import Clock
from bucketline.db.blobs import Blobs, blob_key
from bucketline.db.mirror_queue import MirrorQueue
from bucketline.db.objects import BlobDocument, Details, ObjectDocument
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
from bucketline.http.ssrf import AddressRefused
from bucketline.observability.metrics import BLOB_BYTES, BLOBS
from bucketline_dedup.content_store import (
    STAGING,
    ContentBeingDeleted,
    ContentStore,
    LargeTransferSlot,
    PutRequest,
    StoredContent,
    sha256_of_checksum,
)
from bucketline_dedup.errors import ChecksumMismatch, SourceNotFound, SourceUnavailable
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import SourceOpener

EXTERNAL_KINDS = frozenset({"url", "s3", "file"})
"""Kinds of sources that stay where they are unless they are copied; we hold the content of all others."""

LOCAL_KINDS = frozenset({"text", "json", "data_uri", "base64", "properties"})
"""Kinds of sources whose content is in the object itself."""

CONTENT_URL_ATTEMPTS = 3
"""Attempts before a URL of our own content is refused: an object has its URL before its content is mirrored."""

_CONTENT_KEY = re.compile(r"blobs/sha256/([0-9a-f]{2})/([0-9a-f]{2})/(\1\2[0-9a-f]{60})")


def is_link_only(blob: BlobDocument) -> bool:
    """Return whether this blob is not copied: ``canonicalize_source`` is off, and the source is external."""
    return not blob["canonicalize"] and (blob["source"] or {}).get("kind") in EXTERNAL_KINDS


def needs_fetching(obj: ObjectDocument) -> bool:
    """Return whether a pending blob of the object is not in the object itself and has to be copied."""
    return any(
        blob["state"] == "pending" and (blob["source"] or {}).get("kind") not in LOCAL_KINDS and not is_link_only(blob)
        for blob in obj["blobs"]
    )


class BlobMirror:
    """Copies the bytes of one blob into the store."""

    def __init__(
        self,
        store: BlobStore,
        contents: ContentStore,
        opener: SourceOpener,
        queue: MirrorQueue,
        records: Blobs,
        settings: DedupSettings,
        *,
        clock: Clock,
    ) -> None:
        self._store = store
        self._contents = contents
        self._opener = opener
        self._queue = queue
        self._records = records
        self._settings = settings
        self._clock = clock

    async def mirror(
        self, obj: ObjectDocument, blob: BlobDocument, token: str, slot: LargeTransferSlot
    ) -> BlobDocument:
        """Return the blob as it is afterwards: stored, linked, or without bytes.

        Raises the errors of :mod:`bucketline_dedup.errors`, ``DependencyUnavailable``, ``ContentBeingDeleted`` and
        ``NeedsLargeQueue``. Staging keys contain the claim ``token``, so that it is known whose they were.
        """
        document = blob["source"] or {}
        source = from_document(document)
        if isinstance(source, PropertiesSource):
            return blob_without_bytes(blob)
        if is_link_only(blob):
            return linked_blob(blob)
        request = PutRequest(
            staging_key=f"{STAGING}/{obj['_id']}/{token}/{blob['blob_id']}",
            mime_type=_text(document.get("mime_type")),
            filename=safe_filename(_text(document.get("filename"))),
            checksum=blob["checksum"],
            force=blob["force"],
        )
        existing = await self._find_existing(obj, source, request)
        if existing is not None:
            BLOBS.labels("skipped").inc()
            return stored_blob(blob, existing, self._store)
        key = self._own_key(source, document)
        if key is not None:
            content = await self._contents.adopt_verified(key, await self._contents.head(key), request)
            if content is not None:
                count_content(content, read=False)
                return stored_blob(blob, content, self._store)
            source = StagedSource(key)
        async with self._opener.open(source, max_bytes=self._settings.max_bytes) as stream:
            content = await self._contents.store_stream(stream, request, slot)
        count_content(content)
        return stored_blob(blob, content, self._store)

    async def _find_existing(self, obj: ObjectDocument, source: Source, request: PutRequest) -> StoredContent | None:
        """Return content that need not be read: it is named by its hash, and the producer can already read it.

        Knowing a hash does not prove access to the content, so a hash counts only where the producer can read the
        content anyway: in the same bucket (``skip_duplicates``) or namespace (a URL of our content).
        """
        announced = sha256_of_checksum(request.checksum)
        if isinstance(source, S3Source) and (own := _CONTENT_KEY.fullmatch(self._store.key_of(source.url) or "")):
            sha256 = own[3]
            if not await self._queue.has_content(sha256, namespace_id=obj["namespace_id"]):
                if obj["mirror"]["attempts"] < CONTENT_URL_ATTEMPTS:
                    raise SourceUnavailable("the source is not stored yet", detail=sha256)
                raise AddressRefused(detail=f"no object of the namespace has {sha256}")
            if announced not in (None, sha256):
                raise ChecksumMismatch(expected=f"sha256:{announced}", actual=f"sha256:{sha256}")
            content = await self._claim_existing(sha256, request.filename)
            if content is None:
                raise SourceNotFound(detail=sha256)
            return content
        if not obj["skip_duplicates"] or request.force or announced is None:
            return None
        if not await self._queue.has_content(announced, bucket_id=obj["bucket_id"]):
            return None
        path = urlsplit(source.url).path if isinstance(source, UrlSource | S3Source) else None
        return await self._claim_existing(announced, request.filename or safe_filename(path))

    async def _claim_existing(self, sha256: str, filename: str | None) -> StoredContent | None:
        claimed = await self._records.claim([sha256], self._clock.now())
        if sha256 in claimed.leaving:
            raise ContentBeingDeleted("the content is being deleted")
        record = claimed.held.get(sha256)
        if record is None:
            return None
        return StoredContent(
            sha256, record["size_bytes"], record["mime_type"], filename, duplicate=True, charset=record.get("charset")
        )

    def _own_key(self, source: Source, document: Mapping[str, object]) -> str | None:
        """Return the key of a source in our own bucket; None for every other source."""
        if isinstance(source, StagedSource):
            return source.key
        if isinstance(source, UploadSource):
            return _text(document.get("key"))
        if not isinstance(source, S3Source) or (key := self._store.key_of(source.url)) is None:
            return None
        if not key.startswith(self._settings.allowed_key_prefixes):
            raise AddressRefused(detail=f"{key} is not below an allowed prefix of our bucket")
        return key


def stored_blob(blob: BlobDocument, content: StoredContent, store: BlobStore) -> BlobDocument:
    """Return the blob with its content; its source is dropped."""
    details: Details = {
        "filename": content.filename,
        "size_bytes": content.size_bytes,
        "mime_type": content.mime_type,
        "hash": f"sha256:{content.sha256}",
    }
    if content.charset is not None:
        details["charset"] = content.charset
    key = blob_key(content.sha256)
    return {
        **blob,
        "state": "stored",
        "source": None,
        "error": None,
        "details": details,
        "storage": {"url": store.url_of(key), "key": key, "duplicate": content.duplicate},
    }


def linked_blob(blob: BlobDocument) -> BlobDocument:
    """Return the blob with its source left where it is, unread."""
    BLOBS.labels("linked").inc()
    return {**blob, "state": "linked", "error": None}


def blob_without_bytes(blob: BlobDocument) -> BlobDocument:
    """Return a blob that has only properties."""
    return {**blob, "state": "none", "source": None, "error": None}


def failed_blob(blob: BlobDocument, message: str) -> BlobDocument:
    """Return the blob with the reason; its source stays, so that it can be retried."""
    BLOBS.labels("failed").inc()
    return {**blob, "state": "failed", "error": message}


def count_content(content: StoredContent, *, read: bool = True) -> None:
    """Count received and new bytes; their ratio is what deduplication saves."""
    BLOBS.labels("duplicate" if content.duplicate else "stored").inc()
    BLOB_BYTES.labels("received").inc(content.size_bytes)
    BLOB_BYTES.labels("duplicate" if content.duplicate else "stored").inc(content.size_bytes)
    if not read:
        BLOB_BYTES.labels("unread").inc(content.size_bytes)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
