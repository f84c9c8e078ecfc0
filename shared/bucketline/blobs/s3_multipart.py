"""Streaming uploads and server-side copies, which may consist of many parts, and their cleanup."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenacity.wait import wait_base

from bucketline.blobs.s3_errors import ConditionFailed, WriteConflict, retrying, s3_request
from bucketline.blobs.store import ChecksumRefused, ContentTooLarge, ObjectInfo, ObjectMissing
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import BLOB_BYTES

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

    from bucketline.blobs.s3 import S3BlobStore

MAX_PARTS = 10_000
PARTS_IN_FLIGHT = 3
"""Concurrent parts of one upload or copy. Each part of an upload is in memory."""
CLEANUP_SECONDS = 30.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has accepted. ``sha256`` (hex) is set where we know it."""

    number: int
    etag: str
    sha256: str | None = None


class StreamedUpload:
    """Content of unknown length on its way to the store; created by :meth:`S3BlobStore.upload`.

    Left without :meth:`finish_to` (an error, a cancellation) it is aborted: neither parts nor a staging object remain,
    unless the store was unreachable; a reconciler then finds them with :meth:`S3BlobStore.list_multipart` and
    :meth:`S3BlobStore.list`.
    """

    def __init__(self, transfers: "S3Transfers", staging_key: str, part_size: int) -> None:
        self._transfers = transfers
        self._store = transfers.store
        self._key = staging_key
        self._part_size = part_size
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._size = 0
        self._upload_id: str | None = None
        self._parts: list[Part] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PARTS_IN_FLIGHT)
        self._failure: BaseException | None = None
        self._sent = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    async def write(self, chunk: bytes) -> None:
        """Append the next bytes; not safe for concurrent callers.

        Waits while the allowed number of parts is in flight, so memory stays at (parts in flight + 1) parts whatever
        the size. Raises the error of an earlier part.
        """
        self._raise_failure()
        self._size += len(chunk)
        start = 0
        # A part is sent only when more follows, so that content of exactly one part is still a single PUT.
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
        """Store the content at ``final_key`` unless the key exists; return whether this call stored it.

        ``sha256`` is the caller's hash of everything written. The store has verified each part with a checksum of its
        own, and ``size`` must agree with what was written, otherwise :class:`ChecksumRefused`. The staging object is
        deleted in any case. Content of at most one part never becomes a multipart upload.
        """
        if size != self._size:
            raise ChecksumRefused(f"{self._size} bytes were written where {size} were announced")
        if self._upload_id is None:
            data = b"".join(self._chunks)
            return await self._store.put_if_absent(final_key, data, sha256=sha256, content_type=content_type)
        await self._send_buffer()
        await asyncio.gather(*self._tasks)
        self._raise_failure()
        if await self._transfers.has(final_key, size):
            return False
        etag = await self._complete(self._upload_id)
        return await self._transfers.copy(
            self._key, final_key, size=size, content_type=content_type, sha256=sha256, source_etag=etag
        )

    async def clean_up(self) -> None:
        """Abort the open upload and delete the staging object; log what remains for the reconciler."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._upload_id is None:
            return
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                # By listing and not by id: the response with the id may have been lost.
                for upload in await self._store.list_multipart(self._key):
                    if upload.key == self._key:
                        await self._store.abort_multipart(upload.key, upload.upload_id)
                await self._store.delete([self._key])
        except (BucketlineError, TimeoutError):
            _log.warning("upload not cleaned up", key=self._key, exc_info=True)

    async def _complete(self, upload_id: str) -> str:
        """Complete the upload at the staging key; return the ETag of the object there."""
        try:
            parts = sorted(self._parts, key=lambda part: part.number)
            await self._transfers.complete_upload(self._key, upload_id, parts)
        except (ObjectMissing, DependencyUnavailable) as error:
            # The response may have been lost, and a repeated request does not find the upload.
            if not await self._transfers.has(self._key, self._size):
                raise DependencyUnavailable("S3 did not complete an upload") from error
        return (await self._store.head(self._key)).etag

    async def _send_buffer(self) -> None:
        if self._sent >= MAX_PARTS:
            raise ContentTooLarge(MAX_PARTS * self._part_size)
        if self._upload_id is None:
            self._upload_id = ""  # from here on there may be an upload to clean up, even if the response is lost
            self._upload_id = await self._transfers.start_upload(self._key, ChecksumAlgorithm="SHA256")
        await self._slots.acquire()
        self._sent += 1
        data = b"".join(self._chunks)
        self._chunks, self._buffered = [], 0
        task = asyncio.create_task(self._send_part(self._upload_id, self._sent, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_part(self, upload_id: str, number: int, data: bytes) -> None:
        try:
            if self._failure is None:
                sha256 = await asyncio.to_thread(_sha256_of, data)
                self._parts.append(await self._transfers.upload_part(self._key, upload_id, number, data, sha256))
                BLOB_BYTES.labels("streamed").inc(len(data))
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._slots.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


@asynccontextmanager
async def streamed_upload(transfers: "S3Transfers", staging_key: str, part_size: int) -> AsyncIterator[StreamedUpload]:
    """Open an upload that cleans up after itself however its block is left."""
    upload = StreamedUpload(transfers, staging_key, part_size)
    try:
        yield upload
    finally:
        await upload.clean_up()


class S3Transfers:
    """Makes multipart calls, and copies within the bucket on the condition that the key does not exist.

    Up to ``max_single_copy`` bytes are copied with one CopyObject, which S3 answers when it is done; larger objects in
    parts, so that no single call takes longer than a client waits.
    """

    def __init__(
        self,
        store: "S3BlobStore",
        client: "S3Client",
        bucket: str,
        *,
        retry_wait: wait_base,
        max_single_copy: int,
        part_size: int,
    ) -> None:
        self.store = store
        self._client = client
        self._bucket = bucket
        self._retry_wait = retry_wait
        self._max_single_copy = max_single_copy
        self._part_size = part_size

    async def has(self, key: str, size: int) -> bool:
        """Return whether an object of this size is at ``key``."""
        try:
            return (await self.store.head(key)).size == size
        except ObjectMissing:
            return False

    async def start_upload(self, key: str, **options: Any) -> str:
        """Start a multipart upload and return its id."""
        with s3_request("CreateMultipartUpload", self._bucket, key):
            response = await self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **options)
        return response["UploadId"]

    async def upload_part(self, key: str, upload_id: str, number: int, data: bytes, sha256: str) -> Part:
        """Send one part, which the store verifies."""
        with s3_request("UploadPart", self._bucket, key):
            response = await self._client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=data,
                ChecksumSHA256=base64_checksum(sha256),
            )
        return Part(number, response["ETag"], sha256)

    async def complete_upload(self, key: str, upload_id: str, parts: Sequence[Part], **conditions: Any) -> None:
        """Complete a multipart upload."""
        rows: list[Any] = [
            {"PartNumber": part.number, "ETag": part.etag}
            | ({"ChecksumSHA256": base64_checksum(part.sha256)} if part.sha256 else {})
            for part in parts
        ]
        with s3_request("CompleteMultipartUpload", self._bucket, key):
            await self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": rows}, **conditions
            )

    async def copy(
        self, source_key: str, key: str, *, size: int, content_type: str, sha256: str | None, source_etag: str | None
    ) -> bool:
        """Implement :meth:`bucketline.blobs.s3.S3BlobStore.copy_if_absent`."""
        source = await self.store.head(source_key)
        if source.size != size or (source_etag is not None and source.etag != source_etag):
            raise ChecksumRefused("the source of the copy has changed")
        if sha256 is not None and source.sha256 not in (None, sha256):
            raise ChecksumRefused("the source of the copy has another checksum")
        async for attempt in retrying(self._retry_wait, WriteConflict):
            with attempt:
                # First each time: a response may have been lost, and some stores ignore the condition on a copy.
                if await self.has(key, size):
                    return False
                try:
                    await self._copy_once(source_key, key, source, content_type)
                except ConditionFailed:
                    if await self.has(key, size):
                        return False
                    raise ChecksumRefused("the source of the copy has changed") from None
        written = await self.store.head(key)
        if written.size == size and (sha256 is None or written.sha256 in (None, sha256)):
            return True
        await self.store.delete([key])
        raise ChecksumRefused("the copy does not have the announced checksum")

    async def _copy_once(self, source_key: str, key: str, source: ObjectInfo, content_type: str) -> None:
        if source.size <= self._max_single_copy:
            with s3_request("CopyObject", self._bucket, key):
                await self._client.copy_object(
                    Bucket=self._bucket,
                    Key=key,
                    CopySource={"Bucket": self._bucket, "Key": source_key},
                    CopySourceIfMatch=f'"{source.etag}"',
                    IfNoneMatch="*",
                    MetadataDirective="REPLACE",
                    ContentType=content_type,
                    ChecksumAlgorithm="SHA256",
                )
            return
        upload_id = await self.start_upload(key, ContentType=content_type)
        try:
            parts = await self._copy_parts(source_key, key, upload_id, source)
            await self.complete_upload(key, upload_id, parts, IfNoneMatch="*")
        except ObjectMissing as error:
            # The response may have been lost, and a repeated request does not find the upload.
            if not await self.has(key, source.size):
                await self._abort(key, upload_id)
                raise DependencyUnavailable("S3 did not complete a copy") from error
        except BaseException:
            await self._abort(key, upload_id)
            raise

    async def _copy_parts(self, source_key: str, key: str, upload_id: str, source: ObjectInfo) -> list[Part]:
        slots = asyncio.Semaphore(PARTS_IN_FLIGHT)
        step = max(self._part_size, -(-source.size // MAX_PARTS))

        async def copy_part(number: int, first: int) -> Part:
            async with slots:
                last = min(first + step, source.size) - 1
                with s3_request("UploadPartCopy", self._bucket, key):
                    response = await self._client.upload_part_copy(
                        Bucket=self._bucket,
                        Key=key,
                        UploadId=upload_id,
                        PartNumber=number,
                        CopySource={"Bucket": self._bucket, "Key": source_key},
                        CopySourceRange=f"bytes={first}-{last}",
                        CopySourceIfMatch=f'"{source.etag}"',
                    )
                return Part(number, response["CopyPartResult"]["ETag"])

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(copy_part(number, first))
                    for number, first in enumerate(range(0, source.size, step), start=1)
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def _abort(self, key: str, upload_id: str) -> None:
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self.store.abort_multipart(key, upload_id)
        except (BucketlineError, TimeoutError):
            _log.warning("copy not aborted", key=key, exc_info=True)


def _sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def base64_checksum(sha256: str) -> str:
    """Return a hex SHA-256 the way S3 writes it."""
    return b64encode(bytes.fromhex(sha256)).decode()
