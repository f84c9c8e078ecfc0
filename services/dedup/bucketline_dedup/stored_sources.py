"""Sources in S3, read through the blob store: our own bucket, and those of others that the settings cover.

Our own store being away is our trouble and stays ``DependencyUnavailable``; a foreign one being away is the source's.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import PurePosixPath

from bucketline.blobs.store import AccessRefused, BlobStore, BlobStoreError, ContentTooLarge, ObjectMissing
from bucketline.domain.media_types import safe_filename
from bucketline.errors import DependencyUnavailable
from bucketline_dedup.errors import (
    AddressRefused,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
    SourceUnreadable,
)
from bucketline_dedup.sources import ByteStream


class _StoredStream:
    """An object of a store as a stream."""

    def __init__(self, chunks: AsyncIterator[bytes], size: int, content_type: str | None, key: str) -> None:
        self._chunks = chunks
        self.content_length = size
        self.content_type = content_type
        self.filename = safe_filename(PurePosixPath(key).name)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


class OwnObjects:
    """Confirmed uploads and staged bytes. Who may read which key was decided before.

    ``key_of_upload`` is asked for uploads whose key the object does not name.
    """

    def __init__(self, store: BlobStore, key_of_upload: Callable[[str], Awaitable[str | None]]) -> None:
        self._store = store
        self._key_of_upload = key_of_upload

    @asynccontextmanager
    async def open_upload(self, upload_id: str, *, max_bytes: int) -> AsyncIterator[ByteStream]:
        key = await self._key_of_upload(upload_id)
        if key is None:
            raise SourceNotFound("the upload is gone", detail=upload_id)
        async with self.open_staged(key, max_bytes=max_bytes) as stream:
            yield stream

    @asynccontextmanager
    async def open_staged(self, key: str, *, max_bytes: int) -> AsyncIterator[ByteStream]:
        with _own(key, max_bytes):
            head = await self._store.head(key)
            if head.size > max_bytes:
                raise ContentTooLarge(max_bytes)
        async with aclosing(self._chunks(key, max_bytes)) as chunks:
            yield _StoredStream(chunks, head.size, head.content_type, key)

    async def _chunks(self, key: str, max_bytes: int) -> AsyncGenerator[bytes, None]:
        with _own(key, max_bytes):
            async with aclosing(self._store.get(key, limit=max_bytes)) as chunks:
                async for chunk in chunks:
                    yield chunk


class ExternalObjects:
    """Buckets that are not ours."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    @asynccontextmanager
    async def open(self, bucket: str, key: str, *, max_bytes: int) -> AsyncIterator[ByteStream]:
        # What goes wrong in the caller's block passes through here too, and is not the source's fault: only opening
        # and reading are translated.
        async with AsyncExitStack() as stack:
            with _foreign(key, max_bytes):
                content = await stack.enter_async_context(
                    self._store.open_foreign(f"s3://{bucket}/{key}", limit=max_bytes)
                )
            chunks = await stack.enter_async_context(aclosing(_read(content.chunks, key, max_bytes)))
            yield _StoredStream(chunks, content.head.size, content.head.content_type, key)


async def _read(chunks: AsyncIterator[bytes], key: str, max_bytes: int) -> AsyncGenerator[bytes, None]:
    with _foreign(key, max_bytes):
        async for chunk in chunks:
            yield chunk


@contextmanager
def _own(key: str, max_bytes: int) -> Iterator[None]:
    try:
        yield
    except ObjectMissing as error:
        raise SourceNotFound("the uploaded content is gone", detail=key) from error
    except ContentTooLarge as error:
        raise SourceTooLarge(max_bytes, detail=key) from error


@contextmanager
def _foreign(key: str, max_bytes: int) -> Iterator[None]:
    try:
        yield
    except AccessRefused as error:
        raise AddressRefused(detail=f"{key}: {error.message}") from error
    except ObjectMissing as error:
        raise SourceNotFound(detail=key) from error
    except ContentTooLarge as error:
        raise SourceTooLarge(max_bytes, detail=key) from error
    except DependencyUnavailable as error:
        raise SourceUnavailable("the source cannot be reached", detail=error.message) from error
    except BlobStoreError as error:
        raise SourceUnreadable("the source cannot be read", detail=error.message) from error
