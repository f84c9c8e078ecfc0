"""The collections a batch's objects go through, tier by tier: what the processor does, as far as it can be told."""

from bucketline.db.collections import CollectionDocument
from bucketline.domain.collection_depth import TIERS_FOLLOWED
from bucketline_ingest_api.container import Container

Tiers = list[list[CollectionDocument]]


async def tiers_of(deps: Container, bucket_id: str, only: list[str] | None) -> Tiers:
    """First the collections that read the bucket, then those that read them, and so on.

    Restricted to ``only`` if given, and to what these need to be fed.
    """
    tiers: Tiers = []
    seen: set[str] = set()
    tier = await deps.collections.reading_bucket(bucket_id)
    while len(tiers) < TIERS_FOLLOWED and (fresh := [found for found in tier if found["_id"] not in seen]):
        seen |= {collection["_id"] for collection in fresh}
        tiers.append(fresh)
        tier = await deps.collections.reading_collections([collection["_id"] for collection in fresh])
    return tiers if only is None else restricted(tiers, only)


def restricted(tiers: Tiers, only: list[str]) -> Tiers:
    """The collections named in ``only``, and those that feed them."""
    needed = set(only)
    for tier in reversed(tiers):
        for collection in tier:
            if collection["_id"] in needed:
                needed |= set(collection["source"]["collection_ids"])
    kept = ([collection for collection in tier if collection["_id"] in needed] for tier in tiers)
    return [tier for tier in kept if tier]


async def reads_bucket(deps: Container, collection: CollectionDocument, bucket_id: str) -> bool:
    """Whether objects of the bucket reach the collection, directly or through others."""
    return bucket_id in await source_buckets(deps, collection)


async def source_buckets(deps: Container, collection: CollectionDocument) -> list[str]:
    """The buckets that the collection reads, directly or through other collections."""
    found: dict[str, None] = dict.fromkeys(collection["source"]["bucket_ids"])
    seen: set[str] = {collection["_id"]}
    parents = set(collection["source"]["collection_ids"]) - seen
    for _ in range(TIERS_FOLLOWED):
        if not parents:
            break
        seen |= parents
        rows = await deps.collections.collection.find({"_id": {"$in": sorted(parents)}}, limit=len(parents))
        parents = set()
        for row in rows:
            found |= dict.fromkeys(row["source"]["bucket_ids"])
            parents |= {str(parent) for parent in row["source"]["collection_ids"]} - seen
    return list(found)
