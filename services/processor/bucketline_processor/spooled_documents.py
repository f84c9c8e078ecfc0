"""Buffers the documents of one object in one collection, in memory and on disk, until the extractor has ended.

They are stored only then: an object that fails half-way leaves no documents, and those of an earlier run stay. The
first document, the only one of most objects, is kept as it is. The others are encoded, a megabyte of them in memory and
the rest on disk, so memory stays flat however many a file yields.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import IO, cast

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from bucketline.db.documents import DocumentDocument
from bucketline.extractors import PermanentError, ResourceError, TransientError

MAX_MEMORY_BYTES = 1024 * 1024
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024 - 16 * 1024
"""The limit of MongoDB, less room for its own fields."""

_OPTIONS: CodecOptions[dict[str, object]] = CodecOptions(tz_aware=True, tzinfo=UTC)


@dataclass(frozen=True)
class Mark:
    """A position to which a spool can be rewound."""

    count: int
    size: int


class SpooledDocuments:
    """An append-only buffer that can be read repeatedly. Close it, or its file stays open."""

    def __init__(self, folder: Path | None, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._tail = bytearray()
        self._file: IO[bytes] | None = None
        self._written = 0
        self.first: DocumentDocument | None = None
        self.count = 0

    @property
    def size(self) -> int:
        """Return the bytes of all documents but the first."""
        return self._written + len(self._tail)

    async def add(self, document: DocumentDocument) -> None:
        """Append a document; raise :class:`PermanentError` or :class:`ResourceError` if it cannot be stored."""
        encoded = _encode(document)  # This also checks the first document, which is written after the others.
        if self.first is None:
            self.first = document
        else:
            if self.size + len(encoded) > self._max_bytes:
                raise ResourceError(f"the documents of this object take more than {self._max_bytes >> 20} MiB")
            self._tail += encoded
            if len(self._tail) > MAX_MEMORY_BYTES:
                await self._spill()
        self.count += 1

    def mark(self) -> Mark:
        """Return the current end."""
        return Mark(self.count, self.size)

    def rewind(self, mark: Mark) -> None:
        """Remove the documents that were added after ``mark``."""
        if mark.count == 0:
            self.first = None
        if mark.size >= self._written:
            del self._tail[mark.size - self._written :]
        elif self._file is not None:
            self._tail.clear()
            self._file.truncate(mark.size)
            self._file.seek(mark.size)
            self._written = mark.size
        self.count = mark.count

    async def rest(self) -> AsyncIterator[list[DocumentDocument]]:
        """Yield all documents but the first, still encoded, in groups of about a megabyte."""
        async for group in self._groups():
            yield [cast("DocumentDocument", RawBSONDocument(encoded)) for encoded in group]

    async def documents(self) -> AsyncIterator[DocumentDocument]:
        """Yield all documents, in order."""
        if self.first is not None:
            yield self.first
        async for group in self._groups():
            for encoded in group:
                yield cast("DocumentDocument", bson.decode(encoded, _OPTIONS))

    def close(self) -> None:
        """Delete the buffer."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._tail = bytearray()

    async def _spill(self) -> None:
        tail, self._tail = self._tail, bytearray()
        try:
            # A slow disk must not delay the heartbeats.
            await asyncio.to_thread(self._write, tail)
        except OSError as error:
            raise TransientError("there is no room to keep the object's documents right now") from error
        self._written += len(tail)

    def _write(self, data: bytearray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="bucketline-", dir=self._folder)  # noqa: SIM115 - closed by close()
        self._file.seek(self._written)
        self._file.write(data)

    async def _groups(self) -> AsyncIterator[list[bytes]]:
        position = 0
        carried = b""
        while self._file is not None and position < self._written:
            data = await asyncio.to_thread(self._read, position)
            position += len(data)
            complete, carried = _split(carried + data)
            if complete:
                yield complete
        complete, _ = _split(carried + bytes(self._tail))
        if complete:
            yield complete

    def _read(self, position: int) -> bytes:
        assert self._file is not None  # noqa: S101  The caller checked it.
        self._file.seek(position)
        return self._file.read(min(MAX_MEMORY_BYTES, self._written - position))


def _encode(document: DocumentDocument) -> bytes:
    try:
        encoded = bson.encode(document)
    except (bson.errors.BSONError, OverflowError, UnicodeEncodeError, TypeError) as error:
        raise PermanentError(f"a document of this object cannot be stored: {error}") from error
    if len(encoded) > MAX_DOCUMENT_BYTES:
        raise ResourceError(f"a document of this object has {len(encoded)} bytes, too large to be stored")
    return encoded


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the encoded documents that are complete, and the beginning of the next."""
    complete = []
    start = 0
    while len(data) - start >= 4:
        length = int.from_bytes(data[start : start + 4], "little")
        if len(data) - start < length:
            break
        complete.append(data[start : start + length])
        start += length
    return complete, data[start:]
