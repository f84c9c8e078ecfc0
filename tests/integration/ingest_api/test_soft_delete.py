"""Soft deletes: for clients deletions as any other; the record stays for an operator."""

from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica, World

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"sku": {"type": "string"}}}
REASON = "$sent twice"


async def bucket(replica: Replica, name: str = "b", **more: object) -> str:
    await replica.call("POST", "/v1/namespaces", {"namespace_name": "home"})
    body = {"bucket_name": name, "bucket_schema": SCHEMA, **more}
    return f"/v1/buckets/{(await replica.make('/v1/buckets', body, namespace='home'))['bucket_id']}"


async def objects(replica: Replica, path: str, count: int) -> list[str]:
    bodies = [{"sku": f"A-{number}"} for number in range(count)]
    made = await replica.make(f"{path}/objects/batch", {"objects": bodies}, namespace="home")
    return [row["object_id"] for row in made["succeeded"]]


async def test_soft_delete_removes_publishes_and_keeps_the_record(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bucketline_ingest_api.objects.deletion.PAGE_SIZE", 2)
    path = await bucket(replica)
    source = {"type": "bucket", "bucket_ids": [path.rpartition("/")[2]]}
    extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}
    collection = {"collection_name": "docs", "source": source, "feature_extractor": extractor}
    await replica.make("/v1/collections", collection, namespace="home")
    ids = await objects(replica, path, 6)
    [foreign] = await objects(replica, await bucket(replica, "other"), 1)
    asked = [*ids[:5], ids[0], foreign, "obj_unknown"]
    answer = await replica.make(
        f"{path}/objects/bulk-soft-delete", {"object_ids": asked, "reason": REASON}, namespace="home"
    )
    assert answer == {"soft_deleted": 5, "requested": 8, "collections": 1}
    for object_id in ids[:5]:
        assert (await replica.call("GET", f"{path}/objects/{object_id}", namespace="home")).status == 404
    listed = await replica.make(f"{path}/objects/list", {}, namespace="home")
    assert [row["object_id"] for row in listed["results"]] == ids[5:]
    assert await replica.deps.objects.collection.get(foreign) is not None
    await replica.deps.removal_outbox.close()
    gone = [event.subject for event in replica.bus.published if event.type.endswith("object.deleted.v1")]
    assert sorted(gone) == sorted(ids[:5])
    kept: list[Any] = await replica.deps.objects.soft_deleted.find({}, limit=10, sort=[("_id", 1)])
    assert [row["_id"] for row in kept] == sorted(ids[:5])
    assert kept[0]["custom"]["sku"].startswith("A-")
    deletion = {name: value for name, value in kept[0]["deletion"].items() if name != "at"}
    assert deletion == {
        "key_id": "bootstrap",
        "reason": REASON,
        "lifecycle_state": "disabled",
        "source": "bulk_purge",
    }


async def test_soft_delete_sent_again_deletes_nothing(replica: Replica) -> None:
    path = await bucket(replica)
    body = {"object_ids": await objects(replica, path, 2), "reason": "x", "source": "test"}
    for count in (2, 0):
        answer = await replica.make(f"{path}/objects/bulk-soft-delete", body, namespace="home")
        assert answer["soft_deleted"] == count


async def test_soft_delete_frees_the_unique_key(replica: Replica) -> None:
    path = await bucket(replica, unique_key={"fields": ["sku"], "default_policy": "insert"})
    made = await replica.make(f"{path}/objects", {"sku": "A-1"}, namespace="home")
    body = {"object_ids": [made["object_id"]], "reason": "x"}
    await replica.make(f"{path}/objects/bulk-soft-delete", body, namespace="home")
    assert (await replica.call("POST", f"{path}/objects", {"sku": "A-1"}, namespace="home")).status == 200


async def test_soft_deleted_records_go_with_their_bucket(replica: Replica) -> None:
    path = await bucket(replica)
    body = {"object_ids": await objects(replica, path, 1), "reason": "x"}
    await replica.make(f"{path}/objects/bulk-soft-delete", body, namespace="home")
    assert await replica.deps.objects.soft_deleted.count({}) == 1
    await replica.call("DELETE", path, namespace="home")
    await replica.settle()
    assert await replica.deps.objects.soft_deleted.count({}) == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"object_ids": [], "reason": "x"}, 422),
        ({"object_ids": ["obj_1"]}, 422),
        ({"object_ids": ["obj_1"], "reason": "x" * 501}, 422),
        ({"object_ids": ["obj_1"] * 5001, "reason": "x"}, 422),
        ({"object_ids": ["obj_1"] * 5000, "reason": ""}, 200),
    ],
)
async def test_soft_delete_has_limits(replica: Replica, body: dict[str, Any], status: int) -> None:
    path = await bucket(replica)
    assert (await replica.call("POST", f"{path}/objects/bulk-soft-delete", body, namespace="home")).status == status


async def test_soft_delete_needs_the_right_to_delete(world: World, replica: Replica) -> None:
    path = await bucket(replica)
    key = await world.key(permissions=frozenset({"READ", "WRITE"}))
    body = {"object_ids": await objects(replica, path, 1), "reason": "x"}
    answer = await replica.call("POST", f"{path}/objects/bulk-soft-delete", body, namespace="home", key=key)
    assert answer.status == 403
    await replica.call("PATCH", path, {"is_locked": True}, namespace="home")
    answer = await replica.call("POST", f"{path}/objects/bulk-soft-delete", body, namespace="home")
    assert answer.status == 403
