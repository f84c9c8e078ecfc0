"""Rate limit counters: the number of requests per API key and window."""

from datetime import datetime
from typing import TypedDict

from bucketline.db.mongo import Collection, Database, DuplicateKey, Index


class RateLimitDocument(TypedDict):
    """``_id`` is ``<key id>:<window number>``; removed after the window's end."""

    _id: str
    count: int
    ends_at: datetime


INDEXES = (Index("expiry", [("ends_at", 1)], expire_after_seconds=60),)


class RateLimitCounters:
    """The repository of rate limit counters."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[RateLimitDocument] = database.collection("rate_limits")

    async def count(self, key_id: str, window: int, ends_at: datetime) -> int:
        """Count one request and return the number of requests in this window, over all replicas."""
        where = {"_id": f"{key_id}:{window}"}
        update = {"$inc": {"count": 1}, "$setOnInsert": {"ends_at": ends_at}}
        try:
            counted = await self.collection.find_and_update(where, update, upsert=True)
        except DuplicateKey:
            # Another replica created the counter at the same time.
            counted = await self.collection.find_and_update(where, update)
        return counted["count"] if counted else 1
