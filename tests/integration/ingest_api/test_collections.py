"""How many collections may read one source, whoever makes them at the same moment."""

import asyncio
from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Answer, Replica, World

from bucketline.db import collections as stored
from bucketline_ingest_api.collections import create

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
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stored, create):
        monkeypatch.setattr(module, "MAX_COLLECTIONS_A_SOURCE", 3)


async def test_a_source_that_all_read_who_may_is_named(replica: Replica) -> None:
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


async def test_those_who_come_at_once_are_not_more_than_may_read(world: World) -> None:
    replicas = [world.replica() for _ in range(2)]
    await replicas[0].make("/v1/namespaces", {"namespace_name": "demo"})
    found = await bucket(replicas[0], "full")
    answers = await asyncio.gather(
        *(collection(replicas[number % 2], f"col-{number}", reads(found)) for number in range(8))
    )
    kept = [answer.body["collection_id"] for answer in answers if answer.status == 200]
    there = await replicas[0].deps.collections.reading_bucket(found)
    count = await replicas[0].deps.collections.collection.count({})
    assert sorted(kept) == sorted(row["_id"] for row in there)
    assert len(kept) == count <= 3


async def test_a_tier_has_all_that_read_any_of_the_tier_above(replica: Replica) -> None:
    await replica.make("/v1/namespaces", {"namespace_name": "demo"})
    found = await bucket(replica, "b")
    parents = [(await collection(replica, f"parent-{n}", reads(found))).body["collection_id"] for n in range(2)]
    for number in range(6):
        source = {"type": "collection", "collection_ids": [parents[number % 2]]}
        assert (await collection(replica, f"reader-{number}", source)).status == 200
    assert len(await replica.deps.collections.reading_collections(parents)) == 6
    refused = await collection(replica, "reader-7", {"type": "collection", "collection_id": parents[0]})
    assert refused.body["error"]["details"] == {"limit": 3, "collection_ids": [parents[0]]}
