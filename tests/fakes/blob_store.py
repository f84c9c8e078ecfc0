"""An in-memory blob store for unit tests; the contract suite checks that it behaves like S3."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.s3_multipart import StreamedUpload
from bucketline.blobs.store import (
    PRESIGNED_URL_LIMIT,
    AccessRefused,
    BlobStoreError,
    ByteRange,
    ChecksumRefused,
    Content,
    ContentTooLarge,
    ObjectInfo,
    ObjectMissing,
    ObjectSummary,
    OpenUpload,
    split_s3_url,
)
from bucketline.clock import Clock, SystemClock
from bucketline.errors import DependencyUnavailable


@dataclass(frozen=True, slots=True)
class Stored:
    """The content and description of an object."""

    data: bytes
    head: ObjectInfo


class MemoryBlobStore(S3BlobStore):
    """Overrides every method of the real store.

    ``objects`` is inspectable, ``puts`` counts writes, and with ``available = False`` every method fails.

    ``external`` maps the URLs that :meth:`open_external` may read to their content; ``part_size`` is from where on an
    upload leaves an open multipart upload behind while it runs.
    """

    def __init__(
        self,
        bucket: str = "memory",
        *,
        external: Mapping[str, bytes] | None = None,
        clock: Clock | None = None,
        part_size: int = 8 * 1024 * 1024,
        chunk_size: int = 64 * 1024,
    ) -> None:
        self.objects: dict[str, Stored] = {}
        self.open_uploads: dict[str, OpenUpload] = {}
        self.puts = 0
        self.available = True
        self._bucket = bucket
        self._external = dict(external or {})
        self._clock = clock or SystemClock()
        self._part_size = part_size
        self._chunk_size = chunk_size
        self._uploads = 0

    def put(
        self, key: str, data: bytes, *, content_type: str = "application/octet-stream", checked: bool = False
    ) -> ObjectInfo:
        """Overwrite the key like a presigned PUT. With ``checked`` the request had a checksum."""
        self.puts += 1
        head = ObjectInfo(
            size=len(data),
            etag=hashlib.md5(data, usedforsecurity=False).hexdigest(),
            sha256=_sha256(data) if checked else None,
            content_type=content_type,
            last_modified=self._clock.now(),
        )
        self.objects[key] = Stored(data, head)
        return head

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        self._check()
        if key in self.objects:
            return False
        if _sha256(data) != sha256:
            raise ChecksumRefused("the bytes do not have the announced checksum")
        self.put(key, data, content_type=content_type, checked=True)
        return True

    def upload(self, staging_key: str) -> AbstractAsyncContextManager[StreamedUpload]:
        return self._upload(staging_key)

    @asynccontextmanager
    async def _upload(self, staging_key: str) -> AsyncIterator[StreamedUpload]:
        self._check()
        self._uploads += 1
        upload = OpenUpload(staging_key, str(self._uploads), self._clock.now())
        try:
            yield _Upload(self, upload, self._part_size)
        finally:
            self.open_uploads.pop(upload.upload_id, None)

    async def copy_if_absent(
        self,
        source_key: str,
        key: str,
        *,
        size: int,
        content_type: str,
        sha256: str | None = None,
        source_etag: str | None = None,
    ) -> bool:
        source = self._stored(source_key)
        if source.head.size != size or (source_etag is not None and source.head.etag != source_etag):
            raise ChecksumRefused("the source of the copy has changed")
        if sha256 is not None and _sha256(source.data) != sha256:
            raise ChecksumRefused("the source of the copy has another checksum")
        if key in self.objects:
            return False
        self.put(key, source.data, content_type=content_type, checked=source.head.sha256 is not None)
        return True

    async def get(self, key: str, *, limit: int, range: ByteRange | None = None) -> AsyncGenerator[bytes, None]:  # noqa: A002
        data = self._stored(key).data
        if range is not None:
            if range[0] >= len(data):
                raise BlobStoreError("the range lies behind the content")
            data = data[range[0] : range[1] + 1]
        if len(data) > limit:
            raise ContentTooLarge(limit)
        async for chunk in self._chunks(data):
            yield chunk

    async def read(self, key: str, *, limit: int) -> bytes:
        async with aclosing(self.get(key, limit=limit)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def head(self, key: str) -> ObjectInfo:
        return self._stored(key).head

    async def delete(self, keys: Collection[str]) -> None:
        self._check()
        for key in keys:
            self.objects.pop(key, None)

    async def list(self, prefix: str, *, limit: int, after: str | None = None) -> Sequence[ObjectSummary]:
        self._check()
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > (after or ""))
        heads = [(key, self.objects[key].head) for key in keys[:limit]]
        return [ObjectSummary(key, head.size, head.etag, head.last_modified) for key, head in heads]

    async def list_multipart(self, prefix: str, *, limit: int = 1000) -> Sequence[OpenUpload]:
        self._check()
        return [upload for upload in self.open_uploads.values() if upload.key.startswith(prefix)][:limit]

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        self._check()
        found = self.open_uploads.get(upload_id)
        if found is not None and found.key == key:
            del self.open_uploads[upload_id]

    async def presign_get(self, key: str, *, expires: int, filename: str | None = None, public: bool = True) -> str:
        name = f"&filename={quote(filename)}" if filename else ""
        host = "public" if public else "internal"
        return f"https://{host}.invalid/{quote(key)}?expires={expires}{name}"[:PRESIGNED_URL_LIMIT]

    async def presign_put(
        self,
        key: str,
        *,
        expires: int,
        content_type: str | None = None,
        size: int | None = None,
        sha256: str | None = None,
    ) -> str:
        bound = {"content_type": content_type, "size": size, "sha256": sha256}
        query = "".join(f"&{name}={quote(str(value), safe='')}" for name, value in bound.items() if value is not None)
        return f"https://public.invalid/{quote(key)}?expires={expires}{query}"

    async def ensure_bucket(self) -> None:
        self._check()

    async def ping(self) -> None:
        self._check()

    def url_of(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def key_of(self, url: str) -> str | None:
        bucket, key = split_s3_url(url)
        return key if bucket == self._bucket and key else None

    @asynccontextmanager
    async def open_external(self, url: str, *, limit: int) -> AsyncIterator[Content]:
        self._check()
        bucket, key = split_s3_url(url)
        if not any(split_s3_url(known)[0] == bucket for known in self._external):
            raise AccessRefused("the bucket is not configured as a source")
        if url not in self._external:
            raise ObjectMissing(key)
        data = self._external[url]
        if len(data) > limit:
            raise ContentTooLarge(limit)
        head = ObjectInfo(len(data), _sha256(data)[:32], None, "application/octet-stream", self._clock.now())
        async with aclosing(self._chunks(data)) as chunks:
            yield Content(head, chunks)

    async def _chunks(self, data: bytes) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(data), self._chunk_size):
            self._check()
            yield data[start : start + self._chunk_size]

    def _stored(self, key: str) -> Stored:
        self._check()
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectMissing(key) from None

    def _check(self) -> None:
        if not self.available:
            raise DependencyUnavailable("S3 did not answer: switched off by the test")


class _Upload(StreamedUpload):
    """A multipart upload into the in-memory store."""

    def __init__(self, store: MemoryBlobStore, upload: OpenUpload, part_size: int) -> None:
        self._memory = store
        self._upload = upload
        self._part_size = part_size
        self._data = bytearray()

    @property
    def size(self) -> int:
        return len(self._data)

    async def write(self, chunk: bytes) -> None:
        await self._memory.ping()
        self._data += chunk
        if len(self._data) > self._part_size:
            self._memory.open_uploads[self._upload.upload_id] = self._upload

    async def finish_to(self, final_key: str, *, sha256: str, size: int, content_type: str) -> bool:
        if size != self.size:
            raise ChecksumRefused(f"{self.size} bytes were written where {size} were announced")
        data = bytes(self._data)
        if size <= self._part_size:
            return await self._memory.put_if_absent(final_key, data, sha256=sha256, content_type=content_type)
        await self._memory.ping()
        if final_key in self._memory.objects:
            return False
        self._memory.put(final_key, data, content_type=content_type)
        return True


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
