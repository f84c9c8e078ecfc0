"""Concurrent creation of blob records."""

import asyncio
import hashlib
from datetime import UTC, datetime

import pytest

from bucketline.db.blobs import Blobs, NewContent
from bucketline.db.mongo import Database

pytestmark = pytest.mark.stack


async def test_concurrent_first_records_all_succeed(database: Database) -> None:
    blobs = Blobs(database)
    now = datetime.now(UTC)
    for number in range(20):
        content = NewContent(hashlib.sha256(b"%d" % number).hexdigest(), 3, "text/plain")
        leaving = await asyncio.gather(*(blobs.record([content], now) for _ in range(16)))
        assert not any(leaving), "nobody removes this content; whoever comes second finds the record"
    assert await blobs.collection.count({"state": "live"}) == 20
