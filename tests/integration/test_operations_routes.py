"""Timelines, the overview and the backlog, as the running services fill them."""

import secrets

import pytest
from tests.conftest import Api
from tests.waiting import eventually

from bucketline.cli.client import ApiError, Json

pytestmark = pytest.mark.stack

UNREACHABLE = "http://10.255.255.1/file.txt"
"""A private address, which dedup refuses at once."""


async def create_finished_object(api: Api, namespace: str, data: object) -> Json:
    """Return an object after its run has ended."""
    client = api.client(namespace)
    path = f"/v1/buckets/{await api.bucket(namespace)}/objects"
    note = {"property": "note", "type": "text", "data": data}
    created = await client.post(path, {"blobs": [note]}, auto_process="true")

    async def finished() -> Json | None:
        obj = await client.get(f"{path}/{created['object_id']}")
        return obj if obj["status"] in ("COMPLETED", "FAILED") else None

    return await eventually(finished)


async def test_timeline_of_a_completed_object_has_every_step_in_order(api: Api) -> None:
    namespace = await api.namespace()
    obj = await create_finished_object(api, namespace, "Call the supplier on Friday.")
    timeline = await api.client(namespace).get(f"/v1/objects/{obj['object_id']}/timeline")
    assert [step["name"] for step in timeline["steps"]] == ["accepted", "mirrored", "batched", "finished"]
    times = [step["at"] for step in timeline["steps"]]
    assert times == sorted(times)
    assert times[0] == obj["created_at"]
    assert timeline["steps"][-1]["status"] == timeline["status"] == "COMPLETED"
    assert len(timeline["trace_id"]) == 32
    batch = await api.client(namespace).get(f"/v1/batches/{timeline['batch_id']}")
    assert batch["object_ids"] == [obj["object_id"]]


async def test_timeline_of_a_failed_object_says_why(api: Api) -> None:
    namespace = await api.namespace()
    obj = await create_finished_object(api, namespace, {"url": UNREACHABLE})
    timeline = await api.client(namespace).get(f"/v1/objects/{obj['object_id']}/timeline")
    assert timeline["steps"][-1]["status"] == "FAILED"
    assert timeline["steps"][-1]["error"] == obj["error"]


async def test_timeline_of_an_object_of_another_namespace_is_404(api: Api) -> None:
    namespace, other = await api.namespace(), await api.namespace()
    obj = await create_finished_object(api, namespace, "Call the supplier on Friday.")
    with pytest.raises(ApiError) as refused:
        await api.client(other).get(f"/v1/objects/{obj['object_id']}/timeline")
    assert refused.value.status == 404


async def test_overview_counts_a_namespace_only(api: Api) -> None:
    namespace, other = await api.namespace(), await api.namespace()
    await create_finished_object(api, namespace, "Call the supplier on Friday.")
    overview = await api.client(namespace).get("/v1/overview")
    assert overview["objects_by_status"]["COMPLETED"] == 1
    assert sum(minute["created"] for minute in overview["last_hour"]) == 1
    assert sum(minute["finished"] for minute in overview["last_hour"]) == 1
    assert overview["content"] == {
        "objects": 1,
        "blobs": 1,
        "total_bytes": 28,
        "unique_bytes": 28,
        "complete": True,
    }
    assert sum((await api.client(other).get("/v1/overview"))["objects_by_status"].values()) == 0


async def test_backlog_shows_the_lag_of_every_consumer(api: Api) -> None:
    lag = (await api.client().get("/v1/admin/backlog"))["consumer_lag"]
    assert {(row["service"], row["topic"]) for row in lag} >= {
        ("dedup", "objects.v1"),
        ("processor", "batches.work.v1"),
    }
    assert all(row["records"] >= 0 for row in lag)


@pytest.mark.parametrize("permissions", [["read", "write", "delete"], ["admin"]])
async def test_restricted_key_does_not_see_the_whole_deployment(permissions: list[str], api: Api) -> None:
    scope = {"resource_type": "namespace", "resource_id": await api.namespace()}
    scopes = [scope] if permissions == ["admin"] else []
    issued = await api.client().post(
        "/v1/organizations/users/someone@example.com/api-keys",
        {"name": f"key-{secrets.token_hex(4)}", "permissions": permissions, "scopes": scopes},
    )
    client = api.client(key=issued["key"])
    for path in ("/v1/admin/backlog", "/v1/admin/dead-letters"):
        with pytest.raises(ApiError) as refused:
            await client.get(path)
        assert refused.value.status == 403
    with pytest.raises(ApiError) as refused:
        await client.post("/v1/admin/dead-letters/discard", {"addresses": ["bucketline.objects.v1.dedup.dlq:0:0"]})
    assert refused.value.status == 403


async def test_dead_letter_that_does_not_exist_is_reported_as_missing(api: Api) -> None:
    address = "bucketline.objects.v1.dedup.dlq:0:999999999"
    result = await api.client().post("/v1/admin/dead-letters/replay", {"addresses": [address, address]})
    assert result == {"handled": 0, "missing": [address], "incomplete": []}
