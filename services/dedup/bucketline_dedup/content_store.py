"""From a stream of bytes to content under its hash, with flat memory whatever the size.

Up to ``small_bytes`` are collected and put in one request. More goes out in parts while it comes in, into a staging
key; once the hash is known, and only if nobody has that content yet, a server-side copy puts it in its place.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Protocol

from bucketline.blobs.store import BlobStore, ObjectInfo, ObjectMissing
from bucketline.clock import Clock
from bucketline.db.blobs import Blobs, NewContent, blob_key
from bucketline.domain.text_encodings import charset_of
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.observability.metrics import BLOB_BYTES
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_dedup.errors import ChecksumMismatch, SourceNotFound, SourceTooLarge
from bucketline_dedup.hashing import Hashing, sha256_of_checksum
from bucketline_dedup.media_type import HEAD_BYTES, declared_otherwise, media_type
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import ByteStream

STAGING = "staging/dedup"
CHECK_SECONDS = 20.0


class NeedsLargeQueue(BucketlineError):
    """The content is large, and this turn may not carry large content now."""


class ContentBeingDeleted(BucketlineError):
    """The same content is being removed at this very moment; in a few seconds it can be stored anew."""


class LargeTransferSlot(Protocol):
    """Where a transfer finds its place."""

    def large(self) -> AbstractAsyncContextManager[None]:
        """Holds a place for large content; raises :class:`NeedsLargeQueue` where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class PutRequest:
    """What is known of content before it is read. ``mime_type`` and ``filename`` are claims.

    ``staging`` is the prefix of this turn's staging keys.
    """

    staging: str
    mime_type: str | None = None
    filename: str | None = None
    checksum: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class StoredContent:
    """Content that may be referred to now. ``duplicate``: we held it before. ``charset`` was declared with it."""

    sha256: str
    size_bytes: int
    mime_type: str
    filename: str | None
    duplicate: bool
    charset: str | None = None


