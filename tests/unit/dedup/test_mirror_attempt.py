"""Turns of objects whose content a store of ours cannot take now."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pymongo import UpdateOne

from bucketline.clock import ManualClock
from bucketline.db.blobs import Blobs
from bucketline.db.objects import BlobDocument, ObjectDocument, Objects
from bucketline.errors import DependencyUnavailable
from bucketline.kafka.dead_letters import KafkaDeadLetters
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import LargeTransferSlot
from bucketline_dedup.mirror_attempt import MAX_STORE_PAUSE, STORE_PAUSE, MirrorAttempts
from bucketline_dedup.mirror_blob import BlobMirror
from bucketline_dedup.outcomes import MirrorOutcomes
from bucketline_dedup.settings import DedupSettings

CLOCK = ManualClock()


class Collection:
    """Keeps the last update."""

    def __init__(self) -> None:
        self.changes: dict[str, Any] = {}

    async def bulk(self, updates: Sequence[UpdateOne]) -> None:
        (update,) = updates
        self.changes = cast("Any", update)._doc["$set"]


class BlobsMirror:
    """Stores every blob but those named ``bad``."""

    async def mirror(
        self, _obj: ObjectDocument, blob: BlobDocument, _turn: str, _room: LargeTransferSlot
    ) -> BlobDocument:
        if blob["property"] == "bad":
            raise DependencyUnavailable("S3 did not confirm the write: InternalError")
        return {**blob, "state": "stored"}


async def postponed(times: int) -> dict[str, Any]:
    """What is written after a turn of an object that was put back ``times`` before."""
    collection = Collection()
    turns = MirrorAttempts(
        cast("ServiceContext", SimpleNamespace(clock=CLOCK)),
        cast("Objects", SimpleNamespace(collection=collection)),
        cast("BlobMirror", BlobsMirror()),
        cast("Blobs", None),
        cast("MirrorOutcomes", None),
        cast("KafkaDeadLetters", None),
        DedupSettings(max_attempts=1),
        draw=lambda: 1.0,
    )
    mirror = {"state": "pending", "attempts": 0, "claim": "req_1"} | ({"postponed": times} if times else {})
    blobs = [{"blob_id": name, "property": name, "state": "pending"} for name in ("good", "bad")]
    obj = {"_id": "obj_1", "blobs_revision": 1, "mirror": mirror, "blobs": blobs}
    await turns.take(cast("ObjectDocument", cast("Any", obj)), cast("LargeTransferSlot", None))
    return collection.changes


@pytest.mark.parametrize(("times", "seconds"), [(0, STORE_PAUSE), (1, 10), (2, 20), (4, MAX_STORE_PAUSE), (10**6, 60)])
async def test_turn_without_store_postpones_the_object_with_stored_backoff(times: int, seconds: float) -> None:
    changes = await postponed(times)
    due: datetime = changes["mirror.due_at"]
    assert due - CLOCK.now() == timedelta(seconds=seconds)
    assert changes["mirror.postponed"] == times + 1
    assert "mirror.attempts" not in changes, "an absent store uses up no attempt"


async def test_turn_without_store_keeps_the_blobs_that_were_stored() -> None:
    assert [blob["state"] for blob in (await postponed(0))["blobs"]] == ["stored", "pending"]
