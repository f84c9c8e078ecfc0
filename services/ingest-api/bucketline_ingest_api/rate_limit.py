"""Rate limits: a fixed window a key, counted in MongoDB, so that every replica sees the same count."""

from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.types import Scope

from bucketline.clock import Clock
from bucketline.db.mongo import Database
from bucketline.db.rate_limits import RateLimitCounters
from bucketline.errors import TooManyRequests
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.settings import ApiSettings


class RateLimiter:
    """Counts requests. Off while ``rate_limit`` is 0, but for keys that have a limit of their own."""

    def __init__(self, database: Database, settings: ApiSettings, *, clock: Clock) -> None:
        self._windows = RateLimitCounters(database)
        self._limit = settings.rate_limit
        self._seconds = settings.rate_window_seconds
        self._clock = clock

    async def admit(self, caller: Principal, scope: Scope) -> Mapping[str, str]:
        """Counts one request; the headers to answer with. :class:`TooManyRequests` above the limit."""
        limit = caller.rate_limit or self._limit
        if limit == 0:
            return {}
        now = self._clock.now()
        window = int(now.timestamp()) // self._seconds
        ends_at = datetime.fromtimestamp((window + 1) * self._seconds, UTC)
        used = await self._windows.count(caller.key_id, window, ends_at)
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - used)),
            "X-RateLimit-Reset": str(int(ends_at.timestamp())),
            "X-RateLimit-Window": str(self._seconds),
        }
        if used > limit:
            wait = max(1, int((ends_at - now).total_seconds()))
            raise TooManyRequests(
                "rate limit exceeded",
                details={
                    "api_name": f"{scope['method']} {scope['path']}",
                    "limit": limit,
                    "window": f"{self._seconds}s",
                    "retry_after": wait,
                    "retryable": True,
                    "retry_after_seconds": wait,
                },
                headers={**headers, "Retry-After": str(wait)},
            )
        return headers
