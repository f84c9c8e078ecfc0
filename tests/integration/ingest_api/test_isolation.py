"""Nobody reads or changes anything of another namespace or organisation, or beyond a key's restriction."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica, World

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"name": {"type": "string"}}}
EXTRACTOR = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}


async def furnished(replica: Replica, name: str, key: str) -> dict[str, Any]:
    """A namespace with one of everything; the ids and names by kind."""
    made = await replica.make("/v1/namespaces", {"namespace_name": name}, key=key)
    namespace = made["namespace_id"]
    bucket = await replica.make(
        "/v1/buckets", {"bucket_name": f"bucket of {name}", "bucket_schema": SCHEMA}, namespace=namespace, key=key
    )
    collection = await replica.make(
        "/v1/collections",
        {
            "collection_name": f"collection of {name}",
            "source": {"type": "bucket", "bucket_ids": [bucket["bucket_id"]]},
            "feature_extractor": EXTRACTOR,
        },
        namespace=namespace,
        key=key,
    )
    obj = await replica.make(
        f"/v1/buckets/{bucket['bucket_id']}/objects", {"name": "one"}, namespace=namespace, key=key
    )
    triggered = await replica.make(
        f"/v1/collections/{collection['collection_id']}/trigger", {}, namespace=namespace, key=key
    )
    now = replica.deps.clock.now()
    document = {
        "_id": f"doc_{name}",
        "namespace_id": namespace,
        "collection_id": collection["collection_id"],
        "object_id": obj["object_id"],
        "bucket_id": bucket["bucket_id"],
        "ordinal": 0,
        "run": 1,
        "revision": 1,
        "fields": {"name": "one"},
        "blobs": [],
        "internal": {"lineage": {}},
        "created_at": now,
        "updated_at": now,
    }
    await replica.deps.documents.collection.insert(document)  # type: ignore[arg-type]  # a literal of its shape
    other = await replica.make(
        "/v1/buckets", {"bucket_name": "to be deleted", "bucket_schema": SCHEMA}, namespace=namespace, key=key
    )
    deletion = await replica.call("DELETE", f"/v1/buckets/{other['bucket_id']}", namespace=namespace, key=key)
    return {
        "namespace": (namespace, name),
        "bucket": (bucket["bucket_id"], bucket["bucket_name"]),
        "collection": (collection["collection_id"], collection["collection_name"]),
        "document": f"doc_{name}",
        "object": obj["object_id"],
        "tasks": [triggered["task_id"], deletion.body["task_id"]],
    }


def attempts(theirs: dict[str, Any]) -> Iterator[tuple[str, str, object]]:
    """Every route that names something, on what is theirs."""
    for bucket in theirs["bucket"]:
        path = f"/v1/buckets/{bucket}".replace(" ", "%20")
        yield "GET", path, None
        yield "PATCH", path, {"description": "mine"}
        yield "PUT", path, {"description": "mine"}
        yield "DELETE", path, None
    for collection in theirs["collection"]:
        path = f"/v1/collections/{collection}".replace(" ", "%20")
        yield "GET", path, None
        yield "PATCH", path, {"description": "mine"}
        yield "POST", f"{path}/trigger", {}
        yield "GET", f"{path}/documents", None
        yield "POST", f"{path}/documents/list", {}
        yield "GET", f"{path}/documents/count", None
        yield "GET", f"{path}/documents/{theirs['document']}", None
        yield "DELETE", f"{path}/documents/{theirs['document']}", None
        yield "DELETE", path, None
    for source in ({"type": "bucket", "bucket_ids": [theirs["bucket"][0]]},
                   {"type": "collection", "collection_ids": [theirs["collection"][0]]}):  # fmt: skip
        body = {"collection_name": "mine of theirs", "source": source, "feature_extractor": EXTRACTOR}
        yield "POST", "/v1/collections", body


def of_namespace(theirs: dict[str, Any]) -> Iterator[tuple[str, str, object]]:
    for namespace in theirs["namespace"]:
        path = f"/v1/namespaces/{namespace}"
        yield "GET", path, None
        yield "GET", f"{path}/stats", None
        yield "PATCH", path, {"description": "mine"}
        yield "PUT", path, {"description": "mine"}
        yield "DELETE", f"{path}?force=true", None


async def snapshot(replica: Replica) -> dict[str, list[Any]]:
    """What must stay as it is."""
    names = ("namespaces", "buckets", "collections", "documents", "objects", "batches")
    return {name: await replica.deps.database.collection(name).find({}, limit=100, sort=[("_id", 1)]) for name in names}


async def refused(replica: Replica, tried: Iterator[tuple[str, str, object]], **who: Any) -> None:
    before = await snapshot(replica)
    for method, path, body in tried:
        answer = await replica.call(method, path, body, **who)
        assert answer.status == 404, (method, path, who, answer)
        assert answer.body["error"]["type"] == "NotFoundError"
    assert await snapshot(replica) == before


async def test_a_namespace_is_closed_to_another_one(replica: Replica) -> None:
    theirs = await furnished(replica, "theirs", "sk_root")
    await furnished(replica, "mine", "sk_root")
    await replica.settle()
    await refused(replica, attempts(theirs), namespace="mine")
    for path in ("/v1/buckets", "/v1/collections"):
        for row in (await replica.call("GET", path, namespace="mine")).body["results"]:
            assert "theirs" not in str(row)
    mine = await replica.make("/v1/tasks/list", {}, namespace="mine")
    assert not {row["task_id"] for row in mine["results"]} & set(theirs["tasks"])


async def test_an_organisation_is_closed_to_another_one(world: World, replica: Replica) -> None:
    theirs = await furnished(replica, "theirs", await world.key("org_theirs"))
    mine = await world.key("org_mine")
    await furnished(replica, "mine", mine)
    await replica.settle()
    await refused(replica, attempts(theirs), namespace="mine", key=mine)
    await refused(replica, of_namespace(theirs), key=mine)
    for namespace in theirs["namespace"]:
        answer = await replica.call("GET", "/v1/buckets", namespace=namespace, key=mine)
        assert answer.status == 404
    for task_id in theirs["tasks"]:
        assert (await replica.call("GET", f"/v1/tasks/{task_id}", key=mine)).status == 404
        assert (await replica.call("DELETE", f"/v1/tasks/{task_id}", key=mine)).status == 200
    visible = await replica.make("/v1/tasks/list", {}, key=mine)
    assert not {row["task_id"] for row in visible["results"]} & set(theirs["tasks"])
    named = await replica.make("/v1/namespaces/list", {}, key=mine)
    assert [row["namespace_name"] for row in named["results"]] == ["mine"]
    # a name of theirs is free here, and names another thing
    again = await replica.make("/v1/namespaces", {"namespace_name": "theirs"}, key=mine)
    assert again["namespace_id"] != theirs["namespace"][0]
    keys = await replica.call("GET", "/v1/organizations/users/ada@example.org/api-keys", key=mine)
    assert {row["organization_id"] for row in keys.body["results"]} == {"org_mine"}


async def test_resources_of_other_namespaces_cannot_be_deleted(world: World, replica: Replica) -> None:
    theirs_key = await world.key("org_theirs")
    theirs = await furnished(replica, "theirs", theirs_key)
    mine = await world.key("org_mine")
    for task_id in theirs["tasks"]:
        await replica.call("DELETE", f"/v1/tasks/{task_id}", key=mine)
        assert (await replica.call("GET", f"/v1/tasks/{task_id}", key=theirs_key)).status == 200


async def test_a_restricted_key_stays_within_its_namespaces(world: World, replica: Replica) -> None:
    theirs = await furnished(replica, "theirs", "sk_root")
    await furnished(replica, "mine", "sk_root")
    await replica.settle()
    key = await world.key(namespaces=["mine"])
    await refused(replica, of_namespace(theirs), key=key)
    await refused(replica, attempts(theirs), namespace="mine", key=key)
    for namespace in theirs["namespace"]:
        assert (await replica.call("GET", "/v1/buckets", namespace=namespace, key=key)).status == 404
    for task_id in theirs["tasks"]:
        assert (await replica.call("GET", f"/v1/tasks/{task_id}", key=key)).status == 404
    visible = await replica.make("/v1/tasks/list", {"page_size": 100}, key=key)
    assert len(visible["results"]) == 2
    assert not {row["task_id"] for row in visible["results"]} & set(theirs["tasks"])
    listed = await replica.make("/v1/namespaces/list", {}, key=key)
    assert ([row["namespace_name"] for row in listed["results"]], listed["total_count"]) == (["mine"], 1)
    for method, path, body in (
        ("POST", "/v1/namespaces", {"namespace_name": "third"}),
        ("POST", "/v1/organizations/users/ada@example.org/api-keys", {"name": "wide"}),
        ("GET", "/v1/organizations/users/ada@example.org/api-keys", None),
        ("DELETE", "/v1/organizations/users/ada@example.org/api-keys/key-0", None),
    ):
        assert (await replica.call(method, path, body, key=key)).status == 403, path


async def test_a_name_cannot_be_given_to_get_into_a_restriction(world: World, replica: Replica) -> None:
    """A key is restricted to namespaces, not to what happens to have their names."""
    mine = await replica.make("/v1/namespaces", {"namespace_name": "mine"})
    theirs = await replica.make("/v1/namespaces", {"namespace_name": "theirs"})
    key = await world.key(namespaces=["mine"])
    await replica.call("PATCH", f"/v1/namespaces/{mine['namespace_id']}", {"namespace_name": "renamed"})
    await replica.call("PATCH", f"/v1/namespaces/{theirs['namespace_id']}", {"namespace_name": "mine"})
    assert (await replica.call("GET", "/v1/buckets", namespace="mine", key=key)).status == 404
    assert (await replica.call("GET", "/v1/buckets", namespace="renamed", key=key)).status == 200


@pytest.mark.parametrize(
    ("permission", "allowed"),
    [("READ", {"GET", "LIST"}), ("WRITE", {"POST", "PATCH"}), ("DELETE", {"DELETE"}), ("ADMIN", None)],
)
async def test_key_allows_only_its_permissions(
    world: World, replica: Replica, permission: str, allowed: set[str] | None
) -> None:
    made = await furnished(replica, "home", "sk_root")
    key = await world.key(permissions=[permission])
    bucket, collection, namespace = (made[kind][0] for kind in ("bucket", "collection", "namespace"))
    routes: list[tuple[str, str, str, object]] = [
        ("GET", "GET", f"/v1/buckets/{bucket}", None),
        ("LIST", "POST", "/v1/buckets/list", None),
        ("POST", "POST", "/v1/buckets", {"bucket_name": "new", "bucket_schema": SCHEMA}),
        ("PATCH", "PATCH", f"/v1/buckets/{bucket}", {"description": "new"}),
        ("GET", "GET", f"/v1/collections/{collection}", None),
        ("LIST", "POST", f"/v1/collections/{collection}/documents/list", None),
        ("PATCH", "PATCH", f"/v1/collections/{collection}", {"description": "new"}),
        ("POST", "POST", f"/v1/collections/{collection}/trigger", None),
        ("DELETE", "DELETE", f"/v1/collections/{collection}/documents/{made['document']}", None),
        ("DELETE", "DELETE", f"/v1/collections/{collection}", None),
        ("DELETE", "DELETE", f"/v1/buckets/{bucket}", None),
        ("GET", "GET", f"/v1/namespaces/{namespace}", None),
        ("LIST", "POST", "/v1/namespaces/list", None),
        ("PATCH", "PATCH", f"/v1/namespaces/{namespace}", {"description": "new"}),
        ("LIST", "POST", "/v1/tasks/list", None),
        ("GET", "GET", f"/v1/tasks/{made['tasks'][1]}", None),
        ("DELETE", "DELETE", f"/v1/tasks/{made['tasks'][1]}", None),
        ("ADMIN", "GET", "/v1/organizations/users/ada@example.org/api-keys", None),
        ("DELETE", "DELETE", f"/v1/namespaces/{namespace}?force=true", None),
    ]
    for needed, method, path, body in routes:
        answer = await replica.call(method, path, body, namespace="home", key=key)
        if allowed is None or needed in allowed:
            assert answer.status in (200, 202), (needed, path, answer)
        else:
            assert answer.status == 403, (needed, path, answer)
            assert answer.body["error"]["type"] == "ForbiddenError"