class ContentStore:
    """Stores content; every method is safe to repeat. Raises what the store and the source raise."""

    def __init__(
        self, store: BlobStore, records: Blobs, settings: DedupSettings, *, clock: Clock, budget: WeightedSemaphore
    ) -> None:
        self._store = store
        self._records = records
        self._settings = settings
        self._clock = clock
        self._budget = budget

    async def stream(self, source: ByteStream, wanted: PutRequest, room: LargeTransferSlot) -> StoredContent:
        """Stores everything that ``source`` yields."""
        small = self._settings.small_bytes
        hashing = Hashing(wanted.checksum)
        chunks = aiter(source)
        head: list[bytes] = []
        size = 0
        try:
            expected = source.content_length
            if expected is None or expected <= small:
                async with self._budget.reserve(small if expected is None else expected):
                    async for chunk in chunks:
                        head.append(chunk)
                        size += len(chunk)
                        await hashing.feed(chunk)
                        if size > small:
                            break
                    else:
                        return await self._small(b"".join(head), source, wanted, hashing)
            async with room.large():
                return await self._large(head, chunks, source, wanted, hashing)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def _small(self, data: bytes, source: ByteStream, wanted: PutRequest, hashing: Hashing) -> StoredContent:
        sha256 = await hashing.finish()
        BLOB_BYTES.labels("hashed").inc(len(data))
        kind, charset = _kind(data[:HEAD_BYTES], source, wanted), _charset(source.content_type, wanted)
        if await self._held(sha256, wanted) is not None:
            return StoredContent(sha256, len(data), kind, _name(source, wanted), duplicate=True, charset=charset)
        written = await self.put(data, sha256, kind, force=wanted.force)
        await self._recorded(NewContent(sha256, len(data), kind, charset))
        return StoredContent(sha256, len(data), kind, _name(source, wanted), duplicate=not written, charset=charset)

    async def _large(
        self, head: list[bytes], chunks: AsyncIterator[bytes], source: ByteStream, wanted: PutRequest, hashing: Hashing
    ) -> StoredContent:
        first = b"".join(head)[:HEAD_BYTES]
        async with self._store.upload(wanted.staging) as upload:
            while head:
                await upload.write(head.pop(0))
            async for chunk in chunks:
                if len(first) < HEAD_BYTES:
                    first += chunk[: HEAD_BYTES - len(first)]
                await hashing.feed(chunk)
                await upload.write(chunk)
            sha256 = await hashing.finish()
            BLOB_BYTES.labels("hashed").inc(upload.size)
            kind, charset = _kind(first, source, wanted), _charset(source.content_type, wanted)
            if await self._held(sha256, wanted) is not None:
                # Left unfinished, the upload is dropped with its parts.
                return StoredContent(sha256, upload.size, kind, _name(source, wanted), duplicate=True, charset=charset)
            written = await upload.finish_to(blob_key(sha256), sha256=sha256, size=upload.size, content_type=kind)
            await self._recorded(NewContent(sha256, upload.size, kind, charset))
            return StoredContent(
                sha256, upload.size, kind, _name(source, wanted), duplicate=not written, charset=charset
            )

    async def verified(self, key: str, head: ObjectInfo, wanted: PutRequest) -> StoredContent | None:
        """Content of ours whose SHA-256 the store itself has verified: taken over without reading it.

        None when the store did not verify it, or when the producer announced a checksum that only reading can verify.
        """
        sha256, announced = head.sha256, sha256_of_checksum(wanted.checksum)
        if sha256 is None or (wanted.checksum is not None and announced is None):
            return None
        if announced is not None and announced != sha256:
            raise ChecksumMismatch(expected=f"sha256:{announced}", actual=f"sha256:{sha256}")
        held, charset = await self._held(sha256, wanted), _charset(head.content_type, wanted)
        if held is not None and not declared_otherwise(held, wanted.mime_type):
            return StoredContent(sha256, head.size, held, wanted.filename, duplicate=True, charset=charset)
        kind = media_type(await self._first(key, head), declared=wanted.mime_type, filename=wanted.filename)
        if held is not None:
            return StoredContent(sha256, head.size, kind, wanted.filename, duplicate=True, charset=charset)
        written = await self._store.copy_if_absent(
            key, blob_key(sha256), size=head.size, content_type=kind, sha256=sha256, source_etag=head.etag
        )
        await self._recorded(NewContent(sha256, head.size, kind, charset))
        return StoredContent(sha256, head.size, kind, wanted.filename, duplicate=not written, charset=charset)

    async def head(self, key: str) -> ObjectInfo:
        """What our store knows of a source in it; the errors are the producer's to read."""
        try:
            head = await self._store.head(key)
        except ObjectMissing as error:
            raise SourceNotFound("the uploaded content is gone", detail=key) from error
        if head.size > self._settings.max_bytes:
            raise SourceTooLarge(self._settings.max_bytes, detail=f"{head.size} bytes")
        return head

    async def put(self, data: bytes, sha256: str, content_type: str, *, force: bool) -> bool:
        """Puts content unless it is there. With ``force`` what is there is looked at, and replaced if it is broken."""
        key = blob_key(sha256)
        written = await self._store.put_if_absent(key, data, sha256=sha256, content_type=content_type)
        if written or not force:
            return written
        found = await self._store.head(key)
        if found.size == len(data) and found.sha256 in (None, sha256):
            return False
        await self._store.delete([key])
        return await self._store.put_if_absent(key, data, sha256=sha256, content_type=content_type)

    async def check_store(self) -> None:
        """Raise ``DependencyUnavailable`` unless the store answers at all."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._store.list(STAGING, limit=1)
        except TimeoutError:
            raise DependencyUnavailable(f"S3 did not answer in {CHECK_SECONDS:g} s") from None

    async def _held(self, sha256: str, wanted: PutRequest) -> str | None:
        """The media type of content that we hold and may refer to; None where it has to be stored."""
        claimed = await self._records.claim([sha256], self._clock.now())
        if sha256 in claimed.leaving:
            raise ContentBeingDeleted("the content is being removed")
        record = claimed.held.get(sha256)
        return record["mime_type"] if record is not None and not wanted.force else None

    async def _recorded(self, content: NewContent) -> None:
        if await self._records.record([content], self._clock.now()):
            raise ContentBeingDeleted("the content is being removed")

    async def _first(self, key: str, head: ObjectInfo) -> bytes:
        if not self._settings.sniff_uploads or not head.size:
            return b""
        last = min(HEAD_BYTES, head.size) - 1
        async with aclosing(self._store.get(key, limit=HEAD_BYTES, range=(0, last))) as chunks:
            return b"".join([chunk async for chunk in chunks])


def _kind(first: bytes, source: ByteStream, wanted: PutRequest) -> str:
    return media_type(first, declared=wanted.mime_type or source.content_type, filename=_name(source, wanted))


def _charset(content_type: str | None, wanted: PutRequest) -> str | None:
    """Return the charset that the producer declared, else the one that the source declares."""
    return charset_of(wanted.mime_type) or charset_of(content_type)


def _name(source: ByteStream, wanted: PutRequest) -> str | None:
    return wanted.filename or source.filename
