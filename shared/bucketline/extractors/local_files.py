"""Blob sources in memory and on disk, for tests and worker processes."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bucketline.extractors.errors import PermanentError

CHUNK_BYTES = 256 * 1024


class FileSource:
    """A blob on disk. Reads block, which is acceptable in a worker process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> AsyncIterator[bytes]:
        """Yield the bytes in chunks."""
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    @asynccontextmanager
    async def as_file(self) -> AsyncIterator[Path]:
        """Provide the file itself."""
        yield self._path

    async def presigned_url(self) -> str:
        """Raise ``PermanentError``, because a local file has no URL."""
        raise PermanentError("this file has no URL: extractors in worker processes read it with open() or as_file()")


class MemorySource:
    """A blob in memory; ``url`` is the result of :meth:`presigned_url`."""

    def __init__(self, content: bytes, url: str | None = None) -> None:
        self._content = content
        self._url = url

    async def open(self) -> AsyncIterator[bytes]:
        """Yield the bytes in chunks."""
        for start in range(0, len(self._content), CHUNK_BYTES):
            yield self._content[start : start + CHUNK_BYTES]

    @asynccontextmanager
    async def as_file(self) -> AsyncIterator[Path]:
        """Provide a temporary file."""
        with tempfile.TemporaryDirectory(prefix="bucketline-") as folder:
            path = Path(folder) / "blob"
            path.write_bytes(self._content)
            yield path

    async def presigned_url(self) -> str:
        """Return the URL that was passed in, or raise ``PermanentError``."""
        if self._url is None:
            raise PermanentError("this blob has no URL")
        return self._url
