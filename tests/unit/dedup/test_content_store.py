"""Streams into the store in memory: what is kept, what is refused, and what is left over."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast

import pytest
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.clock import ManualClock
from bucketline.db.blobs import BlobRecord, Blobs, Claimed, NewContent, blob_key
from bucketline.errors import DependencyUnavailable
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_dedup.content_store import ContentBeingDeleted, ContentStore, NeedsLargeQueue, PutRequest
from bucketline_dedup.errors import ChecksumMismatch, SourceUnavailable
from bucketline_dedup.settings import DedupSettings

SMALL = 1000
PIECE = 100


class Records:
    """The records of content, in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, NewContent] = {}
        self.leaving: set[str] = set()

    async def claim(self, hashes: Sequence[str], _now: datetime) -> Claimed:
        held = {h: cast("BlobRecord", {"mime_type": self.rows[h].mime_type}) for h in hashes if h in self.rows}
        return Claimed(held, frozenset(self.leaving & set(hashes)))

    async def record(self, contents: Sequence[NewContent], _now: datetime) -> frozenset[str]:
        self.rows |= {content.sha256: content for content in contents}
        return frozenset()


class Source:
    """Bytes on their way; ``breaks`` after all of them."""

    filename = "a.txt"
    content_type = "text/plain"

    def __init__(self, data: bytes, *, announced: bool = True, breaks: bool = False) -> None:
        self._data = data
        self._breaks = breaks
        self.content_length = len(data) if announced else None
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for start in range(0, len(self._data), PIECE):
                yield self._data[start : start + PIECE]
            if self._breaks:
                raise SourceUnavailable("broken")
        finally:
            self.closed = True


class Room:
    def __init__(self, *, free: bool = True) -> None:
        self._free = free

    @asynccontextmanager
    async def large(self) -> AsyncIterator[None]:
        if not self._free:
            raise NeedsLargeQueue("full")
        yield


@pytest.fixture
def store() -> MemoryBlobStore:
    return MemoryBlobStore(part_size=SMALL)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def storing(store: MemoryBlobStore, records: Records) -> ContentStore:
    settings = DedupSettings(small_bytes=SMALL)
    return ContentStore(store, cast("Blobs", records), settings, clock=ManualClock(), budget=WeightedSemaphore(SMALL))


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 5 * SMALL])
async def test_every_size(storing: ContentStore, store: MemoryBlobStore, size: int, announced: bool) -> None:
    data = bytes(n % 251 for n in range(size))
    stored = await storing.stream(Source(data, announced=announced), PutRequest("staging/x"), Room())
    assert (stored.size_bytes, stored.duplicate) == (size, False)
    assert store.objects[blob_key(stored.sha256)].data == data
    assert (len(store.objects), store.open_uploads) == (1, {})
    again = await storing.stream(Source(data, announced=announced), PutRequest("staging/y"), Room())
    assert (again.duplicate, store.puts) == (True, 1)


@pytest.mark.parametrize("announced", [True, False])
async def test_large_content_waits_where_there_is_no_room(
    storing: ContentStore, store: MemoryBlobStore, announced: bool
) -> None:
    source = Source(bytes(2 * SMALL), announced=announced)
    with pytest.raises(NeedsLargeQueue):
        await storing.stream(source, PutRequest("staging/x"), Room(free=False))
    assert store.puts == 0
    small = await storing.stream(Source(bytes(SMALL)), PutRequest("staging/x"), Room(free=False))
    assert not small.duplicate


@pytest.mark.parametrize("size", [10, 5 * SMALL])
async def test_what_goes_wrong_leaves_nothing(storing: ContentStore, store: MemoryBlobStore, size: int) -> None:
    broken = Source(bytes(size), breaks=True)
    with pytest.raises(SourceUnavailable):
        await storing.stream(broken, PutRequest("staging/x"), Room())
    assert broken.closed
    with pytest.raises(ChecksumMismatch):
        await storing.stream(Source(bytes(size)), PutRequest("staging/x", checksum="md5:00"), Room())
    store.available = False
    with pytest.raises(DependencyUnavailable):
        await storing.stream(Source(bytes(size)), PutRequest("staging/x"), Room())
    assert (store.objects, store.open_uploads) == ({}, {})
    store.available = True
    # the budget was given back each time
    assert not (await storing.stream(Source(bytes(SMALL)), PutRequest("staging/x"), Room())).duplicate


@pytest.mark.parametrize("size", [10, 5 * SMALL])
async def test_content_that_is_being_removed_is_not_referred_to(
    storing: ContentStore, store: MemoryBlobStore, records: Records, size: int
) -> None:
    stored = await storing.stream(Source(bytes(size)), PutRequest("staging/x"), Room())
    records.leaving.add(stored.sha256)
    with pytest.raises(ContentBeingDeleted):
        await storing.stream(Source(bytes(size)), PutRequest("staging/x"), Room())
    assert store.open_uploads == {}


async def test_force_puts_again_and_mends_what_is_broken(storing: ContentStore, store: MemoryBlobStore) -> None:
    stored = await storing.stream(Source(b"right"), PutRequest("staging/x"), Room())
    key = blob_key(stored.sha256)
    store.put(key, b"broken!")
    assert (await storing.stream(Source(b"right"), PutRequest("staging/x"), Room())).duplicate
    assert store.objects[key].data == b"broken!"
    await storing.stream(Source(b"right"), PutRequest("staging/x", force=True), Room())
    assert store.objects[key].data == b"right"


async def test_verified_content_is_copied_without_being_read(storing: ContentStore, store: MemoryBlobStore) -> None:
    store.put("uploads/a", b"verified", checked=True)
    store.put("uploads/b", b"unverified")
    taken = await storing.verified(
        "uploads/a", await storing.head("uploads/a"), PutRequest("s", mime_type="text/plain")
    )
    assert taken is not None
    assert (taken.mime_type, store.objects[blob_key(taken.sha256)].data) == ("text/plain", b"verified")
    assert await storing.verified("uploads/b", await storing.head("uploads/b"), PutRequest("s")) is None
    md5 = PutRequest("s", checksum="md5:00")
    assert await storing.verified("uploads/a", await storing.head("uploads/a"), md5) is None
