"""Hashing beside the transfer gives what hashing at once gives, whatever the pieces are."""

import asyncio
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_dedup.errors import ChecksumMismatch, SourceUnreadable
from bucketline_dedup.hashing import GROUP_BYTES, MAX_BEHIND, Hashing, sha256_of_checksum


@given(st.lists(st.integers(0, 3 * GROUP_BYTES // 2), max_size=12))
def test_the_pieces_do_not_matter(sizes: list[int]) -> None:
    async def hashed() -> str:
        hashing = Hashing()
        for number, size in enumerate(sizes):
            await hashing.feed(bytes([number]) * size)
        return await hashing.finish()

    data = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    assert asyncio.run(hashed()) == hashlib.sha256(data).hexdigest()


async def test_hashing_does_not_fall_behind_without_end() -> None:
    hashing = Hashing()
    for _ in range(64):
        await hashing.feed(bytes(GROUP_BYTES))
        assert hashing._behind <= MAX_BEHIND + GROUP_BYTES


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha512", "sha3-256", "blake2b"])
async def test_announced_checksums(algorithm: str) -> None:
    data = b"some bytes"
    right = hashlib.new(algorithm.replace("-", "_"), data, usedforsecurity=False).hexdigest()
    assert Hashing(f"{algorithm}:{right}").whole(data) == hashlib.sha256(data).hexdigest()
    with pytest.raises(ChecksumMismatch) as refused:
        Hashing(f"{algorithm}:{right}").whole(data + b"!")
    assert refused.value.expected == f"{algorithm}:{right}"
    assert refused.value.actual.startswith(f"{algorithm}:")


def test_crc32_has_leading_zeros() -> None:
    data = next(b"%d" % n for n in range(10_000) if zlib.crc32(b"%d" % n) < 2**24)
    assert Hashing(f"crc32:{zlib.crc32(data):08x}").whole(data)


def test_an_algorithm_that_we_do_not_know_is_refused_before_anything_is_read() -> None:
    with pytest.raises(SourceUnreadable):
        Hashing("md4:00000000")


def test_only_a_sha256_names_content() -> None:
    assert sha256_of_checksum("sha256:ab") == "ab"
    assert sha256_of_checksum("md5:ab") is None
    assert sha256_of_checksum(None) is None
