"""Streams into the in-memory store."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import cast

import pytest
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.clock import ManualClock
from bucketline.db.blobs import BlobRecord, Blobs, Claimed, NewContent, blob_key
from bucketline.errors import DependencyUnavailable
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_dedup.content_store import (
    ContentBeingDeleted,
    ContentStore,
    LargeTransferSlot,
    NeedsLargeQueue,
    PutRequest,
)
from bucketline_dedup.errors import ChecksumMismatch, SourceUnavailable
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import ByteStream

SMALL = 1000
PIECE = 100


class Records:
    """Keeps the records of content in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, NewContent] = {}
        self.leaving: set[str] = set()

    async def claim(self, hashes: Sequence[str], _now: datetime) -> Claimed:
        held = {h: cast("BlobRecord", dataclasses.asdict(self.rows[h])) for h in hashes if h in self.rows}
        return Claimed(held, frozenset(self.leaving & set(hashes)))

    async def record(self, contents: Sequence[NewContent], _now: datetime) -> frozenset[str]:
        self.rows |= {content.sha256: content for content in contents}
        return frozenset()


class Source(ByteStream):
    """A stream; it raises at its end if it ``breaks``."""

    def __init__(self, data: bytes, *, announced: bool = True, breaks: bool = False) -> None:
        super().__init__(self._read(data, breaks=breaks), len(data) if announced else None, "text/plain", "a.txt")
        self.closed = False

    async def _read(self, data: bytes, *, breaks: bool) -> AsyncIterator[bytes]:
        try:
            for start in range(0, len(data), PIECE):
                yield data[start : start + PIECE]
            if breaks:
                raise SourceUnavailable("broken")
        finally:
            self.closed = True


def slot(*, free: bool = True) -> LargeTransferSlot:
    return LargeTransferSlot(asyncio.Semaphore(1 if free else 0), wait=False)


@pytest.fixture
def store() -> MemoryBlobStore:
    return MemoryBlobStore(part_size=SMALL)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def contents(store: MemoryBlobStore, records: Records) -> ContentStore:
    settings = DedupSettings(small_bytes=SMALL)
    return ContentStore(store, cast("Blobs", records), settings, clock=ManualClock(), budget=WeightedSemaphore(SMALL))


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 5 * SMALL])
async def test_store_of_any_size_stores_the_content_once(
    contents: ContentStore, store: MemoryBlobStore, size: int, announced: bool
) -> None:
    data = bytes(n % 251 for n in range(size))
    stored = await contents.store_stream(Source(data, announced=announced), PutRequest("staging/x"), slot())
    assert (stored.size_bytes, stored.duplicate) == (size, False)
    assert store.objects[blob_key(stored.sha256)].data == data
    assert (len(store.objects), store.open_uploads) == (1, {})
    again = await contents.store_stream(Source(data, announced=announced), PutRequest("staging/y"), slot())
    assert (again.duplicate, store.puts) == (True, 1)


@pytest.mark.parametrize("announced", [True, False])
async def test_store_of_large_content_without_a_slot_needs_the_large_queue(
    contents: ContentStore, store: MemoryBlobStore, announced: bool
) -> None:
    source = Source(bytes(2 * SMALL), announced=announced)
    with pytest.raises(NeedsLargeQueue):
        await contents.store_stream(source, PutRequest("staging/x"), slot(free=False))
    assert store.puts == 0
    small = await contents.store_stream(Source(bytes(SMALL)), PutRequest("staging/x"), slot(free=False))
    assert not small.duplicate


@pytest.mark.parametrize("size", [10, 5 * SMALL])
async def test_store_with_an_error_leaves_nothing(contents: ContentStore, store: MemoryBlobStore, size: int) -> None:
    broken = Source(bytes(size), breaks=True)
    with pytest.raises(SourceUnavailable):
        await contents.store_stream(broken, PutRequest("staging/x"), slot())
    assert broken.closed
    with pytest.raises(ChecksumMismatch):
        await contents.store_stream(Source(bytes(size)), PutRequest("staging/x", checksum="md5:00"), slot())
    store.available = False
    with pytest.raises(DependencyUnavailable):
        await contents.store_stream(Source(bytes(size)), PutRequest("staging/x"), slot())
    assert (store.objects, store.open_uploads) == ({}, {})
    store.available = True
    # The memory budget was released each time.
    assert not (await contents.store_stream(Source(bytes(SMALL)), PutRequest("staging/x"), slot())).duplicate


@pytest.mark.parametrize("size", [10, 5 * SMALL])
async def test_store_of_content_being_deleted_raises(
    contents: ContentStore, store: MemoryBlobStore, records: Records, size: int
) -> None:
    stored = await contents.store_stream(Source(bytes(size)), PutRequest("staging/x"), slot())
    records.leaving.add(stored.sha256)
    with pytest.raises(ContentBeingDeleted):
        await contents.store_stream(Source(bytes(size)), PutRequest("staging/x"), slot())
    assert store.open_uploads == {}


async def test_store_with_force_replaces_a_broken_object(contents: ContentStore, store: MemoryBlobStore) -> None:
    stored = await contents.store_stream(Source(b"right"), PutRequest("staging/x"), slot())
    key = blob_key(stored.sha256)
    store.put(key, b"broken!")
    assert (await contents.store_stream(Source(b"right"), PutRequest("staging/x"), slot())).duplicate
    assert store.objects[key].data == b"broken!"
    await contents.store_stream(Source(b"right"), PutRequest("staging/x", force=True), slot())
    assert store.objects[key].data == b"right"


async def test_adopt_verified_copies_only_verified_content(contents: ContentStore, store: MemoryBlobStore) -> None:
    store.put("uploads/a", b"verified", checked=True)
    store.put("uploads/b", b"unverified")
    content = await contents.adopt_verified(
        "uploads/a", await contents.head("uploads/a"), PutRequest("s", mime_type="text/plain")
    )
    assert content is not None
    assert (content.mime_type, store.objects[blob_key(content.sha256)].data) == ("text/plain", b"verified")
    assert await contents.adopt_verified("uploads/b", await contents.head("uploads/b"), PutRequest("s")) is None
    md5 = PutRequest("s", checksum="md5:00")
    assert await contents.adopt_verified("uploads/a", await contents.head("uploads/a"), md5) is None
