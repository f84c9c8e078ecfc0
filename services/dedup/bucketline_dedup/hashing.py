"""Hashing beside the transfer: the bytes go to a thread while the next ones arrive and the last ones leave."""

import asyncio
import hashlib
import zlib
from typing import Protocol

from bucketline_dedup.errors import ChecksumMismatch, SourceUnreadable

INLINE_BYTES = 256 * 1024
GROUP_BYTES = 1024 * 1024
MAX_BEHIND = 8 * 1024 * 1024

_ALGORITHMS = frozenset(
    {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512", "blake2b", "blake2s"}
)


class _Digest(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def sha256_of_checksum(checksum: str | None) -> str | None:
    """The hex digits of an announced SHA-256; None for none, or for another algorithm."""
    return checksum.removeprefix("sha256:") if checksum is not None and checksum.startswith("sha256:") else None


class Hashing:
    """The SHA-256 of a stream, and of the algorithm in ``checksum`` (``algorithm:hex``) if that is another.

    Not more than 8 MiB wait to be hashed. One stream, one instance; raises
    :class:`~bucketline_dedup.errors.SourceUnreadable` at once for an algorithm that we do not know.
    """

    def __init__(self, checksum: str | None = None) -> None:
        self._checksum = checksum
        self._sha256: _Digest = hashlib.sha256()
        self._other = _digest_of(checksum)
        self._waiting: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[int] | None = None
        self._behind = 0

    async def feed(self, chunk: bytes) -> None:
        """Takes the next bytes; returns at once unless hashing is too far behind."""
        self._waiting.append(chunk)
        self._size += len(chunk)
        self._behind += len(chunk)
        if self._task is not None and self._task.done():
            self._collect(await self._task)
        if self._size >= GROUP_BYTES and self._task is None:
            self._begin()
        while self._behind > MAX_BEHIND and self._task is not None:
            self._collect(await self._task)
            self._begin()

    async def finish(self) -> str:
        """The SHA-256 in hex. :class:`~bucketline_dedup.errors.ChecksumMismatch` if the bytes are not those
        announced.
        """
        if self._task is not None:
            self._collect(await self._task)
        if self._size > INLINE_BYTES:
            self._begin()
            if self._task is not None:
                await self._task
        else:
            self._update(self._waiting)
        return self._verified()

    def whole(self, data: bytes) -> str:
        """The same for content that is all there; blocks as long as hashing takes."""
        self._update([data])
        return self._verified()

    def _verified(self) -> str:
        sha256 = self._sha256.hexdigest()
        if self._checksum is not None:
            algorithm, _, expected = self._checksum.partition(":")
            actual = sha256 if self._other is None else self._other.hexdigest()
            if actual != expected:
                raise ChecksumMismatch(expected=self._checksum, actual=f"{algorithm}:{actual}")
        return sha256

    def _begin(self) -> None:
        chunks, self._waiting, self._size = self._waiting, [], 0
        self._task = asyncio.create_task(asyncio.to_thread(self._update, chunks))

    def _collect(self, hashed: int) -> None:
        self._task = None
        self._behind -= hashed

    def _update(self, chunks: list[bytes]) -> int:
        for chunk in chunks:
            self._sha256.update(chunk)
            if self._other is not None:
                self._other.update(chunk)
        return sum(map(len, chunks))


def _digest_of(checksum: str | None) -> _Digest | None:
    algorithm = (checksum or "sha256").partition(":")[0]
    if algorithm == "sha256":
        return None
    if algorithm == "crc32":
        return _Crc32()
    if algorithm not in _ALGORITHMS:
        raise SourceUnreadable(f"checksums by {algorithm!r} cannot be verified")
    return hashlib.new(algorithm.replace("-", "_"), usedforsecurity=False)
