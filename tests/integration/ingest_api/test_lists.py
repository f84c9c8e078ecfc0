"""Lists have an end: in time, and in what they hold in memory."""

from typing import Any

import bson
import pytest
from tests.integration.ingest_api.conftest import Replica, World

from bucketline.db.mongo import Collection
from bucketline_ingest_api import pagination
from bucketline_ingest_api.batches.service import new_draft

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"note": {"type": "text"}, "name": {"type": "string"}}}
EXTRACTOR = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}


async def bucket(replica: Replica) -> str:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    made = await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": SCHEMA}, namespace="home")
    return f"/v1/buckets/{made['bucket_id']}"


async def multiplied(replica: Replica, path: str, count: int) -> None:
    """As many objects as are wanted, written past the API: one that it made, and copies of it."""
    made = await replica.make(f"{path}/objects", {"name": "one", "text": "lorem ipsum " * 50}, namespace="home")
    found: Any = await replica.deps.objects.collection.get(made["object_id"])
    for start in range(0, count, 1000):
        copies: list[Any] = [
            {**found, "_id": f"obj_copy_{start + n}", "pending": []} for n in range(min(1000, count - start))
        ]
        await replica.deps.objects.insert(copies)


@pytest.mark.parametrize("what", ["list", "batch", "trigger"])
async def test_search_above_the_time_limit_returns_503_with_advice(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = await bucket(replica)
    await multiplied(replica, path, 20_000)
    nowhere = {"AND": [{"field": "text", "operator": "contains", "value": "nowhere"}]}
    body: dict[str, Any] = {"search": "nowhere", "include_total": True}
    if what == "batch":
        body = {"filters": nowhere}
    if what == "trigger":
        source = {"type": "bucket", "bucket_ids": [path.rpartition("/")[2]]}
        wanted = {"collection_name": "docs", "source": source, "feature_extractor": EXTRACTOR}
        await replica.make("/v1/collections", wanted, namespace="home")
        body = {"source_filters": nowhere}
    url = {"list": f"{path}/objects/list", "batch": f"{path}/batches", "trigger": "/v1/collections/docs/trigger"}[what]
    assert (await replica.call("POST", url, body, namespace="home")).status in (200, 400), "in time it is answered"
    monkeypatch.setattr(pagination, "MAX_SEARCH_SECONDS", 0.01)
    answer = await replica.call("POST", url, body, namespace="home")
    error = answer.body["error"]
    assert (answer.status, error["type"]) == (503, "SearchTooSlowError")
    assert error["details"] == {"retryable": False, "limit_seconds": 0.01}
    assert "created_at" in error["message"]
    assert "retry-after" not in answer.headers


async def test_page_above_the_byte_limit_returns_400(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await bucket(replica)
    rows = [{"name": "x" * 1000} for _ in range(30)]
    await replica.make(f"{path}/objects/batch", {"objects": rows}, namespace="home")
    monkeypatch.setattr(pagination, "MAX_PAGE_BYTES", 20_000)
    refused = await replica.call("GET", f"{path}/objects?limit=30", namespace="home")
    error = refused.body["error"]
    assert (refused.status, error["code"]) == (400, "page_too_large")
    assert error["details"] == {"limit_bytes": 20_000, "page_size": 30}
    seen, cursor = 0, ""
    while cursor is not None:
        page = (await replica.call("GET", f"{path}/objects?limit=7&cursor={cursor}", namespace="home")).body
        seen += len(page["results"])
        cursor = page["pagination"]["next_cursor"]
    assert seen == 30


async def test_object_list_does_not_read_inline_content(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await bucket(replica)
    blobs = [
        {"property": "note", "data": "x" * 50_000},
        {"property": "note", "data": {"base64": "eHh4" * 20_000, "filename": "a.txt"}},
        {"property": "note", "data": "https://example.com/a.txt"},
    ]
    made = await replica.make(f"{path}/objects", {"blobs": blobs}, namespace="home")
    monkeypatch.setattr(pagination, "MAX_PAGE_BYTES", 10_000)
    [row] = (await replica.call("GET", f"{path}/objects", namespace="home")).body["results"]
    assert row["blobs"] == made["blobs"]
    assert row["blobs"][2]["properties"]["url"] == "https://example.com/a.txt"


async def test_task_list_does_not_read_the_objects_of_batches(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await bucket(replica)
    stored: Any = await replica.deps.buckets.collection.get(path.rpartition("/")[2])
    ids = [f"obj_{number:020}" for number in range(20_000)]
    drafts = [
        new_draft(stored["namespace_id"], stored["_id"], ids, batch_id=f"btch_{n}", now=world.clock.now())
        for n in range(3)
    ]
    await replica.deps.batches.insert([{**draft, "status": "PENDING"} for draft in drafts])
    sizes = []
    aggregate = Collection.aggregate

    async def weighed(self: Collection[Any], *args: Any, **options: Any) -> Any:
        rows = await aggregate(self, *args, **options)
        sizes.append(sum(len(bson.encode(row)) for row in rows))
        return rows

    monkeypatch.setattr(Collection, "aggregate", weighed)
    tasks = (await replica.make("/v1/tasks/list", {}))["results"]
    assert [task["additional_data"]["sample_object_ids"] for task in tasks] == [ids[:10]] * 3
    assert 0 < sum(sizes) < 20_000


async def furnish_tasks(world: World, replica: Replica) -> set[str]:
    """Make four stored tasks and four submitted batches, alternating in time; return the ids of the stored tasks."""
    path = await bucket(replica)
    stored: Any = await replica.deps.buckets.collection.get(path.rpartition("/")[2])
    ids = set()
    for number in range(4):
        world.clock.advance(1)
        task = await replica.deps.runner.create(
            "api_test",
            organization_id="org_local",
            namespace_id=stored["namespace_id"],
            inputs=[f"x{number}"],
            delay=3600,
        )
        ids.add(task["_id"])
        world.clock.advance(1)
        draft = new_draft(
            stored["namespace_id"], stored["_id"], ["obj_1"], batch_id=f"btch_{number}", now=world.clock.now()
        )
        await replica.deps.batches.insert([{**draft, "status": "COMPLETED" if number % 2 else "PENDING"}])
    return ids


@pytest.mark.parametrize(
    ("body", "stored", "batches"),
    [
        ({}, 4, 4),
        ({"task_type": "api_test"}, 4, 0),
        ({"task_type": "api_buckets_batches_process"}, 0, 4),
        ({"filters": {"task_type": "API_TEST"}}, 0, 0),
        ({"filters": {"NOT": [{"field": "task_type", "operator": "eq", "value": "api_test"}]}}, 0, 4),
        ({"filters": {"AND": [{"field": "task_type", "operator": "ne", "value": "api_test"}]}}, 0, 4),
        ({"filters": {"AND": [{"field": "task_type", "operator": "in", "value": ["api_test", "other"]}]}}, 4, 0),
        ({"filters": {"AND": [{"field": "task_type", "operator": "starts_with", "value": "api_"}]}}, 4, 4),
        (
            {
                "filters": {
                    "OR": [
                        {"field": "task_type", "operator": "eq", "value": "api_test"},
                        {"field": "status", "operator": "eq", "value": "COMPLETED"},
                    ]
                }
            },
            4,
            2,
        ),
        ({"status": "COMPLETED"}, 0, 2),
        ({"status": "PENDING"}, 4, 2),
        ({"filters": {"additional_data.batch_id": "btch_1"}}, 0, 1),
        ({"filters": {"inputs": "x2"}}, 1, 0),
        ({"search": "btch_3"}, 0, 1),
        ({"search": "api_t"}, 4, 0),
    ],
)
async def test_task_list_filters_stored_tasks_and_tasks_of_batches(
    world: World, replica: Replica, body: dict[str, Any], stored: int, batches: int
) -> None:
    ids = await furnish_tasks(world, replica)
    answer = await replica.make("/v1/tasks/list", {**body, "include_total": True})
    found = [task["task_id"] for task in answer["results"]]
    assert (len(ids.intersection(found)), len(set(found) - ids)) == (stored, batches)
    assert answer["pagination"]["total"] == len(found) == stored + batches


@pytest.mark.parametrize("field", ["created_at", "updated_at", "status"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("by_cursor", [True, False])
async def test_task_list_in_pages_has_the_order_of_one_page(
    world: World, replica: Replica, field: str, direction: str, by_cursor: bool
) -> None:
    await furnish_tasks(world, replica)
    body = {"sort": {"field": field, "direction": direction}}
    whole = [task["task_id"] for task in (await replica.make("/v1/tasks/list", body))["results"]]
    paged: list[str] = []
    position: dict[str, Any] = {}
    for _ in range(4):
        page = await replica.make("/v1/tasks/list", {**body, **position, "limit": 3})
        paged += [task["task_id"] for task in page["results"]]
        if (cursor := page["pagination"]["next_cursor"]) is None:
            break
        position = {"cursor": cursor} if by_cursor else {"offset": len(paged)}
    assert len(whole) == 8
    assert paged == whole
