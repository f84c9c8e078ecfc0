"""Inline content in micro-batches: a key that S3 cannot write delays only its own objects."""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import pytest
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.blobs.store import BlobStoreError
from bucketline.clock import ManualClock
from bucketline.db.blobs import Blobs, Claimed, NewContent, blob_key
from bucketline.db.objects import ObjectDocument
from bucketline.errors import DependencyUnavailable
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_dedup import service
from bucketline_dedup.content_store import ContentStore
from bucketline_dedup.service import InlineMirror
from bucketline_dedup.settings import DedupSettings


def key_of(text: str) -> str:
    return blob_key(hashlib.sha256(text.encode()).hexdigest())


class Store(MemoryBlobStore):
    """Raises ``error`` for keys in ``refused``, or hangs there if it is None."""

    def __init__(self, *refused: str, error: Exception | None) -> None:
        super().__init__()
        self.refused = {key_of(text) for text in refused}
        self.error = error

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        if key in self.refused:
            if self.error is None:
                await asyncio.Event().wait()
            else:
                raise self.error
        return await super().put_if_absent(key, data, sha256=sha256, content_type=content_type)


class Records:
    """Knows no content in advance."""

    async def claim(self, _hashes: Sequence[str], _now: datetime) -> Claimed:
        return Claimed({}, frozenset())

    async def record(self, _contents: Sequence[NewContent], _now: datetime) -> frozenset[str]:
        return frozenset()


def mirror_into(store: MemoryBlobStore) -> InlineMirror:
    clock, settings, records = ManualClock(), DedupSettings(), cast("Blobs", Records())
    contents = ContentStore(store, records, settings, clock=clock, budget=WeightedSemaphore(1))
    return InlineMirror(store, contents, records, settings, clock=clock)


def obj(name: str, *texts: str) -> ObjectDocument:
    blobs: list[dict[str, Any]] = [
        {
            "blob_id": f"{name}{place}",
            "property": f"p{place}",
            "source": {"kind": "text", "text": text},
            "canonicalize": True,
            "force": False,
            "checksum": None,
            "details": None,
            "storage": None,
            "state": "pending",
            "error": None,
        }
        for place, text in enumerate(texts)
    ]
    return cast(
        "ObjectDocument", cast("Any", {"_id": name, "blobs": blobs, "mirror": {"state": "pending", "attempts": 0}})
    )


UNAVAILABLE = DependencyUnavailable("S3 did not confirm the write: InternalError")
FAULTS = [UNAVAILABLE, BlobStoreError("S3 refused the request"), None]
IDS = ["5xx", "refused", "hanging"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PUT_TIMEOUT_SECONDS", 0.05)


@pytest.mark.parametrize("error", FAULTS, ids=IDS)
async def test_mirror_with_one_refused_key_delays_only_its_objects(error: Exception | None) -> None:
    store = Store("bad", error=error)
    objects = [obj("a", "one"), obj("b", "bad"), obj("c", "two", "three"), obj("d", "four", "bad"), obj("e", "one")]
    done, blocked = await mirror_into(store).mirror(objects)
    assert [row["_id"] for row in done] == ["a", "c", "e"]
    assert [row["_id"] for row in blocked] == ["b", "d"]
    assert {row["mirror"]["state"] for row in done} == {"done"}
    assert all(blob["state"] == "pending" for row in blocked for blob in row["blobs"])
    assert set(store.objects) == {key_of(text) for text in ("one", "two", "three", "four")}


@pytest.mark.parametrize("error", FAULTS, ids=IDS)
async def test_mirror_with_only_refused_keys_does_not_hold_up_the_consumer(error: Exception | None) -> None:
    done, blocked = await mirror_into(Store("bad", error=error)).mirror([obj("a", "bad")])
    assert (done, [row["_id"] for row in blocked]) == ([], ["a"])


async def test_mirror_while_the_store_is_away_raises() -> None:
    store = Store(error=UNAVAILABLE)
    store.available = False
    with pytest.raises(DependencyUnavailable):
        await mirror_into(store).mirror([obj("a", "one"), obj("b", "two")])


async def test_mirror_without_new_content_does_not_ask_the_store() -> None:
    store = Store(error=UNAVAILABLE)
    store.available = False
    done, blocked = await mirror_into(store).mirror([obj("a")])
    assert ([row["_id"] for row in done], blocked) == (["a"], [])
