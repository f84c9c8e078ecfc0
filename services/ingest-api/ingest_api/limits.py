"""Rate limits: a fixed window a key, counted in MongoDB, so that every replica sees the same count."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypedDict

from starlette.types import Scope

from bucketline.clock import Clock
from bucketline.errors import TooManyRequests
from bucketline.storage.mongo import Collection, Database, Index
from ingest_api.keys import Caller
from ingest_api.settings import ApiSettings


class WindowDocument(TypedDict):
    """Requests of one key in one window; removed by a TTL index after the window's end."""

    _id: str
    count: int
    ends_at: datetime


class Limiter:
    """Counts requests. Off while ``rate_limit`` is 0."""

    INDEXES = (Index("expiry", [("ends_at", 1)], expire_after_seconds=60),)

    def __init__(self, database: Database, settings: ApiSettings, *, clock: Clock) -> None:
        self._windows: Collection[WindowDocument] = database.collection("rate_windows")
        self._limit = settings.rate_limit
        self._seconds = settings.rate_window_seconds
        self._clock = clock

    async def admit(self, caller: Caller, scope: Scope) -> Mapping[str, str]:
        """Counts one request; the headers to answer with. :class:`TooManyRequests` above the limit."""
        if self._limit == 0:
            return {}
        now = self._clock.now()
        window = int(now.timestamp()) // self._seconds
        ends_at = datetime.fromtimestamp((window + 1) * self._seconds, UTC)
        counted = await self._windows.find_and_update(
            {"_id": f"{caller.key_id}:{window}"},
            {"$inc": {"count": 1}, "$setOnInsert": {"ends_at": ends_at + timedelta(seconds=self._seconds)}},
            upsert=True,
        )
        used = counted["count"] if counted else 1
        headers = {
            "X-RateLimit-Limit": str(self._limit),
            "X-RateLimit-Remaining": str(max(0, self._limit - used)),
            "X-RateLimit-Reset": str(int(ends_at.timestamp())),
            "X-RateLimit-Window": str(self._seconds),
        }
        if used > self._limit:
            wait = max(1, int((ends_at - now).total_seconds()))
            raise TooManyRequests(
                "rate limit exceeded",
                details={
                    "api_name": f"{scope['method']} {scope['path']}",
                    "limit": self._limit,
                    "window": f"{self._seconds}s",
                    "retry_after": wait,
                    "retryable": True,
                    "retry_after_seconds": wait,
                },
                headers={**headers, "Retry-After": str(wait)},
            )
        return headers
