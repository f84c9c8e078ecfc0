"""Batches of as many objects as there may be in one, by ids and by filter; one more is refused, and says why."""

from datetime import timedelta
from typing import Any

import pytest
from pymongo import InsertOne
from tests.integration.ingest_api.conftest import Replica, World

pytestmark = pytest.mark.stack

MOST = 50_000


async def stored(world: World, replica: Replica) -> tuple[str, list[str]]:
    """The path of a bucket's batches, and the ids of its objects in the order of their creation: one too many."""
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    schema = {"properties": {"n": {"type": "integer"}}}
    bucket = await replica.make("/v1/buckets", {"bucket_name": "many", "bucket_schema": schema}, namespace="home")
    objects = world.database.collection("objects")
    ids = [replica.deps.ids.new("obj") for _ in range(MOST + 1)]
    now = world.clock.now()
    rows: list[dict[str, Any]] = [
        {
            "_id": object_id,
            "bucket_id": bucket["bucket_id"],
            "namespace_id": "ns_1",
            "custom": {"n": number},
            "status": "DRAFT",
            "created_at": now + timedelta(milliseconds=number),
        }
        for number, object_id in enumerate(ids)
    ]
    for start in range(0, len(rows), 10_000):
        await objects.bulk([InsertOne(row) for row in rows[start : start + 10_000]])
    return f"/v1/buckets/{bucket['bucket_id']}/batches", ids


async def test_batch_above_fifty_thousand_objects_is_rejected(world: World) -> None:
    replica = world.replica(body_bytes=4 << 20)
    path, ids = await stored(world, replica)

    named = await replica.make(path, {"object_ids": ids[:MOST]}, namespace="home")
    assert named["object_ids"] == ids[:MOST]
    refused = await replica.call("POST", path, {"object_ids": ids}, namespace="home")
    assert refused.status == 422
    [row] = refused.body["error"]["details"]["validation_errors"]
    assert row["location"] == ["body", "object_ids"]
    assert "50000" in row["message"]

    every = {"AND": [{"field": "n", "operator": "gte", "value": 0}]}
    refused = await replica.call("POST", path, {"filters": every}, namespace="home")
    assert (refused.status, refused.body["error"]["code"]) == (400, "batch_too_large")
    expected = "more than 50000 objects match the filters: set a limit, or narrow the filters"
    assert expected in refused.body["error"]["message"]
    found = await replica.make(path, {"filters": every, "limit": MOST}, namespace="home")
    assert found["object_ids"] == ids[:MOST], "the oldest"
    fewer = {"AND": [{"field": "n", "operator": "gte", "value": 1}]}
    assert (await replica.make(path, {"filters": fewer}, namespace="home"))["object_ids"] == ids[1:]
    assert (await replica.call("POST", path, {"filters": every, "limit": MOST + 1}, namespace="home")).status == 422

    grown = f"{path}/{named['batch_id']}"
    refused = await replica.call("POST", f"{grown}/objects", {"object_ids": ids[-1:]}, namespace="home")
    assert (refused.status, refused.body["error"]["code"]) == (400, "batch_too_large")
    task = await replica.make(f"{grown}/submit", None, namespace="home")
    assert task["additional_data"]["object_count"] == MOST
    listed = await replica.make(f"{path}/list", None, namespace="home")
    assert [len(row["object_ids"]) for row in listed["results"]] == [100, 100, 100], "a list stays a list"
