"""Blob sources that need no service: bytes in memory, and a file on disk. Made for tests and worker
processes.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bucketline.extractors.errors import PermanentError

CHUNK_BYTES = 256 * 1024


class FileSource:
    """A blob that is a file already. Reads block: use it where blocking is fine, as in a worker process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> AsyncIterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    @asynccontextmanager
    async def as_file(self) -> AsyncIterator[Path]:
        yield self._path

    async def presigned_url(self) -> str:
        raise PermanentError("this file has no URL: extractors in worker processes read it with open() or as_file()")


class MemorySource:
    """A blob that is in memory; ``url`` is what :meth:`presigned_url` answers."""

    def __init__(self, content: bytes, url: str | None = None) -> None:
        self._content = content
        self._url = url

    async def open(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), CHUNK_BYTES):
            yield self._content[start : start + CHUNK_BYTES]

    @asynccontextmanager
    async def as_file(self) -> AsyncIterator[Path]:
        with tempfile.TemporaryDirectory(prefix="bucketline-") as folder:
            path = Path(folder) / "blob"
            path.write_bytes(self._content)
            yield path

    async def presigned_url(self) -> str:
        if self._url is None:
            raise PermanentError("this blob has no URL")
        return self._url
