"""Streaming uploads and large copies: what is made of many parts, and how nothing of it is left behind.

Written against the few calls of S3 that they need, :class:`Calls`, so that the driver stays in one module.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from bucketline.blobs.s3_errors import Backoff, KeyTaken, WriteConflict
from bucketline.blobs.store import ChecksumRefused, ContentTooLarge, ObjectInfo, ObjectMissing, OpenUpload
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import BLOB_BYTES

MAX_PARTS = 10_000
PARTS_IN_FLIGHT = 3
"""Of one upload or copy. Each is a part in memory; whether more are faster depends on the store."""
CLEANUP_SECONDS = 30.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has. ``sha256`` (hex) where we know it."""

    number: int
    etag: str
    sha256: str | None = None


class Calls(Protocol):
    """Single calls of S3 on our bucket, with bounded retries and our errors."""

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool: ...
    async def put_part(self, key: str, upload_id: str, number: int, data: bytes, *, sha256: str) -> str: ...
    async def head(self, key: str) -> ObjectInfo: ...
    async def delete_one(self, key: str) -> None: ...
    async def copy_object(self, source_key: str, key: str, *, source_etag: str, content_type: str) -> None: ...
    async def start_multipart(self, key: str, *, content_type: str, checksums: bool) -> str: ...
    async def copy_part(
        self, source_key: str, key: str, upload_id: str, number: int, *, first: int, last: int, source_etag: str
    ) -> str: ...
    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part], *, if_absent: bool) -> None: ...
    async def abort_multipart(self, key: str, upload_id: str) -> None: ...
    async def list_multipart(self, prefix: str, *, limit: int = 1000) -> Sequence[OpenUpload]: ...


class StreamedUpload:
    """Implements :class:`~bucketline.blobs.store.MultipartUpload`."""

    def __init__(self, calls: Calls, copier: "ServerSideCopy", staging_key: str, part_size: int) -> None:
        self._calls = calls
        self._copier = copier
        self._key = staging_key
        self._part_size = part_size
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._size = 0
        self._upload_id: str | None = None
        self._staged = False
        self._parts: list[Part] = []
        self._flying: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PARTS_IN_FLIGHT)
        self._failure: BaseException | None = None
        self._sent = 0

    @property
    def size(self) -> int:
        return self._size

    async def write(self, chunk: bytes) -> None:
        self._raise_failure()
        self._size += len(chunk)
        start = 0
        # A part leaves only when more follows, so that content of exactly one part is still a single PUT.
        while self._buffered + len(chunk) - start > self._part_size:
            end = start + self._part_size - self._buffered
            self._chunks.append(chunk[start:end])
            self._buffered = self._part_size
            start = end
            await self._send_buffer()
        if start < len(chunk):
            self._chunks.append(chunk[start:] if start else chunk)
            self._buffered += len(chunk) - start

    async def finish_to(self, final_key: str, *, sha256: str, size: int, content_type: str) -> bool:
        if size != self._size:
            raise ChecksumRefused(f"{self._size} bytes were written where {size} were announced")
        if self._upload_id is None:
            data = b"".join(self._chunks)
            return await self._calls.put_if_absent(final_key, data, sha256=sha256, content_type=content_type)
        await self._send_buffer()
        await asyncio.gather(*self._flying)
        self._raise_failure()
        if await self._copier.has(final_key, size):
            return False
        etag = await self._stage(self._upload_id)
        return await self._copier.copy(
            self._key, final_key, size=size, content_type=content_type, sha256=sha256, source_etag=etag
        )

    async def clean_up(self) -> None:
        """Aborts what is open and deletes what is staged; logs what it could not, for a sweeper finds it."""
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
        if self._upload_id is None:
            return
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                if self._staged:
                    await self._calls.delete_one(self._key)
                    return
                # By listing and not by id: an id may have been lost with a reply.
                for upload in await self._calls.list_multipart(self._key):
                    if upload.key == self._key:
                        await self._calls.abort_multipart(upload.key, upload.upload_id)
                await self._calls.delete_one(self._key)
        except (BucketlineError, TimeoutError):
            _log.warning("an upload could not be cleaned up", key=self._key, exc_info=True)

    async def _stage(self, upload_id: str) -> str:
        """Completes the upload at the staging key; returns the ETag of what is there."""
        try:
            parts = sorted(self._parts, key=lambda part: part.number)
            await self._calls.complete_multipart(self._key, upload_id, parts, if_absent=False)
        except (ObjectMissing, DependencyUnavailable) as error:
            # The reply may have been lost, and a repeated request finds no upload any more.
            if not await self._copier.has(self._key, self._size):
                raise DependencyUnavailable("S3 did not complete an upload") from error
        self._staged = True
        return (await self._calls.head(self._key)).etag

    async def _send_buffer(self) -> None:
        if self._sent >= MAX_PARTS:
            raise ContentTooLarge(MAX_PARTS * self._part_size)
        if self._upload_id is None:
            self._upload_id = ""  # from here on there may be an upload to clean up, even if the reply never comes
            self._upload_id = await self._calls.start_multipart(
                self._key, content_type="application/octet-stream", checksums=True
            )
        await self._slots.acquire()
        self._sent += 1
        data = b"".join(self._chunks)
        self._chunks, self._buffered = [], 0
        task = asyncio.create_task(self._send(self._upload_id, self._sent, data))
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)

    async def _send(self, upload_id: str, number: int, data: bytes) -> None:
        try:
            if self._failure is None:
                sha256 = await asyncio.to_thread(sha256_of, data)
                etag = await self._calls.put_part(self._key, upload_id, number, data, sha256=sha256)
                self._parts.append(Part(number, etag, sha256))
                BLOB_BYTES.labels("streamed").inc(len(data))
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._slots.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


