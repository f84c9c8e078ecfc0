"""Which collections an object goes through, tier by tier."""

from cachetools import TTLCache

from bucketline.storage.collections import CollectionDocument, Collections

MOST_TIERS = 16
CACHE_SECONDS = 2.0

Tiers = tuple[tuple[CollectionDocument, ...], ...]


class Plans:
    """Tiers of a bucket: first the collections that read it, then those that read them, and so on."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._cache: TTLCache[str, Tiers] = TTLCache(10_000, CACHE_SECONDS)

    async def tiers(self, bucket_id: str, only: list[str] | None) -> Tiers:
        """The tiers, restricted to the collections named in ``only`` and those that these need to be fed."""
        found = self._cache.get(bucket_id)
        if found is None:
            found = await self._read(bucket_id)
            self._cache[bucket_id] = found
        return found if only is None else _restricted(found, set(only))

    async def _read(self, bucket_id: str) -> Tiers:
        tiers: list[tuple[CollectionDocument, ...]] = []
        seen: set[str] = set()
        tier = await self._collections.reading_bucket(bucket_id)
        while tier and len(tiers) < MOST_TIERS:
            fresh = [collection for collection in tier if collection["_id"] not in seen]
            seen |= {collection["_id"] for collection in fresh}
            if fresh:
                tiers.append(tuple(fresh))
            tier = await self._collections.reading_collections([c["_id"] for c in fresh]) if fresh else []
        return tuple(tiers)


def _restricted(tiers: Tiers, wanted: set[str]) -> Tiers:
    needed = set(wanted)
    for tier in reversed(tiers):
        for collection in tier:
            if collection["_id"] in needed:
                needed |= set(collection["source"]["collection_ids"])
    kept = (tuple(c for c in tier if c["_id"] in needed) for tier in tiers)
    return tuple(tier for tier in kept if tier)
