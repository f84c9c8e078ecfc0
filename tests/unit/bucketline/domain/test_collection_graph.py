"""Walking and ordering the graph of collections."""

import random

import pytest

from bucketline.domain.collection_graph import (
    MAX_TIERS_FOLLOWED,
    CollectionNode,
    bucket_ids_of,
    depth,
    ids_with_sources,
    select_tiers,
    topological_order,
    walk_tiers,
)


def node(identifier: str, *sources: str, buckets: tuple[str, ...] = ()) -> CollectionNode:
    kind = "collection" if sources else "bucket"
    return {
        "_id": identifier,
        "name": f"name of {identifier}",
        "source": {"type": kind, "bucket_ids": list(buckets), "collection_ids": list(sources)},  # type: ignore[typeddict-item]  # one of the two
    }


def ids(tiers: list[list[CollectionNode]]) -> list[list[str]]:
    return [[collection["_id"] for collection in tier] for tier in tiers]


DIAMOND = [node("a"), node("b", "a"), node("c", "a", "b"), node("d", "c"), node("e")]


async def tiers_of(collections: list[CollectionNode], *first: str) -> list[list[CollectionNode]]:
    async def readers(tier: list[CollectionNode]) -> list[CollectionNode]:
        reached = {collection["_id"] for collection in tier}
        return [c for c in collections if reached & set(c["source"]["collection_ids"])]

    return await walk_tiers([c for c in collections if c["_id"] in first], readers)


@pytest.mark.parametrize(
    ("first", "expected"),
    [(("a",), [["a"], ["b", "c"], ["d"]]), (("a", "e"), [["a", "e"], ["b", "c"], ["d"]]), (("d",), [["d"]]), ((), [])],
)
async def test_walk_tiers_visits_each_collection_once(first: tuple[str, ...], expected: list[list[str]]) -> None:
    assert ids(await tiers_of(DIAMOND, *first)) == expected


async def test_walk_tiers_of_a_cycle_ends() -> None:
    cycle = [node("a", "c"), node("b", "a"), node("c", "b")]
    assert ids(await tiers_of(cycle, "a")) == [["a"], ["b"], ["c"]]


async def test_walk_tiers_of_a_long_chain_stops_at_the_limit() -> None:
    chain = [node("0"), *(node(str(number), str(number - 1)) for number in range(1, 30))]
    assert len(await tiers_of(chain, "0")) == MAX_TIERS_FOLLOWED


@pytest.mark.parametrize("seed", range(20))
def test_topological_order_of_a_shuffled_graph_puts_sources_first(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - not for cryptography
    collections = [node(str(n), *(str(m) for m in range(n) if rng.random() < 0.3)) for n in range(12)]
    rng.shuffle(collections)
    order = [collection["_id"] for collection in topological_order(collections)]
    assert sorted(order) == sorted(collection["_id"] for collection in collections)
    for collection in collections:
        for source in collection["source"]["collection_ids"]:
            assert order.index(source) < order.index(collection["_id"])


def test_topological_order_of_a_cycle_has_every_collection() -> None:
    order = topological_order([node("a", "b"), node("b", "a"), node("c")])
    assert sorted(collection["_id"] for collection in order) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        (["b"], "ab"),
        (["name of b"], "ab"),
        (["d"], "abcd"),
        (["e"], "e"),
        (["a", "e"], "ae"),
        (["unknown"], ""),
        ([], ""),
    ],
)
def test_ids_with_sources_includes_upstream_collections(selected: list[str], expected: str) -> None:
    assert ids_with_sources(reversed(DIAMOND), selected) == set(expected)


def test_select_tiers_keeps_a_source_behind_its_reader_in_the_same_tier() -> None:
    tiers = [[node("a"), node("x")], [node("c", "a", "b"), node("b", "a"), node("y", "x")]]
    assert ids(select_tiers(tiers, ["c"])) == [["a"], ["c", "b"]]
    assert select_tiers(tiers, []) == []


def test_bucket_ids_of_tiers_are_unique_and_ordered() -> None:
    tiers = [[node("a", "b")], [node("b", buckets=("2", "1")), node("c", buckets=("1", "3"))]]
    assert bucket_ids_of(tiers) == ["2", "1", "3"]


def test_depth_is_the_longest_path() -> None:
    assert depth(DIAMOND) == 4
    assert depth([node("a")]) == 1
    assert depth([]) == 0
