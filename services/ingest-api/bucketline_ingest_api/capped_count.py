"""How many documents match, when there may be very many: exact up to a limit, above it at most some seconds old."""

from collections.abc import Mapping
from typing import Any

from cachetools import TTLCache

from bucketline.db.mongo import Collection

EXACT = 20_000
LIFETIME = 10.0


class CappedCounter:
    """Counts along an index. ``key`` names what is counted, for the memory of large results."""

    def __init__(self) -> None:
        self._large: TTLCache[str, int] = TTLCache(10_000, LIFETIME)

    async def count(self, collection: Collection[Any], where: Mapping[str, object], *, key: str) -> int:
        count = await collection.count(where, limit=EXACT + 1)
        if count <= EXACT:
            return count
        known = self._large.get(key)
        if known is None:
            known = self._large[key] = await collection.count(where)
        return known
