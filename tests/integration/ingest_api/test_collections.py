"""The limit on collections that read one source, also under concurrent requests, and the limit on tiers."""

import asyncio
from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Answer, Replica, World

from bucketline.db import collections as stored
from bucketline.domain.collection_graph import MAX_TIERS
from bucketline_ingest_api.collections import service

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"name": {"type": "string"}}}


async def bucket(replica: Replica, name: str) -> str:
    made = await replica.make("/v1/buckets", {"bucket_name": name, "bucket_schema": SCHEMA}, namespace="demo")
    return str(made["bucket_id"])


async def collection(replica: Replica, name: str, source: dict[str, Any], *, enabled: bool = True) -> Answer:
    extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}
    body = {"collection_name": name, "source": source, "feature_extractor": extractor, "enabled": enabled}
    return await replica.call("POST", "/v1/collections", body, namespace="demo")


def reads(*bucket_ids: str) -> dict[str, Any]:
    return {"type": "bucket", "bucket_ids": list(bucket_ids)}


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stored, service):
        monkeypatch.setattr(module, "MAX_COLLECTIONS_PER_SOURCE", 3)


async def test_create_above_the_limit_of_a_source_names_the_source(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    full, other = await bucket(replica, "full"), await bucket(replica, "other")
    for number in range(3):
        assert (await collection(replica, f"col-{number}", reads(full), enabled=number > 0)).status == 200
    refused = await collection(replica, "col-3", reads(other, full))
    assert refused.status == 400
    assert refused.body["error"]["code"] == "too_many_collections"
    assert refused.body["error"]["details"] == {"limit": 3, "bucket_ids": [full]}
    assert (await collection(replica, "col-3", reads(other))).status == 200
    assert (await replica.call("DELETE", "/v1/collections/col-1", namespace="demo")).status == 200
    assert (await collection(replica, "col-1", reads(full))).status == 200


async def test_concurrent_creates_do_not_exceed_the_limit(world: World) -> None:
    replicas = [world.replica() for _ in range(2)]
    await replicas[0].make("/v1/namespaces", {"namespace_name": "demo"})
    source = await bucket(replicas[0], "full")
    answers = await asyncio.gather(
        *(collection(replicas[number % 2], f"col-{number}", reads(source)) for number in range(8))
    )
    created = [answer.body["collection_id"] for answer in answers if answer.status == 200]
    readers = await replicas[0].deps.collections.reading_bucket(source)
    count = await replicas[0].deps.collections.collection.count({})
    assert sorted(created) == sorted(row["_id"] for row in readers)
    assert len(created) == count <= 3


async def test_a_tier_has_every_reader_of_the_tier_above(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    source = await bucket(replica, "b")
    parents = [(await collection(replica, f"parent-{n}", reads(source))).body["collection_id"] for n in range(2)]
    for number in range(6):
        config = {"type": "collection", "collection_ids": [parents[number % 2]]}
        assert (await collection(replica, f"reader-{number}", config)).status == 200
    assert [len(tier) for tier in await replica.deps.collections.tiers_of_bucket(source)] == [2, 6]
    refused = await collection(replica, "reader-7", {"type": "collection", "collection_id": parents[0]})
    assert refused.body["error"]["details"] == {"limit": 3, "collection_ids": [parents[0]]}


async def test_create_below_the_deepest_tier_returns_422(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    first = await collection(replica, "tier-1", reads(await bucket(replica, "b")))
    names = ["tier-1"]
    assert first.status == 200
    for number in range(2, MAX_TIERS + 1):
        # A second source makes the shortest path to the bucket shorter than the longest, which is what counts.
        sources = {"type": "collection", "collection_ids": [names[-1], names[len(names) // 2]]}
        assert (await collection(replica, f"tier-{number}", sources)).status == 200
        names.append(f"tier-{number}")
    refused = await collection(replica, "too-deep", {"type": "collection", "collection_id": names[-1]})
    assert refused.status == 422
    assert "10 tiers" in str(refused.body["error"])
