"""Opens any kind of source as an async stream of bounded chunks."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import AccessRefused, BlobStoreError, ContentTooLarge, ObjectMissing
from bucketline.domain.blob_sources import (
    Base64Source,
    DataUriSource,
    FileSource,
    InlineSource,
    JsonSource,
    PropertiesSource,
    S3Source,
    Source,
    StagedSource,
    TextSource,
    UrlSource,
    declared_type,
)
from bucketline.domain.media_types import safe_filename
from bucketline.errors import DependencyUnavailable
from bucketline.http.ssrf import AddressRefused
from bucketline_dedup.errors import SourceNotFound, SourceTooLarge, SourceUnavailable, SourceUnreadable
from bucketline_dedup.http_fetcher import HttpFetcher

CHUNK_BYTES = 1024 * 1024


@dataclass
class ByteStream:
    """Bytes of a source, iterated once, in chunks of at most 1 MiB.

    ``content_length`` is the announced length, if any; ``content_type`` is a claim of the source; ``filename`` is safe
    to store. The iteration ends only when everything arrived; otherwise it raises a
    :class:`~bucketline_dedup.errors.SourceError`.
    """

    chunks: AsyncIterator[bytes]
    content_length: int | None = None
    content_type: str | None = None
    filename: str | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks


class SourceOpener:
    """Opens sources: ``fetcher`` reads URLs, ``store`` our own bucket, ``external`` the configured other buckets.

    ``file_roots`` are the only directories that ``file://`` may read, symbolic links resolved. What is not configured
    is refused.
    """

    def __init__(
        self, *, fetcher: HttpFetcher, store: S3BlobStore, external: S3BlobStore, file_roots: Sequence[Path] = ()
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self._external = external
        self._file_roots = tuple(root.resolve() for root in file_roots)

    def open(self, source: Source, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]:
        """Return a context manager of the stream; leaving it closes connections and files.

        Uploads are opened as the :class:`StagedSource` of their key. :class:`PropertiesSource` has no bytes, and
        opening it is a programming error.
        """
        match source:
            case TextSource() | JsonSource() | DataUriSource() | Base64Source():
                return _open_inline(source, max_bytes)
            case UrlSource(url):
                return self._open_url(url, max_bytes)
            case S3Source():
                return self._open_external(source.bucket, source.key, max_bytes)
            case StagedSource(key):
                return self._open_staged(key, max_bytes)
            case FileSource(path):
                return _open_file(path, self._file_roots, max_bytes)
            case PropertiesSource():
                raise ValueError("properties have no bytes to open")
            case _:
                raise SourceNotFound("the upload is gone", detail=repr(source))

    @asynccontextmanager
    async def _open_url(self, url: str, max_bytes: int) -> AsyncIterator[ByteStream]:
        async with self._fetcher.open(url, max_bytes=max_bytes) as body:
            yield ByteStream(aiter(body), body.content_length, body.content_type, body.filename)

    @asynccontextmanager
    async def _open_staged(self, key: str, max_bytes: int) -> AsyncIterator[ByteStream]:
        with _own_store_errors(key, max_bytes):
            info = await self._store.head(key)
            if info.size > max_bytes:
                raise ContentTooLarge(max_bytes)

        async def chunks() -> AsyncGenerator[bytes, None]:
            with _own_store_errors(key, max_bytes):
                async with aclosing(self._store.get(key, limit=max_bytes)) as content:
                    async for chunk in content:
                        yield chunk

        async with aclosing(chunks()) as stream:
            yield ByteStream(stream, info.size, info.content_type, _key_name(key))

    @asynccontextmanager
    async def _open_external(self, bucket: str, key: str, max_bytes: int) -> AsyncIterator[ByteStream]:
        # Only opening and reading are mapped: errors of the caller's block, which pass through here too, are not the
        # source's fault.
        async with AsyncExitStack() as stack:
            with _external_store_errors(key, max_bytes):
                content = await stack.enter_async_context(
                    self._external.open_external(f"s3://{bucket}/{key}", limit=max_bytes)
                )

            async def chunks() -> AsyncGenerator[bytes, None]:
                with _external_store_errors(key, max_bytes):
                    async for chunk in content.chunks:
                        yield chunk

            stream = await stack.enter_async_context(aclosing(chunks()))
            yield ByteStream(stream, content.info.size, content.info.content_type, _key_name(key))


@asynccontextmanager
async def _open_inline(source: InlineSource, max_bytes: int) -> AsyncIterator[ByteStream]:
    content = source.content()
    if len(content) > max_bytes:
        raise SourceTooLarge(max_bytes)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), CHUNK_BYTES):
            yield content[start : start + CHUNK_BYTES]

    name = safe_filename(source.filename) if isinstance(source, Base64Source) else None
    yield ByteStream(chunks(), len(content), declared_type(source), name)


@asynccontextmanager
async def _open_file(path: str, roots: tuple[Path, ...], max_bytes: int) -> AsyncIterator[ByteStream]:
    file, size = await asyncio.to_thread(_open_regular_file, path, roots)
    try:
        if size > max_bytes:
            raise SourceTooLarge(max_bytes)

        async def chunks() -> AsyncIterator[bytes]:
            position = 0
            while chunk := await asyncio.to_thread(os.read, file, CHUNK_BYTES):
                position += len(chunk)
                if position > size:
                    break
                yield chunk
            if position != size:
                raise SourceUnavailable("the source changed while it was read", detail=f"{position} of {size} bytes")

        yield ByteStream(chunks(), size, filename=safe_filename(Path(path).name))
    finally:
        os.close(file)


def _open_regular_file(path: str, roots: tuple[Path, ...]) -> tuple[int, int]:
    """Return a descriptor of a file below one of ``roots`` and its size.

    Both the resolved path and the opened file are checked, because a link may be swapped in between.
    """
    try:
        resolved = Path(path).resolve()
        if not any(resolved.is_relative_to(root) for root in roots):
            raise AddressRefused(detail=f"{resolved} is outside the allowed directories")
        # O_NONBLOCK: a FIFO must not block the thread.
        file = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFound(detail=path) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceUnreadable("the file cannot be read", detail=repr(error)) from error
    status = os.fstat(file)
    opened = Path(f"/proc/self/fd/{file}")
    inside = not opened.exists() or any(opened.resolve().is_relative_to(root) for root in roots)
    if not stat.S_ISREG(status.st_mode) or not inside:
        os.close(file)
        raise AddressRefused(detail=f"{path} is not a regular file below an allowed directory")
    return file, status.st_size


@contextmanager
def _own_store_errors(key: str, max_bytes: int) -> Iterator[None]:
    """Map the errors of our own bucket; if it is unreachable, that is not the source's fault."""
    try:
        yield
    except ObjectMissing as error:
        raise SourceNotFound("the uploaded content is gone", detail=key) from error
    except ContentTooLarge as error:
        raise SourceTooLarge(max_bytes, detail=key) from error


@contextmanager
def _external_store_errors(key: str, max_bytes: int) -> Iterator[None]:
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


def _key_name(key: str) -> str | None:
    return safe_filename(PurePosixPath(key).name)
