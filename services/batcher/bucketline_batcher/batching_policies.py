"""Which buckets group their drafts by themselves, and when a window of theirs is full."""

from collections.abc import Sequence
from typing import cast

from cachetools import TTLCache

from bucketline.db.buckets import Batching, BucketDocument, Buckets
from bucketline.db.mongo import Database
from bucketline_batcher.settings import BatcherSettings

CACHE_SECONDS = 2.0


class BatchingPolicies:
    """Batching policies, at most ``CACHE_SECONDS`` old."""

    def __init__(self, database: Database, settings: BatcherSettings) -> None:
        self._buckets = Buckets(database)
        self._default = default_policy(settings)
        self._cache: TTLCache[str, Batching | None] = TTLCache(10_000, CACHE_SECONDS)

    async def of(self, bucket_ids: Sequence[str]) -> dict[str, Batching]:
        """The policies of those buckets that have one."""
        found = {bucket_id: self._cache[bucket_id] for bucket_id in bucket_ids if bucket_id in self._cache}
        wanted = [bucket_id for bucket_id in bucket_ids if bucket_id not in found]
        if wanted:
            rows = await self._buckets.many(wanted, fields=["settings", "deleting"])
            read = dict.fromkeys(wanted) | {key: policy_of(row, self._default) for key, row in rows.items()}
            self._cache.update(read)
            found |= read
        return {bucket_id: policy for bucket_id, policy in found.items() if policy is not None}

    async def buckets_after(self, bucket_id: str, *, limit: int) -> list[str]:
        """Ids of buckets that may have a policy, in order, behind ``bucket_id``."""
        return await self._buckets.ids_after(bucket_id, with_batching=self._default is None, limit=limit)


def default_policy(settings: BatcherSettings) -> Batching | None:
    """What holds for buckets without a policy of their own; None unless the settings switch it on."""
    if not settings.window_enabled:
        return None
    return {
        "max_objects": settings.window_max_objects,
        "max_bytes": settings.window_max_bytes,
        "max_wait_seconds": settings.window_max_seconds,
    }


def policy_of(bucket: BucketDocument, default: Batching | None) -> Batching | None:
    """The bucket's own policy, else the deployment's; None while the bucket is being deleted."""
    if bucket.get("deleting"):
        return None
    own = bucket["settings"].get("batching")
    return cast("Batching", own) if isinstance(own, dict) else default
