"""Concurrent creates share a write, and each caller learns its own fate."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from bucketline.clock import ManualClock
from bucketline.db.batches import Batches
from bucketline.db.objects import ObjectDocument, Objects
from bucketline.errors import DependencyUnavailable
from bucketline_ingest_api.objects.bulk_writer import ObjectBulkWriter

CLOCK = ManualClock()


class Store:
    """Refuses every document named ``taken``; ``away`` makes it fail."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.away = False

    async def insert(self, documents: Sequence[ObjectDocument]) -> Mapping[int, str]:
        await asyncio.sleep(0)
        if self.away:
            raise DependencyUnavailable("away")
        self.groups.append(len(documents))
        return {place: "unique_key" for place, document in enumerate(documents) if document["_id"] == "taken"}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def writes(store: Store) -> ObjectBulkWriter:
    return ObjectBulkWriter(cast("Objects", store), cast("Batches", store), CLOCK)


def document(name: str) -> ObjectDocument:
    return cast("ObjectDocument", cast("Any", {"_id": name}))


async def test_each_caller_gets_its_own_result(writes: ObjectBulkWriter, store: Store) -> None:
    names = ["a", "taken", "b", "c", "taken"]
    results = await asyncio.gather(*(writes.insert(document(name)) for name in names))
    assert results == [None, "unique_key", None, None, "unique_key"]
    assert sum(store.groups) == 5
    assert len(store.groups) < 5, "nothing was shared"


async def test_a_store_that_is_away_is_told_to_all_of_a_group(writes: ObjectBulkWriter, store: Store) -> None:
    store.away = True
    results = await asyncio.gather(*(writes.insert(document("a")) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [DependencyUnavailable] * 3
    store.away = False
    assert await writes.insert(document("a")) is None


async def test_close_waits_for_what_was_submitted(writes: ObjectBulkWriter, store: Store) -> None:
    pending = [asyncio.ensure_future(writes.insert(document(str(n)))) for n in range(4)]
    await asyncio.sleep(0)
    await writes.close()
    assert sum(store.groups) == 4
    assert await asyncio.gather(*pending) == [None] * 4


async def test_insert_after_waiting_sets_pending_since_to_the_time_of_the_write(writes: ObjectBulkWriter) -> None:
    new = document("a")
    new["pending"] = []
    new["pending_since"] = CLOCK.now()
    CLOCK.advance(10)
    await writes.insert(new)
    assert new["pending_since"] == CLOCK.now()
