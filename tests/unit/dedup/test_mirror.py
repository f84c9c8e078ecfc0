"""Attempts of objects whose content our own store cannot take now."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bucketline.clock import ManualClock
from bucketline.db.blobs import Blobs
from bucketline.db.mirror_queue import MirrorQueue
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.errors import DependencyUnavailable
from bucketline.kafka.dead_letters import KafkaDeadLetters
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import ContentStore, LargeTransferSlot
from bucketline_dedup.mirror import INITIAL_STORE_BACKOFF, MAX_STORE_BACKOFF, ObjectMirror
from bucketline_dedup.outcomes import MirrorOutcomes
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import SourceOpener

CLOCK = ManualClock()


class Queue:
    """Keeps the last reschedule."""

    def __init__(self) -> None:
        self.changes: dict[str, Any] = {}

    async def reschedule(self, _obj: ObjectDocument, **changes: Any) -> None:
        self.changes = changes


class Mirror(ObjectMirror):
    """Stores every blob but those named ``bad``."""

    async def mirror_blob(self, _obj: Any, blob: BlobDocument, *_: Any) -> BlobDocument:
        if blob["property"] == "bad":
            raise DependencyUnavailable("S3 did not confirm the write: InternalError")
        return {**blob, "state": "stored"}


async def attempt(postponed: int) -> dict[str, Any]:
    """Run an attempt of an object that was postponed before; return what is rescheduled."""
    queue = Queue()
    attempts = Mirror(
        cast("ServiceContext", SimpleNamespace(clock=CLOCK)),
        cast("MirrorQueue", queue),
        cast("ContentStore", None),
        cast("SourceOpener", None),
        cast("Blobs", None),
        cast("MirrorOutcomes", None),
        cast("KafkaDeadLetters", None),
        DedupSettings(max_attempts=1),
        draw=lambda: 1.0,
    )
    mirror = {"state": "pending", "attempts": 0, "claim": "req_1"} | ({"postponed": postponed} if postponed else {})
    blobs = [{"blob_id": name, "property": name, "state": "pending"} for name in ("good", "bad")]
    obj = {"_id": "obj_1", "blobs_revision": 1, "mirror": mirror, "blobs": blobs}
    await attempts.run(cast("ObjectDocument", cast("Any", obj)), cast("LargeTransferSlot", None))
    return queue.changes


@pytest.mark.parametrize(
    ("postponed", "seconds"),
    [(0, INITIAL_STORE_BACKOFF), (1, 10), (2, 20), (4, MAX_STORE_BACKOFF), (10**6, 60)],
)
async def test_attempt_without_store_postpones_the_object_with_backoff(postponed: int, seconds: float) -> None:
    changes = await attempt(postponed)
    due: datetime = changes["due_at"]
    assert due - CLOCK.now() == timedelta(seconds=seconds)
    assert changes["mirror"] == {"postponed": postponed + 1}, "an unavailable store uses up no attempt"


async def test_attempt_without_store_keeps_the_blobs_that_were_stored() -> None:
    assert [blob["state"] for blob in (await attempt(0))["blobs"]] == ["stored", "pending"]
