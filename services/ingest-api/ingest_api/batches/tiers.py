"""The collections a batch's objects go through, tier by tier: what the processor does, as far as it can be told."""

from bucketline.storage.collections import CollectionDocument
from ingest_api.deps import Deps


async def tiers_of(deps: Deps, bucket_id: str, only: list[str] | None) -> list[list[CollectionDocument]]:
    """First the collections that read the bucket, then those that read them, restricted to ``only`` if given."""
    tiers: list[list[CollectionDocument]] = []
    seen: set[str] = set()
    tier = await deps.collections.reading_bucket(bucket_id)
    while fresh := [collection for collection in tier if collection["_id"] not in seen]:
        seen |= {collection["_id"] for collection in fresh}
        tiers.append(fresh)
        tier = await deps.collections.reading_collections([collection["_id"] for collection in fresh])
    if only is None:
        return tiers
    kept = [[c for c in one if c["_id"] in only or c["name"] in only] for one in tiers]
    return [one for one in kept if one]
