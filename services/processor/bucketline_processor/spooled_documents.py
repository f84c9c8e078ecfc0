"""The documents of one object in one collection, until all of them are there.

They are stored only when the extractor has come to its end: an object that fails half-way leaves nothing behind, and
what an earlier run made stays. The first document is kept as it is, which is all that most objects have; the others
are encoded, a megabyte of them in memory and the rest on disk, so memory stays flat whatever a file yields.
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

KEPT_BYTES = 1024 * 1024
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024 - 16 * 1024
"""What MongoDB takes, less its own."""

_OPTIONS: CodecOptions[dict[str, object]] = CodecOptions(tz_aware=True, tzinfo=UTC)


@dataclass(frozen=True)
class Mark:
    """A place to which a spool can be rewound."""

    count: int
    size: int


class SpooledDocuments:
    """Append only, read as often as needed. Close it, or its file stays open until it is collected."""

    def __init__(self, folder: Path | None, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._tail = bytearray()
        self._file: IO[bytes] | None = None
        self._written = 0
        self.first: DocumentDocument | None = None
        self.count = 0

    @property
    def size(self) -> int:
        """Bytes of all documents but the first."""
        return self._written + len(self._tail)

    async def add(self, document: DocumentDocument) -> None:
        """Appends. :class:`PermanentError` for what cannot be stored, :class:`ResourceError` for what is too large."""
        encoded = _encoded(document)  # the first only to know that it can be: it is written after all the others
        if self.first is None:
            self.first = document
        else:
            if self.size + len(encoded) > self._most_bytes:
                raise ResourceError(f"the documents of this object take more than {self._most_bytes >> 20} MiB")
            self._tail += encoded
            if len(self._tail) > KEPT_BYTES:
                await self._spill()
        self.count += 1

    def mark(self) -> Mark:
        return Mark(self.count, self.size)

    def rewind(self, mark: Mark) -> None:
        """Forgets what was added after ``mark``."""
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
        """All but the first, as they were encoded, in groups of about a megabyte."""
        async for group in self._groups():
            yield [cast("DocumentDocument", RawBSONDocument(one)) for one in group]

    async def documents(self) -> AsyncIterator[DocumentDocument]:
        """Every document, in order."""
        if self.first is not None:
            yield self.first
        async for group in self._groups():
            for one in group:
                yield cast("DocumentDocument", bson.decode(one, _OPTIONS))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._tail = bytearray()

    async def _spill(self) -> None:
        tail, self._tail = self._tail, bytearray()
        try:
            # a disk that stalls must not stall the heartbeats
            await asyncio.to_thread(self._write, tail)
        except OSError as error:
            raise TransientError("there is no room to keep the object's documents right now") from error
        self._written += len(tail)

    def _write(self, data: bytearray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="bucketline-", dir=self._folder)  # noqa: SIM115 - kept open
        self._file.seek(self._written)
        self._file.write(data)

    async def _groups(self) -> AsyncIterator[list[bytes]]:
        position = 0
        carried = b""
        while self._file is not None and position < self._written:
            data = await asyncio.to_thread(self._read, position)
            position += len(data)
            whole, carried = _split(carried + data)
            if whole:
                yield whole
        whole, _ = _split(carried + bytes(self._tail))
        if whole:
            yield whole

    def _read(self, position: int) -> bytes:
        assert self._file is not None  # noqa: S101  looked at before
        self._file.seek(position)
        return self._file.read(min(KEPT_BYTES, self._written - position))


def _encoded(document: DocumentDocument) -> bytes:
    try:
        encoded = bson.encode(document)
    except (bson.errors.BSONError, OverflowError, UnicodeEncodeError, TypeError) as error:
        raise PermanentError(f"a document of this object cannot be stored: {error}") from error
    if len(encoded) > MAX_DOCUMENT_BYTES:
        raise ResourceError(f"a document of this object has {len(encoded)} bytes, too large to be stored")
    return encoded


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """The documents that are whole, and the beginning of the next."""
    whole = []
    start = 0
    while len(data) - start >= 4:
        length = int.from_bytes(data[start : start + 4], "little")
        if len(data) - start < length:
            break
        whole.append(data[start : start + length])
        start += length
    return whole, data[start:]
