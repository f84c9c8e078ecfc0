"""Stores a stream of bytes under its SHA-256, with constant memory whatever the size.

Content up to ``small_bytes`` is collected and stored with one request. Larger content is uploaded in parts to a staging
key while it arrives; once the hash is known, and only if the content does not exist yet, a server-side copy creates the
final object.
"""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import ObjectInfo, ObjectMissing
from bucketline.clock import Clock
from bucketline.db.blobs import Blobs, NewContent, blob_key
from bucketline.domain.text_encodings import charset_of
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.observability.metrics import BLOB_BYTES
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_dedup.errors import ChecksumMismatch, SourceNotFound, SourceTooLarge, SourceUnreadable
from bucketline_dedup.media_type import HEAD_BYTES, declared_otherwise, media_type
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import ByteStream

STAGING = "staging/dedup"
CHECK_TIMEOUT_SECONDS = 20.0
HASH_GROUP_BYTES = 1024 * 1024
"""Bytes that are hashed together in a thread. Fewer than a quarter of that at the end are hashed at once."""

_ALGORITHMS = frozenset(
    {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512", "blake2b", "blake2s"}
)


class NeedsLargeQueue(BucketlineError):
    """The content is large, and this attempt is not for large content."""


class ContentBeingDeleted(BucketlineError):
    """The same content is being deleted at this moment; it can be stored again in a few seconds."""


class LargeTransferSlot:
    """Limits concurrent large transfers: an attempt of the large queue waits for a slot, a small one does not."""

    def __init__(self, slots: asyncio.Semaphore, *, wait: bool) -> None:
        self._slots = slots
        self._wait = wait

    @asynccontextmanager
    async def acquired(self) -> AsyncIterator[None]:
        """Hold a slot; raise :class:`NeedsLargeQueue` if there is none and this attempt does not wait."""
        if self._slots.locked() and not self._wait:
            raise NeedsLargeQueue("large content waits in its queue")
        async with self._slots:
            yield


@dataclass(frozen=True, slots=True)
class PutRequest:
    """What is known of content before it is read. ``mime_type`` and ``filename`` are the producer's claims.

    ``staging_key`` belongs to this attempt alone.
    """

    staging_key: str
    mime_type: str | None = None
    filename: str | None = None
    checksum: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class StoredContent(NewContent):
    """Content as an object refers to it. ``duplicate``: it existed before. ``charset`` was declared with it."""

    filename: str | None = None
    duplicate: bool = False


class ContentStore:
    """Stores content; every method can be repeated. Raises the errors of the store and of the source."""

    def __init__(
        self, store: S3BlobStore, records: Blobs, settings: DedupSettings, *, clock: Clock, budget: WeightedSemaphore
    ) -> None:
        self._store = store
        self._records = records
        self._settings = settings
        self._clock = clock
        self._budget = budget

    async def store_stream(self, source: ByteStream, request: PutRequest, slot: LargeTransferSlot) -> StoredContent:
        """Store everything that ``source`` yields."""
        limit = self._settings.small_bytes
        hasher = StreamHasher(request.checksum)
        chunks = aiter(source)
        buffered: list[bytes] = []
        size = 0
        try:
            expected = source.content_length
            if expected is None or expected <= limit:
                async with self._budget.reserve(limit if expected is None else expected):
                    async for chunk in chunks:
                        buffered.append(chunk)
                        size += len(chunk)
                        await hasher.feed(chunk)
                        if size > limit:
                            break
                    else:
                        return await self._store_small(b"".join(buffered), source, request, hasher)
            async with slot.acquired():
                return await self._store_large(buffered, chunks, source, request, hasher)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def _store_small(
        self, data: bytes, source: ByteStream, request: PutRequest, hasher: "StreamHasher"
    ) -> StoredContent:
        sha256 = await hasher.finish()
        BLOB_BYTES.labels("hashed").inc(len(data))
        content = _describe(sha256, len(data), data[:HEAD_BYTES], source, request)
        return await self._write_if_new(
            content, request, lambda: self.put(data, sha256, content.mime_type, force=request.force)
        )

    async def _store_large(
        self,
        buffered: list[bytes],
        chunks: AsyncIterator[bytes],
        source: ByteStream,
        request: PutRequest,
        hasher: "StreamHasher",
    ) -> StoredContent:
        head = b"".join(buffered)[:HEAD_BYTES]
        async with self._store.upload(request.staging_key) as upload:
            while buffered:
                await upload.write(buffered.pop(0))
            async for chunk in chunks:
                if len(head) < HEAD_BYTES:
                    head += chunk[: HEAD_BYTES - len(head)]
                await hasher.feed(chunk)
                await upload.write(chunk)
            sha256, size = await hasher.finish(), upload.size
            BLOB_BYTES.labels("hashed").inc(size)
            content = _describe(sha256, size, head, source, request)
            # An upload of existing content is left unfinished, which discards its parts.
            return await self._write_if_new(
                content,
                request,
                lambda: upload.finish_to(blob_key(sha256), sha256=sha256, size=size, content_type=content.mime_type),
            )

    async def _write_if_new(
        self, content: StoredContent, request: PutRequest, write: Callable[[], Awaitable[bool]]
    ) -> StoredContent:
        """Write and record content that is not stored yet; ``write`` returns False if it turns out to be stored."""
        if await self.find(content.sha256) is not None and not request.force:
            return replace(content, duplicate=True)
        written = await write()
        await self._record(content)
        return replace(content, duplicate=not written)

    async def adopt_verified(self, key: str, info: ObjectInfo, request: PutRequest) -> StoredContent | None:
        """Take over an object of ours whose SHA-256 the store has verified, without reading it.

        Return None if the store did not verify it, or if the producer announced a checksum that only reading can
        verify.
        """
        sha256, announced = info.sha256, sha256_of_checksum(request.checksum)
        if sha256 is None or (request.checksum is not None and announced is None):
            return None
        if announced is not None and announced != sha256:
            raise ChecksumMismatch(expected=f"sha256:{announced}", actual=f"sha256:{sha256}")
        charset = _charset(info.content_type, request)
        existing = await self.find(sha256, filename=request.filename)
        if existing is not None and not request.force and not declared_otherwise(existing.mime_type, request.mime_type):
            return replace(existing, size_bytes=info.size, charset=charset)
        head = await self._read_head(key, info)
        mime_type = media_type(head, declared=request.mime_type, filename=request.filename)
        content = StoredContent(sha256, info.size, mime_type, charset, request.filename, duplicate=True)
        if existing is not None and not request.force:
            return content
        written = await self._store.copy_if_absent(
            key, blob_key(sha256), size=info.size, content_type=mime_type, sha256=sha256, source_etag=info.etag
        )
        await self._record(content)
        return replace(content, duplicate=not written)

    async def find(self, sha256: str, *, filename: str | None = None) -> StoredContent | None:
        """Return existing content that may be referred to; None if it has to be stored."""
        claimed = await self._records.claim([sha256], self._clock.now())
        if sha256 in claimed.leaving:
            raise ContentBeingDeleted("the content is being deleted")
        row = claimed.held.get(sha256)
        if row is None:
            return None
        return StoredContent(sha256, row["size_bytes"], row["mime_type"], row.get("charset"), filename, duplicate=True)

    async def head(self, key: str) -> ObjectInfo:
        """Describe a source in our own store."""
        try:
            info = await self._store.head(key)
        except ObjectMissing as error:
            raise SourceNotFound("the uploaded content is gone", detail=key) from error
        if info.size > self._settings.max_bytes:
            raise SourceTooLarge(self._settings.max_bytes, detail=f"{info.size} bytes")
        return info

    async def put(self, data: bytes, sha256: str, content_type: str, *, force: bool) -> bool:
        """Store content unless it exists. With ``force`` an existing object is checked, and replaced if broken."""
        key = blob_key(sha256)
        written = await self._store.put_if_absent(key, data, sha256=sha256, content_type=content_type)
        if written or not force:
            return written
        existing = await self._store.head(key)
        if existing.size == len(data) and existing.sha256 in (None, sha256):
            return False
        await self._store.delete([key])
        return await self._store.put_if_absent(key, data, sha256=sha256, content_type=content_type)

    async def check_store(self) -> None:
        """Raise ``DependencyUnavailable`` unless the store answers."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await self._store.list(STAGING, limit=1)
        except TimeoutError:
            raise DependencyUnavailable(f"S3 did not answer in {CHECK_TIMEOUT_SECONDS:g} s") from None

    async def _record(self, content: NewContent) -> None:
        if await self._records.record([content], self._clock.now()):
            raise ContentBeingDeleted("the content is being deleted")

    async def _read_head(self, key: str, info: ObjectInfo) -> bytes:
        if not self._settings.sniff_uploads or not info.size:
            return b""
        last = min(HEAD_BYTES, info.size) - 1
        async with aclosing(self._store.get(key, limit=HEAD_BYTES, range=(0, last))) as chunks:
            return b"".join([chunk async for chunk in chunks])


def _describe(sha256: str, size: int, head: bytes, source: ByteStream, request: PutRequest) -> StoredContent:
    filename = request.filename or source.filename
    mime_type = media_type(head, declared=request.mime_type or source.content_type, filename=filename)
    return StoredContent(sha256, size, mime_type, _charset(source.content_type, request), filename)


def _charset(content_type: str | None, request: PutRequest) -> str | None:
    """Return the charset that the producer declared, else the one that the source declares."""
    return charset_of(request.mime_type) or charset_of(content_type)


class _Digest(Protocol):
    """A digest of hashlib, or one of our own."""

    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class StreamHasher:
    """Computes the SHA-256 of one stream, and verifies an announced ``checksum`` (``algorithm:hex``).

    Hashing runs in a thread while the next bytes arrive; at most two groups of bytes wait for it. Raises
    :class:`~bucketline_dedup.errors.SourceUnreadable` at once if the algorithm is not supported.
    """

    def __init__(self, checksum: str | None = None) -> None:
        self._checksum = checksum
        self._sha256: _Digest = hashlib.sha256()
        self._other = _other_digest(checksum)
        self._waiting: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None

    async def feed(self, chunk: bytes) -> None:
        """Add the next bytes; waits only if the previous group is still being hashed."""
        self._waiting.append(chunk)
        self._size += len(chunk)
        if self._size >= HASH_GROUP_BYTES:
            if self._task is not None:
                await self._task
            self._task = asyncio.create_task(asyncio.to_thread(self._update, self._waiting))
            self._waiting, self._size = [], 0

    async def finish(self) -> str:
        """Return the SHA-256 in hex; raise ``ChecksumMismatch`` if the bytes are not those announced."""
        if self._task is not None:
            await self._task
        if self._size > HASH_GROUP_BYTES // 4:
            await asyncio.to_thread(self._update, self._waiting)
        else:
            self._update(self._waiting)
        return self._verify()

    def hash_all(self, data: bytes) -> str:
        """Do the same for complete content, in the calling thread."""
        self._update([data])
        return self._verify()

    def _verify(self) -> str:
        sha256 = self._sha256.hexdigest()
        if self._checksum is not None:
            algorithm, _, expected = self._checksum.partition(":")
            actual = sha256 if self._other is None else self._other.hexdigest()
            if actual != expected:
                raise ChecksumMismatch(expected=self._checksum, actual=f"{algorithm}:{actual}")
        return sha256

    def _update(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._sha256.update(chunk)
            if self._other is not None:
                self._other.update(chunk)


def sha256_of_checksum(checksum: str | None) -> str | None:
    """Return the hex digits of an announced SHA-256; None if there is none or it is of another algorithm."""
    return checksum.removeprefix("sha256:") if checksum is not None and checksum.startswith("sha256:") else None


def _other_digest(checksum: str | None) -> _Digest | None:
    algorithm = (checksum or "sha256").partition(":")[0]
    if algorithm == "sha256":
        return None
    if algorithm == "crc32":
        return _Crc32()
    if algorithm not in _ALGORITHMS:
        raise SourceUnreadable(f"checksums by {algorithm!r} cannot be verified")
    return hashlib.new(algorithm.replace("-", "_"), usedforsecurity=False)
