"""Namespaces through the official clients."""

import secrets
from typing import Any

import pytest
from mixpeek import models
from mixpeek.api.health_api import HealthApi
from mixpeek.api.namespaces_api import NamespacesApi
from mixpeek.exceptions import ConflictException, NotFoundException
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, call_list
from tests.waiting import eventually, present

pytestmark = pytest.mark.stack


def unused(prefix: str = "ns") -> str:
    return f"{prefix}-{secrets.token_hex(6)}"


async def test_a_namespace_is_found_by_id_and_by_name(sdk: Sdk) -> None:
    namespaces = sdk.generated(NamespacesApi)
    name = unused()
    made = await call(
        namespaces.create_namespace, models.CreateNamespaceRequest(namespace_name=name, description="Trying")
    )
    assert made.namespace_id is not None
    assert made.namespace_id.startswith("ns_")
    assert (made.object, made.namespace_type, made.scope, made.mode) == ("namespace", "standard", "org", "managed")
    for identifier in (made.namespace_id, name):
        found = await call(namespaces.get_namespace, identifier)
        assert (found.namespace_id, found.namespace_name, found.description) == (made.namespace_id, name, "Trying")
        assert found.namespace_ready is True
        assert found.created_at == made.created_at
    by_hand = await call(sdk.mixpeek().namespaces.create, name=unused())
    assert by_hand["namespace_id"].startswith("ns_")


async def test_names_and_ids_are_taken_once(sdk: Sdk) -> None:
    namespaces = sdk.generated(NamespacesApi)
    name, identifier = unused(), f"ns_{secrets.token_hex(6)}"
    await call(namespaces.create_namespace, models.CreateNamespaceRequest(namespace_name=name, namespace_id=identifier))
    with pytest.raises(ConflictException) as refused:
        await call(namespaces.create_namespace, models.CreateNamespaceRequest(namespace_name=name))
    assert "namespace_name_taken" in str(refused.value.body)
    with pytest.raises(ConflictException) as refused:
        await call(
            namespaces.create_namespace,
            models.CreateNamespaceRequest(namespace_name=unused(), namespace_id=identifier),
        )
    assert "namespace_id_taken" in str(refused.value.body)


async def test_namespace_counts_its_resources(api: Api, sdk: Sdk) -> None:
    name = await api.namespace()
    bucket = await api.bucket(name)
    await api.collection(name, bucket)
    await api.client(name).post(f"/v1/buckets/{bucket}/objects", {"name": "one"})
    namespaces = sdk.generated(NamespacesApi)
    stats = await call(namespaces.get_namespace_stats, name)
    assert (stats.bucket_count, stats.collection_count, stats.object_count, stats.document_count) == (1, 1, 1, 0)
    found = await call(namespaces.get_namespace, name)
    assert (found.bucket_count, found.collection_count, found.object_count) == (1, 1, 1)


async def test_lists_are_paged_filtered_and_searched(sdk: Sdk) -> None:
    namespaces = sdk.generated(NamespacesApi)
    family = unused("family")
    for number in range(3):
        await call(namespaces.create_namespace, models.CreateNamespaceRequest(namespace_name=f"{family}-{number}"))
    wanted = models.ListNamespacesRequest(search=family.upper(), limit=2)
    first = await call(namespaces.list_namespaces, list_namespaces_request=wanted)
    assert [row.namespace_name for row in first.results] == [f"{family}-2", f"{family}-1"]
    assert first.total_count == 3
    rest = await call(namespaces.list_namespaces, cursor=first.pagination.next_cursor, list_namespaces_request=wanted)
    assert [row.namespace_name for row in rest.results] == [f"{family}-0"]
    filtered = models.ListNamespacesRequest(filters={"namespace_name": f"{family}-1"})
    found = await call(namespaces.list_namespaces, list_namespaces_request=filtered)
    assert [row.namespace_name for row in found.results] == [f"{family}-1"]
    newest = await call_list(sdk.mixpeek().namespaces.list)
    assert newest["total_count"] >= 3
    assert (await call(namespaces.list_namespaces_get, limit=1)).results[0].namespace_name == f"{family}-2"


async def test_patch_and_put_change_what_is_sent(api: Api, sdk: Sdk) -> None:
    namespaces = sdk.generated(NamespacesApi)
    name, other = await api.namespace(), await api.namespace()
    patched = await call(namespaces.patch_namespace, name, models.PatchNamespaceRequest(description="In use"))
    assert (patched.namespace_name, patched.description) == (name, "In use")
    renamed = unused()
    put = await call(namespaces.update_namespace, name, models.UpdateNamespaceRequest(namespace_name=renamed))
    assert (put.namespace_id, put.namespace_name, put.description) == (patched.namespace_id, renamed, "In use")
    with pytest.raises(NotFoundException):
        await call(namespaces.get_namespace, name)
    with pytest.raises(ConflictException):
        await call(namespaces.patch_namespace, renamed, models.PatchNamespaceRequest(namespace_name=other))


async def test_invalid_names_are_reported(api: Api) -> None:
    for name in ("ab", "x" * 65, " padded ", "bell\x07", "größe"):
        async with api.client()._session.post("/v1/namespaces", json={"namespace_name": name}) as answer:
            assert answer.status == 422, name
            rows = (await answer.json())["error"]["details"]["validation_errors"]
            assert rows[0]["location"] == ["body", "namespace_name"]


async def test_a_deleted_namespace_takes_everything_with_it(api: Api, sdk: Sdk) -> None:
    name = await api.namespace()
    bucket = await api.bucket(name)
    await api.collection(name, bucket)
    await api.client(name).post(f"/v1/buckets/{bucket}/objects", {"name": "one"})
    client = sdk.mixpeek(name)
    deleted = await call(client.namespaces.delete, name)
    assert deleted["status"] == "PENDING"
    with pytest.raises(Exception, match="404"):
        await call_list(client.buckets.list)

    async def finished() -> Any:
        task = await call(client.tasks.get, deleted["task_id"])
        assert task["status"] != "FAILED", task
        return task if task["status"] == "COMPLETED" else None

    task = await eventually(finished)
    assert task["task_type"] == "api_namespaces_delete"
    with pytest.raises(Exception, match="404"):
        await call(client.namespaces.get, name)
    again = await call(
        sdk.generated(NamespacesApi).create_namespace, models.CreateNamespaceRequest(namespace_name=name)
    )
    stats = await call(sdk.generated(NamespacesApi).get_namespace_stats, present(again.namespace_id))
    assert (stats.bucket_count, stats.collection_count, stats.object_count) == (0, 0, 0)


async def test_health_is_read_by_the_client(sdk: Sdk) -> None:
    health = sdk.generated(HealthApi)
    deep = await call(health.healthcheck_deep_health)
    assert deep.status == "OK"
    assert deep.data.metadata is True
    assert deep.data.object_storage is True
    for check in (health.healthcheck_health, health.liveness_health):
        answer: Any = await call(check)
        assert answer["status"] == "OK"


async def test_ttl_below_a_minute_is_refused(api: Api) -> None:
    async with api.client()._session.post(
        "/v1/namespaces", json={"namespace_name": unused(), "ttl_seconds": 5}
    ) as answer:
        assert answer.status == 422
