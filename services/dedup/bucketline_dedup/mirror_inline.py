"""The fast lane: objects whose content came with them, many at a time.

One read tells what we hold already; only new content is put, each hash once; then one write a collection and one
publish for the whole micro-batch.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bucketline.db.blobs import Blobs, NewContent
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.blob_sources import InlineSource, declared_type, from_document
from bucketline.domain.media_types import safe_filename
from bucketline.domain.text_encodings import charset_of
from bucketline.errors import BucketlineError
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import BLOB_BYTES
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import ContentStore, StoredContent
from bucketline_dedup.errors import SourceError
from bucketline_dedup.hashing import Hashing
from bucketline_dedup.media_type import HEAD_BYTES, media_type
from bucketline_dedup.mirror_blob import counted, failed, linked, stays_outside, stored, without_bytes
from bucketline_dedup.outcomes import with_outcome
from bucketline_dedup.settings import DedupSettings

log = get_logger(__name__)

INLINE_KINDS = frozenset({"text", "json", "data_uri", "base64"})
THREAD_BYTES = 256 * 1024
PUT_SECONDS = 20.0
"""How long a micro-batch waits for one write. An object whose content takes longer gets a turn of its own."""


@dataclass(frozen=True, slots=True)
class _Content:
    """Inline content, read once."""

    data: bytes
    sha256: str
    mime_type: str
    filename: str | None
    charset: str | None


def is_inline(obj: ObjectDocument) -> bool:
    """Whether nothing has to be fetched for this object."""
    return all(
        blob["state"] != "pending"
        or (blob["source"] or {}).get("kind") in (INLINE_KINDS | {"properties"})
        or stays_outside(blob)
        for blob in obj["blobs"]
    )


class InlineMirror:
    """Mirrors inline objects; safe to repeat."""

    def __init__(self, runtime: ServiceContext, storing: ContentStore, records: Blobs, settings: DedupSettings) -> None:
        self._runtime = runtime
        self._storing = storing
        self._records = records
        self._slots = asyncio.Semaphore(settings.max_concurrency)

    async def mirror(self, objects: Sequence[ObjectDocument]) -> tuple[list[ObjectDocument], list[ObjectDocument]]:
        """The objects as they are afterwards, not yet written; and those whose content could not be stored now.

        Raises ``StoreUnavailable`` when MongoDB or S3 as a whole does not answer. A key that S3 cannot write delays
        only the objects with that content.
        """
        contents = await self._read(objects)
        by_hash = {content.sha256: content for content in contents.values() if isinstance(content, _Content)}
        forced = {
            content.sha256
            for obj in objects
            for blob in obj["blobs"]
            if blob["force"] and isinstance(content := contents.get(blob["blob_id"]), _Content)
        }
        claimed = await self._records.claim(by_hash.keys(), self._runtime.clock.now())
        new = [c for sha256, c in by_hash.items() if sha256 not in claimed.leaving]
        new = [c for c in new if c.sha256 not in claimed.held or c.sha256 in forced]
        written = await asyncio.gather(*(self._put(content, content.sha256 in forced) for content in new))
        put = {c.sha256: ours for c, ours in zip(new, written, strict=True) if ours is not None}
        if new and not put:
            await self._storing.check_store()
        rows = [NewContent(c.sha256, len(c.data), c.mime_type, c.charset) for c in new if c.sha256 in put]
        leaving = await self._records.record(rows, self._runtime.clock.now()) if rows else frozenset()
        usable = (claimed.held.keys() | put.keys()) - leaving
        fresh = {sha256 for sha256, ours in put.items() if ours}
        done, blocked = [], []
        for obj in objects:
            blobs = [self._blob(blob, contents.get(blob["blob_id"]), usable, fresh) for blob in obj["blobs"]]
            ready = [blob for blob in blobs if blob is not None]
            if len(ready) == len(blobs):
                done.append(with_outcome(obj, ready, self._runtime.clock.now()))
            else:
                blocked.append(obj)
        return done, blocked

    def _blob(
        self, blob: BlobDocument, content: _Content | SourceError | None, usable: set[str], fresh: set[str]
    ) -> BlobDocument | None:
        """The blob afterwards; None if its content could not be stored."""
        if blob["state"] != "pending":
            return blob
        if isinstance(content, SourceError):
            return failed(blob, content.message)
        if content is None:
            return linked(blob) if stays_outside(blob) else without_bytes(blob)
        if content.sha256 not in usable:
            return None
        # of several equal blobs in one micro-batch, the first is the one that brought the content
        duplicate = content.sha256 not in fresh
        fresh.discard(content.sha256)
        size, kind = len(content.data), content.mime_type
        taken = StoredContent(content.sha256, size, kind, content.filename, duplicate, content.charset)
        counted(taken)
        return stored(blob, taken, self._runtime.blobs)

    async def _put(self, content: _Content, force: bool) -> bool | None:
        """Whether the content is ours; None if it could not be put, for whatever reason."""
        async with self._slots:
            try:
                async with asyncio.timeout(PUT_SECONDS):
                    return await self._storing.put(content.data, content.sha256, content.mime_type, force=force)
            except BucketlineError as error:
                log.warning("content not stored", sha256=content.sha256, error=error.message)
            except TimeoutError:
                log.warning("content not stored", sha256=content.sha256, error=f"no answer in {PUT_SECONDS:g} s")
            return None

    async def _read(self, objects: Sequence[ObjectDocument]) -> dict[str, _Content | SourceError]:
        """Content by blob id, hashed; in a thread where it is much."""
        blobs = [blob for obj in objects for blob in obj["blobs"] if _carries(blob)]
        size = sum(_weight(blob) for blob in blobs)
        if size < THREAD_BYTES:
            return dict(_contents(blobs))
        return await asyncio.to_thread(lambda: dict(_contents(blobs)))


def _carries(blob: BlobDocument) -> bool:
    return blob["state"] == "pending" and (blob["source"] or {}).get("kind") in INLINE_KINDS


def _weight(blob: BlobDocument) -> int:
    source = blob["source"] or {}
    return sum(len(value) for value in source.values() if isinstance(value, str))


def _contents(blobs: Sequence[BlobDocument]) -> Iterator[tuple[str, _Content | SourceError]]:
    for blob in blobs:
        source = from_document(blob["source"] or {})
        if not isinstance(source, InlineSource):
            continue
        try:
            yield blob["blob_id"], _content(source, blob["checksum"])
        except SourceError as error:
            yield blob["blob_id"], error


def _content(source: InlineSource, checksum: str | None) -> _Content:
    data = source.content()
    BLOB_BYTES.labels("hashed").inc(len(data))
    sha256 = hashlib.sha256(data).hexdigest() if checksum is None else Hashing(checksum).whole(data)
    filename = safe_filename(getattr(source, "filename", None))
    declared = declared_type(source)
    kind = media_type(data[:HEAD_BYTES], declared=declared, filename=filename)
    return _Content(data, sha256, kind, filename, charset_of(declared))
