"""One way to open whatever a producer pointed at: an async stream of bounded chunks, never more than asked for.

What is behind each kind of source is a Protocol, so that mirroring knows nothing about HTTP or S3.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

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
    UploadSource,
    UrlSource,
    declared_type,
)
from bucketline.domain.media_types import safe_filename
from bucketline_dedup.errors import (
    AddressRefused,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
    SourceUnreadable,
)

CHUNK_BYTES = 1024 * 1024


class ByteStream(Protocol):
    """Bytes on their way in, iterated once, in chunks of at most 1 MiB.

    ``content_length`` is what was announced, None when nothing was; ``content_type`` is a claim, not a finding;
    ``filename`` is safe to store. The end of the iteration means that everything arrived; otherwise
    a :class:`bucketline_dedup.errors.SourceError` is raised.
    """

    @property
    def content_length(self) -> int | None: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def filename(self) -> str | None: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...


class UrlOpener(Protocol):
    """http(s); :class:`bucketline_dedup.http_fetcher.HttpFetcher`."""

    def open(self, url: str, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]: ...


class ObjectOpener(Protocol):
    """Objects in S3, our own bucket or another's. Raises the errors of :mod:`bucketline_dedup.errors`."""

    def open(self, bucket: str, key: str, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]: ...


class UploadOpener(Protocol):
    """Confirmed uploads and staged bytes, which lie in our own bucket."""

    def open_upload(self, upload_id: str, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]: ...
    def open_staged(self, key: str, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]: ...


class SourceOpener:
    """Opens every kind of source. What is not configured (``None``, no ``file_roots``) is refused.

    ``file_roots`` are the only directories that ``file://`` may read, symbolic links resolved.
    """

    def __init__(
        self,
        *,
        urls: UrlOpener | None = None,
        objects: ObjectOpener | None = None,
        uploads: UploadOpener | None = None,
        file_roots: Sequence[Path] = (),
    ) -> None:
        self._urls = urls
        self._objects = objects
        self._uploads = uploads
        self._file_roots = tuple(root.resolve() for root in file_roots)

    def open(self, source: Source, *, max_bytes: int) -> AbstractAsyncContextManager[ByteStream]:
        """Enter the result to get the stream; leaving gives connections and files back.

        :class:`PropertiesSource` has no bytes: asking for them is a mistake of the caller.
        """
        match source:
            case TextSource() | JsonSource() | DataUriSource() | Base64Source():
                return _inline(source, max_bytes)
            case UrlSource(url) if self._urls is not None:
                return self._urls.open(url, max_bytes=max_bytes)
            case S3Source() if self._objects is not None:
                return self._objects.open(source.bucket, source.key, max_bytes=max_bytes)
            case UploadSource(upload_id) if self._uploads is not None:
                return self._uploads.open_upload(upload_id, max_bytes=max_bytes)
            case StagedSource(key) if self._uploads is not None:
                return self._uploads.open_staged(key, max_bytes=max_bytes)
            case FileSource(path):
                return _file(path, self._file_roots, max_bytes)
            case PropertiesSource():
                raise ValueError("properties have no bytes to open")
            case _:
                raise AddressRefused(detail=f"sources of kind {source.kind!r} are not configured")


class _Chunks:
    """A stream over something that yields bytes by itself."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        content_length: int | None,
        content_type: str | None = None,
        filename: str | None = None,
    ) -> None:
        self._chunks = chunks
        self.content_length = content_length
        self.content_type = content_type
        self.filename = filename

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


@asynccontextmanager
async def _inline(source: InlineSource, max_bytes: int) -> AsyncIterator[ByteStream]:
    content = source.content()
    if len(content) > max_bytes:
        raise SourceTooLarge(max_bytes)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), CHUNK_BYTES):
            yield content[start : start + CHUNK_BYTES]

    name = safe_filename(source.filename) if isinstance(source, Base64Source) else None
    yield _Chunks(chunks(), content_length=len(content), content_type=declared_type(source), filename=name)


@asynccontextmanager
async def _file(path: str, roots: tuple[Path, ...], max_bytes: int) -> AsyncIterator[ByteStream]:
    file, size = await asyncio.to_thread(_open_regular, path, roots)
    try:
        if size > max_bytes:
            raise SourceTooLarge(max_bytes)

        async def chunks() -> AsyncIterator[bytes]:
            seen = 0
            while chunk := await asyncio.to_thread(os.read, file, CHUNK_BYTES):
                seen += len(chunk)
                if seen > size:
                    break
                yield chunk
            if seen != size:
                raise SourceUnavailable("the source changed while it was read", detail=f"{seen} of {size} bytes")

        yield _Chunks(chunks(), content_length=size, filename=safe_filename(Path(path).name))
    finally:
        os.close(file)


def _open_regular(path: str, roots: tuple[Path, ...]) -> tuple[int, int]:
    """A descriptor below one of ``roots`` and its size.

    Judged twice: the path as resolved, and what was really opened (someone may swap a link in between).
    """
    try:
        resolved = Path(path).resolve()
        if not any(resolved.is_relative_to(root) for root in roots):
            raise AddressRefused(detail=f"{resolved} is outside the allowed directories")
        # a FIFO must not block the thread
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
