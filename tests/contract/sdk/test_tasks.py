"""Tasks through the official clients: stored ones and those of batches, in one list."""

from dataclasses import dataclass
from typing import Any

import pytest
from mixpeek import models
from mixpeek.api.tasks_api import TasksApi
from mixpeek.exceptions import NotFoundException
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, call_list, parse
from tests.waiting import eventually

pytestmark = pytest.mark.stack


@dataclass(frozen=True)
class Busy:
    """A namespace with seven tasks, of batches and of deletions in turn: their ids, newest first.

    The generated client says no namespace when it asks for tasks, so ``key`` sees only this one.
    """

    namespace: str
    tasks: list[str]
    key: str


@pytest.fixture
async def busy(api: Api) -> Busy:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    made = await client.post(f"/v1/buckets/{bucket}/objects", {"name": "one"})
    tasks = []
    for number in range(7):
        if number % 2:
            other = await api.bucket(namespace)
            tasks.append((await client._request("DELETE", f"/v1/buckets/{other}", None, {}))["task_id"])
        else:
            batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": [made["object_id"]]})
            submitted = await client.post(f"/v1/buckets/{bucket}/batches/{batch['batch_id']}/submit")
            tasks.append(submitted["task_id"])
    await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": [made["object_id"]]})
    scope = {"resource_type": "namespace", "resource_id": namespace}
    key = await api.client().post(
        f"/v1/organizations/users/{namespace}@example.org/api-keys", {"name": "tasks", "scopes": [scope]}
    )
    return Busy(namespace, tasks[::-1], key["key"])


async def test_both_kinds_are_merged_newest_first(busy: Busy, sdk: Sdk) -> None:
    expected = busy.tasks
    client, tasks = sdk.mixpeek(busy.namespace), sdk.generated(TasksApi, key=busy.key)
    whole = await call_list(client.tasks.list, page_size=100)
    assert [row["task_id"] for row in whole["results"]] == expected
    assert {row["task_type"] for row in whole["results"]} == {"api_buckets_batches_process", "api_buckets_delete"}
    for size in (1, 2, 3):
        found: list[str] = []
        cursor = None
        while True:
            page = await call_list(client.tasks.list, page_size=size, **({"cursor": cursor} if cursor else {}))
            found += [row["task_id"] for row in page["results"]]
            if (cursor := page["pagination"]["next_cursor"]) is None:
                break
        assert found == expected
        numbered = [
            row.task_id
            for number in range(1, 7 // size + 2)
            for row in (await call(tasks.list_tasks, limit=size, page=number)).results
        ]
        assert numbered == expected
    totalled = await call(tasks.list_tasks, limit=3, include_total=True)
    assert (totalled.pagination.total, totalled.pagination.total_pages) == (7, 3)
    oldest = parse(models.ListTasksRequest, {"sort": {"field": "created_at", "direction": "asc"}})
    assert [row.task_id for row in (await call(tasks.list_tasks, list_tasks_request=oldest)).results] == expected[::-1]


async def test_filters_reach_both_kinds(busy: Busy, sdk: Sdk) -> None:
    expected = busy.tasks
    client = sdk.mixpeek(busy.namespace)
    batches, deletions = expected[::2], expected[1::2]
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"task_type": "api_buckets_batches_process"}, batches),
        ({"task_type": "api_buckets_delete"}, deletions),
        ({"filters": {"task_type": "api_buckets_delete"}}, deletions),
        ({"filters": {"NOT": [{"field": "task_type", "operator": "eq", "value": "api_buckets_delete"}]}}, batches),
        ({"filters": {"AND": [{"field": "task_type", "operator": "in", "value": []}]}}, []),
        ({"filters": {"task_id": batches[0]}}, batches[:1]),
        ({"search": deletions[1]}, deletions[1:2]),
        ({"filters": {"AND": [{"field": "created_at", "operator": "lt", "value": "2020-01-01"}]}}, []),
    ]
    for body, wanted in cases:
        found = await call_list(client.tasks.list, page_size=100, **body)
        assert [row["task_id"] for row in found["results"]] == wanted, body
    for wrong in ({"status": "DONE"}, {"sort": {"field": "inputs"}}, {"filters": {"AND": 1}}):
        with pytest.raises(Exception, match="422"):
            await call_list(client.tasks.list, **wrong)


async def test_hidden_task_continues(busy: Busy, sdk: Sdk) -> None:
    expected = busy.tasks
    client, tasks = sdk.mixpeek(busy.namespace), sdk.generated(TasksApi, key=busy.key)
    for task_id in expected[:2]:
        found = await call(tasks.get_task, task_id)
        assert found.task_id == task_id
        answer = await call(tasks.kill_task, task_id)
        assert answer.success is True
        with pytest.raises(NotFoundException):
            await call(tasks.get_task, task_id)
        assert (await call(client.tasks.delete, task_id))["success"] is True
    listed = await call_list(client.tasks.list, page_size=100)
    assert [row["task_id"] for row in listed["results"]] == expected[2:]

    async def all_buckets_deleted() -> bool:
        return bool((await call_list(client.buckets.list))["total_count"] == 1)

    await eventually(all_buckets_deleted)


async def test_a_draft_has_no_task(api: Api, sdk: Sdk) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    made = await client.post(f"/v1/buckets/{bucket}/objects", {"name": "one"})
    await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": [made["object_id"]]})
    assert (await call_list(sdk.mixpeek(namespace).tasks.list))["results"] == []
    with pytest.raises(NotFoundException):
        await call(sdk.generated(TasksApi).get_task, "task_nowhere")
