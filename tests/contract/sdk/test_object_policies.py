"""Insertion policies of buckets with a unique key, one at a time and in a race."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from mixpeek import BucketObjectsApi
from mixpeek.exceptions import BadRequestException, ConflictException, NotFoundException
from mixpeek.models.create_object_request import CreateObjectRequest
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse
from tests.contract.sdk.wire import Reply, Wire
from tests.waiting import eventually

pytestmark = pytest.mark.stack

SCHEMA = {
    "properties": {
        "note": {"type": "text"},
        "sku": {"type": "string"},
        "region": {"type": "string", "default": "eu"},
        "qty": {"type": "integer"},
        "title": {"type": "string", "required": True},
    }
}


@dataclass(frozen=True)
class Keyed:
    """A fresh bucket whose objects are identified by their ``sku``."""

    namespace: str
    bucket: str
    wire: Wire

    async def send(self, policy: str | None = None, **body: Any) -> Reply:
        query: dict[str, Any] = {} if policy is None else {"policy": policy}
        return await self.wire("POST", f"/v1/buckets/{self.bucket}/objects", {"title": "t", **body}, **query)

    async def get(self, object_id: str) -> Reply:
        return await self.wire("GET", f"/v1/buckets/{self.bucket}/objects/{object_id}")

    async def count(self) -> int:
        reply = await self.wire("GET", f"/v1/buckets/{self.bucket}/objects", include_total="true")
        total: int = reply.body["pagination"]["total"]
        return total


@pytest.fixture
async def keyed(api: Api) -> AsyncIterator[Keyed]:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_schema=SCHEMA, unique_key={"fields": ["sku"]})
    async with aiohttp.ClientSession() as session:
        yield Keyed(namespace, bucket, Wire(api, namespace, session))


async def test_policies_with_a_free_and_a_used_key(keyed: Keyed) -> None:
    absent = await keyed.send("update", sku="A")
    assert absent.status == 404
    assert absent.error["type"] == "NotFoundError"
    made = await keyed.send("insert", sku="A", qty=1)
    assert made.status == 200
    again = await keyed.send("insert", sku="A", qty=2)
    assert again.status == 409
    assert again.error["type"] == "AlreadyExistsError"
    assert again.error["details"]["existing_object_id"] == made.body["object_id"]
    assert (await keyed.get(made.body["object_id"])).body["qty"] == 1, "a refused insert changed something"
    for policy, qty in (("update", 3), ("upsert", 4)):
        changed = await keyed.send(policy, sku="A", qty=qty)
        assert changed.status == 200
        assert changed.body["object_id"] == made.body["object_id"]
        assert changed.body["qty"] == qty
        assert changed.body["created_at"] == made.body["created_at"]
    other = await keyed.send("upsert", sku="B")
    assert other.body["object_id"] != made.body["object_id"]
    assert await keyed.count() == 2


async def test_sdk_raises_the_exception_of_each_error(keyed: Keyed, sdk: Sdk) -> None:
    objects = sdk.generated(BucketObjectsApi, keyed.namespace)
    body = parse(CreateObjectRequest, {"sku": "A", "title": "t"})
    with pytest.raises(BadRequestException):
        await call(objects.create_object_buckets, keyed.bucket, body)
    with pytest.raises(NotFoundException):
        await call(objects.create_object_buckets, keyed.bucket, body, policy="update")
    assert (await call(objects.create_object_buckets, keyed.bucket, body, policy="insert")).object_id
    with pytest.raises(ConflictException):
        await call(objects.create_object_buckets, keyed.bucket, body, policy="insert")


async def test_no_policy_or_an_unknown_one_is_a_400(keyed: Keyed) -> None:
    for policy in (None, "replace", ""):
        reply = await keyed.send(policy, sku="A")
        assert reply.status == 400
        assert reply.error["type"] == "BadRequestError"
    assert await keyed.count() == 0


async def test_the_default_policy_holds_unless_the_request_names_one(keyed: Keyed, api: Api) -> None:
    key = {"fields": ["sku"], "default_policy": "upsert"}
    bucket = await api.bucket(keyed.namespace, bucket_schema=SCHEMA, unique_key=key)
    place = Keyed(keyed.namespace, bucket, keyed.wire)
    first = await place.send(sku="A", qty=1)
    second = await place.send(sku="A", qty=2)
    assert second.body["object_id"] == first.body["object_id"]
    assert (await place.send("insert", sku="A")).status == 409


async def test_a_bucket_without_a_key_ignores_the_policy(keyed: Keyed, api: Api) -> None:
    place = Keyed(keyed.namespace, await api.bucket(keyed.namespace), keyed.wire)
    assert (await place.send("update", sku="A")).status == 200
    assert (await place.send("nonsense", sku="A")).status == 200
    assert await place.count() == 2


@pytest.mark.parametrize("sku", [None, "", "  ", "x" * 256])
async def test_a_key_without_a_usable_value_is_refused(keyed: Keyed, sku: str | None) -> None:
    reply = await keyed.send("insert", sku=sku)
    assert reply.status == 422
    assert list(reply.faults) == ["body.sku"]


async def test_a_compound_key_takes_the_schemas_defaults(keyed: Keyed, api: Api) -> None:
    key = {"fields": ["sku", "region"]}
    bucket = await api.bucket(keyed.namespace, bucket_schema=SCHEMA, unique_key=key)
    place = Keyed(keyed.namespace, bucket, keyed.wire)
    assert (await place.send("insert", sku="A")).status == 200
    assert (await place.send("insert", sku="A", region="us")).status == 200
    assert (await place.send("insert", sku="A", region="eu")).status == 409


async def test_an_update_merges_fields_and_replaces_blobs(keyed: Keyed) -> None:
    blobs = [{"property": "note", "data": "one"}, {"property": "note", "data": "two"}]
    made = (await keyed.send("insert", sku="A", qty=1, vendor={"name": "Acme", "id": 7}, blobs=blobs)).body
    kept = (await keyed.send("upsert", sku="A", vendor={"name": "Bolt"})).body
    assert kept["qty"] == 1
    assert kept["vendor"] == {"name": "Bolt"}, "a field that was sent replaces its namesake as a whole"
    assert [b["blob_id"] for b in kept["blobs"]] == [b["blob_id"] for b in made["blobs"]]
    replaced = (await keyed.send("upsert", sku="A", blobs=[{"property": "note", "data": "three"}])).body
    assert len(replaced["blobs"]) == 1
    assert replaced["updated_at"] >= kept["updated_at"]
    same = (await keyed.send("upsert", sku="A", blobs=[{"property": "note", "data": "three"}])).body
    assert same["blobs"][0]["blob_id"] == replaced["blobs"][0]["blob_id"]
    assert same["updated_at"] == replaced["updated_at"], "nothing changed"
    assert (await keyed.send("upsert", sku="A", blobs=[])).body["blobs"] == []


async def test_upsert_of_an_existing_key_requires_only_the_changed_fields(keyed: Keyed) -> None:
    await keyed.send("insert", sku="A")
    path = f"/v1/buckets/{keyed.bucket}/objects"
    changed = await keyed.wire("POST", path, {"sku": "A", "qty": 2}, policy="upsert")
    assert changed.status == 200
    created = await keyed.wire("POST", path, {"sku": "B", "qty": 2}, policy="upsert")
    assert created.status == 422
    assert created.faults == {"body.title": "missing"}


async def test_a_changed_object_is_a_draft_again(keyed: Keyed) -> None:
    blobs = [{"property": "note", "data": "one"}]
    path = f"/v1/buckets/{keyed.bucket}/objects"
    body = {"title": "t", "sku": "A", "blobs": blobs}
    made = (await keyed.wire("POST", path, body, policy="insert", auto_process="true")).body
    assert made["status"] == "QUEUED"

    async def completed() -> Any:
        found = (await keyed.get(made["object_id"])).body
        return found if found["status"] == "COMPLETED" else None

    await eventually(completed, deadline=60)
    unchanged = (await keyed.send("upsert", sku="A")).body
    assert unchanged["status"] == "COMPLETED"
    changed = (await keyed.send("upsert", sku="A", qty=9)).body
    assert changed["status"] == "DRAFT"
    again = await keyed.wire("POST", path, {**body, "qty": 10}, policy="upsert", auto_process="true")
    assert again.body["status"] == "QUEUED"
    assert again.headers["X-Batch-Id"]
    done = await eventually(completed, deadline=60)
    assert done["qty"] == 10


async def test_fifty_inserts_of_one_key_give_one_object(keyed: Keyed) -> None:
    replies = await asyncio.gather(*(keyed.send("insert", sku="A", qty=n) for n in range(50)))
    assert Counter(reply.status for reply in replies) == {200: 1, 409: 49}
    (winner,) = [reply.body for reply in replies if reply.status == 200]
    losers = [reply.error["details"]["existing_object_id"] for reply in replies if reply.status == 409]
    assert set(losers) == {winner["object_id"]}
    assert (await keyed.get(winner["object_id"])).body["qty"] == winner["qty"]
    assert await keyed.count() == 1


async def test_concurrent_upserts_of_one_key_all_arrive(keyed: Keyed) -> None:
    fields = [f"f{n}" for n in range(8)]
    replies = await asyncio.gather(*(keyed.send("upsert", sku="A", **{name: 1}) for name in fields))
    assert {reply.status for reply in replies} == {200}
    (object_id,) = {reply.body["object_id"] for reply in replies}
    final = (await keyed.get(object_id)).body
    assert [name for name in fields if name not in final] == [], "an update was lost"
    assert await keyed.count() == 1


async def test_a_racing_idempotency_key_gives_one_object(keyed: Keyed, api: Api) -> None:
    place = Keyed(keyed.namespace, await api.bucket(keyed.namespace), keyed.wire)
    replies = await asyncio.gather(*(place.send(idempotency_key="k", n=n) for n in range(20)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body["object_id"] for reply in replies}) == 1
    assert await place.count() == 1


async def test_an_idempotency_key_is_asked_before_the_unique_key(keyed: Keyed) -> None:
    first = await keyed.send("insert", sku="A", idempotency_key="k-1", qty=1)
    replay = await keyed.send("insert", sku="A", idempotency_key="k-1", qty=2)
    assert replay.status == 200
    assert replay.body["qty"] == 1
    await keyed.send("upsert", sku="A", idempotency_key="k-2", qty=3)
    await keyed.send("upsert", sku="A", qty=4)
    late = await keyed.send("upsert", sku="A", idempotency_key="k-2", qty=3)
    assert late.body["object_id"] == first.body["object_id"]
    assert late.body["qty"] == 4, "the retry of an older update was applied again"


async def test_batches_of_objects_are_refused(keyed: Keyed) -> None:
    body = {"objects": [{"sku": "A", "title": "t"}]}
    reply = await keyed.wire("POST", f"/v1/buckets/{keyed.bucket}/objects/batch", body)
    assert reply.status == 422
    assert reply.error["code"] == "unique_key_bucket"
