"""PATCH, PUT and DELETE of objects."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from mixpeek import BucketObjectsApi
from mixpeek.exceptions import NotFoundException
from mixpeek.models.patch_object_request import PatchObjectRequest
from mixpeek.models.update_object_request import UpdateObjectRequest
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse
from tests.contract.sdk.wire import Wire
from tests.waiting import eventually, present

pytestmark = pytest.mark.stack

SCHEMA = {
    "properties": {
        "note": {"type": "text", "required": True},
        "sku": {"type": "string"},
        "qty": {"type": "integer", "required": True},
    }
}


@dataclass(frozen=True)
class Place:
    """A bucket, and an object in it."""

    namespace: str
    bucket: str
    objects: BucketObjectsApi
    wire: Wire
    made: dict[str, Any]

    @property
    def path(self) -> str:
        return f"/v1/buckets/{self.bucket}/objects/{self.made['object_id']}"

    async def create(self, sku: str) -> dict[str, Any]:
        body = {"blobs": [{"property": "note", "data": sku}], "sku": sku, "qty": 1, "metadata": {"color": "red"}}
        reply = await self.wire("POST", f"/v1/buckets/{self.bucket}/objects", body, policy="insert")
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.body
        return found


@pytest.fixture
async def place(api: Api, sdk: Sdk) -> AsyncIterator[Place]:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_schema=SCHEMA, unique_key={"fields": ["sku"]})
    async with aiohttp.ClientSession() as session:
        wire = Wire(api, namespace, session)
        empty = Place(namespace, bucket, sdk.generated(BucketObjectsApi, namespace), wire, {})
        yield Place(namespace, bucket, empty.objects, wire, await empty.create("A"))


async def test_patch_changes_only_what_is_sent(place: Place) -> None:
    request = parse(PatchObjectRequest, {"state": "paid", "key_prefix": "/paid/A", "extra": {"deep": [1]}})
    changed = await call(place.objects.patch_object_buckets, place.bucket, place.made["object_id"], request)
    assert changed.key_prefix == "/paid/A"
    custom = changed.additional_properties
    assert (custom["state"], custom["qty"], custom["extra"]) == ("paid", 1, {"deep": [1]})
    assert present(changed.status).value == "DRAFT"
    found = (await place.wire("GET", place.path)).body
    assert found["state"] == "paid"
    assert found["blobs"] == place.made["blobs"] or found["blobs"][0]["blob_id"] == place.made["blobs"][0]["blob_id"]
    cleared = await place.wire("PATCH", place.path, {"key_prefix": None})
    assert cleared.body["key_prefix"] is None


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"status": "COMPLETED"}, {"body.status": "reserved"}),
        ({"object_id": "x", "_private": 1}, {"body.object_id": "reserved", "body._private": "reserved"}),
        ({"blobs": []}, {"body.blobs": "reserved"}),
        ({"qty": "many"}, {"body.qty": "integer_type"}),
        ({"qty": None}, {"body.qty": "missing"}),
        ({"sku": None}, {"body.sku": "missing"}),
        ({"sku": ""}, {"body.sku": "string_too_short"}),
        ({"a": {"$set": 1}}, {"body.a.$set": "field_name"}),
    ],
)
async def test_a_faulty_patch_changes_nothing(place: Place, body: dict[str, Any], faults: dict[str, str]) -> None:
    reply = await place.wire("PATCH", place.path, body)
    assert reply.status == 422
    assert reply.faults == faults
    assert (await place.wire("GET", place.path)).body["updated_at"] == place.made["updated_at"]


async def test_put_changes_metadata_where_the_object_holds_it(place: Place) -> None:
    request = parse(UpdateObjectRequest, {"key_prefix": "/k", "metadata": {"color": "blue", "size": "L"}})
    changed = await call(place.objects.update_object_buckets, place.bucket, place.made["object_id"], request)
    custom = changed.additional_properties
    assert custom["metadata"] == {"color": "blue"}
    assert custom["size"] == "L"
    assert changed.key_prefix == "/k"
    assert custom["qty"] == 1
    reserved = await place.wire("PUT", place.path, {"metadata": {"status": "x"}})
    assert reserved.faults == {"body.metadata.status": "reserved"}


async def test_a_unique_key_moves_and_conflicts(place: Place) -> None:
    other = await place.create("B")
    taken = await place.wire("PATCH", place.path, {"sku": "B"})
    assert taken.status == 409
    assert taken.error["details"]["existing_object_id"] == other["object_id"]
    moved = await place.wire("PATCH", place.path, {"sku": "C"})
    assert moved.body["sku"] == "C"
    assert (await place.create("A"))["object_id"] != place.made["object_id"], "the old key is free"
    put = await place.wire("PUT", place.path, {"metadata": {"sku": "B"}})
    assert put.status == 409


async def test_concurrent_patches_all_arrive(place: Place) -> None:
    fields = [f"f{n}" for n in range(6)]
    replies = await asyncio.gather(*(place.wire("PATCH", place.path, {name: 1}) for name in fields))
    assert {reply.status for reply in replies} == {200}
    found = (await place.wire("GET", place.path)).body
    assert [name for name in fields if name not in found] == []


async def test_a_deleted_object_is_gone_and_its_key_is_free(place: Place) -> None:
    await call(place.objects.delete_object_buckets, place.bucket, place.made["object_id"])
    with pytest.raises(NotFoundException):
        await call(place.objects.get_object_buckets, place.bucket, place.made["object_id"])
    again = await place.wire("DELETE", place.path)
    assert again.status == 404
    listed = await place.wire("GET", f"/v1/buckets/{place.bucket}/objects")
    assert listed.body["results"] == []
    assert (await place.create("A"))["object_id"] != place.made["object_id"]


async def test_delete_answers_204_without_a_body(place: Place) -> None:
    reply = await place.wire("DELETE", place.path)
    assert reply.status == 204
    assert reply.body is None


async def test_documents_go_with_their_object(place: Place, api: Api) -> None:
    collection = await api.collection(place.namespace, place.bucket)
    path = f"/v1/buckets/{place.bucket}/objects"
    body = {"sku": "D", "qty": 1, "blobs": [{"property": "note", "data": "d"}]}
    made = (await place.wire("POST", path, body, policy="insert", auto_process="true")).body

    async def documents() -> int:
        reply = await place.wire("GET", f"/v1/collections/{collection}/documents/count")
        count: int = reply.body["count"]
        return count

    assert await eventually(documents, deadline=60) == 1
    assert (await place.wire("DELETE", f"{path}/{made['object_id']}")).status == 204
    assert await documents() == 0
    assert (await place.wire("GET", f"/v1/objects/{made['object_id']}/documents")).status == 404


async def test_an_object_that_is_deleted_while_it_is_processed_leaves_nothing(place: Place, api: Api) -> None:
    collection = await api.collection(place.namespace, place.bucket)
    path = f"/v1/buckets/{place.bucket}/objects"
    made = []
    for n in range(10):
        body = {"sku": f"E{n}", "qty": 1, "blobs": [{"property": "note", "data": str(n)}]}
        made.append((await place.wire("POST", path, body, policy="insert", auto_process="true")).body["object_id"])
    for object_id in made:
        assert (await place.wire("DELETE", f"{path}/{object_id}")).status == 204

    # one more goes all the way: what was under way before it has ended as well
    last = {"sku": "last", "qty": 1, "blobs": [{"property": "note", "data": "last"}]}
    kept = (await place.wire("POST", path, last, policy="insert", auto_process="true")).body["object_id"]

    async def only_the_last() -> bool:
        reply = await place.wire("GET", f"/v1/collections/{collection}/documents")
        return [d["_internal"]["lineage"]["root_object_id"] for d in reply.body["results"]] == [kept]

    assert await eventually(only_the_last, deadline=60)