@asynccontextmanager
async def streamed_upload(make: Callable[[], StreamedUpload]) -> AsyncIterator[StreamedUpload]:
    """An upload that cleans up after itself however its block is left."""
    upload = make()
    try:
        yield upload
    finally:
        await upload.clean_up()


class ServerSideCopy:
    """Server-side copies within the bucket, conditional on an empty key.

    Up to ``at_once`` bytes with one CopyObject, which S3 answers when it is done; larger ones in parts, so that no
    single call takes longer than a client waits.
    """

    def __init__(self, calls: Calls, backoff: Backoff, *, at_once: int, part_size: int) -> None:
        self._calls = calls
        self._backoff = backoff
        self._at_once = at_once
        self._part_size = part_size

    async def has(self, key: str, size: int) -> bool:
        """Whether there is something of this size at ``key``."""
        try:
            return (await self._calls.head(key)).size == size
        except ObjectMissing:
            return False

    async def copy(
        self, source_key: str, key: str, *, size: int, content_type: str, sha256: str | None, source_etag: str | None
    ) -> bool:
        """As :meth:`bucketline.blobs.store.BlobStore.copy_if_absent` says."""
        source = await self._calls.head(source_key)
        if source.size != size or (source_etag is not None and source.etag != source_etag):
            raise ChecksumRefused("the source of the copy is not what it was")
        if sha256 is not None and source.sha256 not in (None, sha256):
            raise ChecksumRefused("the source of the copy has another checksum")
        async for _ in self._backoff.tries():
            # Looked at first each time: a lost reply of the try before, and stores that ignore the condition on a copy.
            if await self.has(key, size):
                return False
            try:
                if size <= self._at_once:
                    await self._calls.copy_object(source_key, key, source_etag=source.etag, content_type=content_type)
                else:
                    await self._copy_in_parts(source_key, key, source, content_type)
            except KeyTaken:
                if await self.has(key, size):
                    return False
                raise ChecksumRefused("the source of the copy changed") from None
            except WriteConflict:
                continue
            await self._verify(key, size, sha256)
            return True
        raise DependencyUnavailable("S3 did not confirm the copy")

    async def _verify(self, key: str, size: int, sha256: str | None) -> None:
        written = await self._calls.head(key)
        if written.size == size and (sha256 is None or written.sha256 in (None, sha256)):
            return
        await self._calls.delete_one(key)
        raise ChecksumRefused("the copy has another checksum than its content was announced with")

    async def _copy_in_parts(self, source_key: str, key: str, source: ObjectInfo, content_type: str) -> None:
        upload_id = await self._calls.start_multipart(key, content_type=content_type, checksums=False)
        slots = asyncio.Semaphore(PARTS_IN_FLIGHT)
        step = max(self._part_size, -(-source.size // MAX_PARTS))

        async def part(number: int, first: int) -> Part:
            async with slots:
                last = min(first + step, source.size) - 1
                etag = await self._calls.copy_part(
                    source_key, key, upload_id, number, first=first, last=last, source_etag=source.etag
                )
                return Part(number, etag)

        completed = False
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(part(number, first))
                    for number, first in enumerate(range(0, source.size, step), start=1)
                ]
            parts = [task.result() for task in tasks]
            await self._calls.complete_multipart(key, upload_id, parts, if_absent=True)
            completed = True
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        except ObjectMissing as error:
            if not await self.has(key, source.size):
                raise DependencyUnavailable("S3 did not complete a copy") from error
            completed = True
        finally:
            if not completed:
                await self._abort(key, upload_id)

    async def _abort(self, key: str, upload_id: str) -> None:
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self._calls.abort_multipart(key, upload_id)
        except (BucketlineError, TimeoutError):
            _log.warning("a copy could not be aborted", key=key, exc_info=True)


def sha256_of(data: bytes) -> str:
    """The hash in hex; releases the interpreter lock, so it may run in a thread."""
    return hashlib.sha256(data).hexdigest()
