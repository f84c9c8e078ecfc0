"""The graph of collections: each reads buckets or other collections.

Collections are grouped in tiers: those that read a bucket, those that read these, and so on.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Literal, TypedDict, TypeVar

MAX_TIERS = 10
"""A collection that would be in a deeper tier is rejected."""

MAX_TIERS_FOLLOWED = 16
"""A walk ends here, even if collections form a cycle. More than :data:`MAX_TIERS`, so valid graphs are followed."""


class CollectionSource(TypedDict):
    """Names what a collection reads: either buckets or collections."""

    type: Literal["bucket", "collection"]
    bucket_ids: list[str]
    collection_ids: list[str]


class CollectionNode(TypedDict):
    """The fields of a stored collection that the graph consists of."""

    _id: str
    name: str
    source: CollectionSource


C = TypeVar("C", bound=CollectionNode)


async def walk_tiers(tier: Sequence[C], read_next: Callable[[list[C]], Awaitable[Sequence[C]]]) -> list[list[C]]:
    """Return ``tier`` and the tiers behind it, as ``read_next`` yields them; each collection once, where it is first.

    At most :data:`MAX_TIERS_FOLLOWED` tiers.
    """
    tiers: list[list[C]] = []
    seen: set[str] = set()
    while len(tiers) < MAX_TIERS_FOLLOWED:
        new = list({collection["_id"]: collection for collection in tier if collection["_id"] not in seen}.values())
        if not new:
            break
        seen |= {collection["_id"] for collection in new}
        tiers.append(new)
        tier = await read_next(new)
    return tiers


def topological_order(collections: Iterable[C]) -> list[C]:
    """Return the collections with each behind all of its sources, otherwise in the given order."""
    remaining = {collection["_id"]: collection for collection in collections}
    ordered: list[C] = []
    while remaining:
        ready = [c for c in remaining.values() if not remaining.keys() & set(c["source"]["collection_ids"])]
        # The API does not allow cycles; if there is one, it is cut so that the loop ends.
        ready = ready or list(remaining.values())[:1]
        ordered += ready
        for collection in ready:
            del remaining[collection["_id"]]
    return ordered


def ids_with_sources(collections: Iterable[C], selected: Collection[str]) -> set[str]:
    """Return the ids of the collections selected by id or name, and of those that feed them."""
    needed: set[str] = set()
    for collection in reversed(topological_order(collections)):
        if collection["_id"] in needed or not {collection["_id"], collection["name"]}.isdisjoint(selected):
            needed |= {collection["_id"], *collection["source"]["collection_ids"]}
    return needed


def select_tiers(tiers: Sequence[Sequence[C]], selected: Collection[str]) -> list[list[C]]:
    """Return the tiers with only the selected collections and those that feed them; no empty tiers."""
    needed = ids_with_sources((collection for tier in tiers for collection in tier), selected)
    remaining = ([collection for collection in tier if collection["_id"] in needed] for tier in tiers)
    return [tier for tier in remaining if tier]


def bucket_ids_of(tiers: Iterable[Iterable[C]]) -> list[str]:
    """Return the buckets that these collections read directly, each once, in the order of the tiers."""
    return list(dict.fromkeys(b for tier in tiers for c in tier for b in c["source"]["bucket_ids"]))


def depth(collections: Iterable[C]) -> int:
    """Return the number of collections on the longest path that ends in one of these."""
    depths: dict[str, int] = {}
    for collection in topological_order(collections):
        sources = (depths.get(source, 0) for source in collection["source"]["collection_ids"])
        depths[collection["_id"]] = 1 + max(sources, default=0)
    return max(depths.values(), default=0)
