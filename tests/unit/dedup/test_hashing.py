"""Hashing of streams in a thread, and verification of announced checksums."""

import asyncio
import hashlib
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_dedup.content_store import HASH_GROUP_BYTES, StreamHasher, sha256_of_checksum
from bucketline_dedup.errors import ChecksumMismatch, SourceUnreadable


@given(st.lists(st.integers(0, 3 * HASH_GROUP_BYTES // 2), max_size=12))
def test_hash_of_a_stream_does_not_depend_on_its_chunks(sizes: list[int]) -> None:
    async def hashed() -> str:
        hasher = StreamHasher()
        for number, size in enumerate(sizes):
            await hasher.feed(bytes([number]) * size)
        return await hasher.finish()

    data = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    assert asyncio.run(hashed()) == hashlib.sha256(data).hexdigest()


async def test_feed_faster_than_hashing_bounds_the_bytes_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, hashed = threading.Event(), 0

    class Slow:
        def update(self, data: bytes) -> None:
            nonlocal hashed
            gate.wait(10)
            hashed += len(data)

        def hexdigest(self) -> str:
            return str(hashed)

    monkeypatch.setattr(hashlib, "sha256", Slow)
    hasher, fed = StreamHasher(), 0

    async def feed() -> None:
        nonlocal fed
        for _ in range(16):
            await hasher.feed(bytes(HASH_GROUP_BYTES))
            fed += HASH_GROUP_BYTES

    feeding = asyncio.create_task(feed())
    for _ in range(100):
        await asyncio.sleep(0)
    assert fed == HASH_GROUP_BYTES, "one group is being hashed, and the next one waits in feed()"
    gate.set()
    await feeding
    assert await hasher.finish() == str(16 * HASH_GROUP_BYTES)


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha512", "sha3-256", "blake2b"])
async def test_checksum_of_each_algorithm_is_verified(algorithm: str) -> None:
    data = b"some bytes"
    right = hashlib.new(algorithm.replace("-", "_"), data, usedforsecurity=False).hexdigest()
    assert StreamHasher(f"{algorithm}:{right}").hash_all(data) == hashlib.sha256(data).hexdigest()
    with pytest.raises(ChecksumMismatch) as refused:
        StreamHasher(f"{algorithm}:{right}").hash_all(data + b"!")
    assert refused.value.expected == f"{algorithm}:{right}"
    assert refused.value.actual.startswith(f"{algorithm}:")


def test_checksum_crc32_with_leading_zeros_matches() -> None:
    data = next(b"%d" % n for n in range(10_000) if zlib.crc32(b"%d" % n) < 2**24)
    assert StreamHasher(f"crc32:{zlib.crc32(data):08x}").hash_all(data)


def test_checksum_of_an_unsupported_algorithm_is_refused_before_reading() -> None:
    with pytest.raises(SourceUnreadable):
        StreamHasher("md4:00000000")


def test_sha256_of_checksum_ignores_other_algorithms() -> None:
    assert sha256_of_checksum("sha256:ab") == "ab"
    assert sha256_of_checksum("md5:ab") is None
    assert sha256_of_checksum(None) is None
