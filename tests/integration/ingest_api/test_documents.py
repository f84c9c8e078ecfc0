"""Lists of documents: some of their fields, in parts, with what they refer to."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from tests.integration.ingest_api.conftest import Replica
from tests.integration.ingest_api.test_blob_details import bucket, collection

from bucketline.db.documents import DocumentDocument
from bucketline.ids import derived
from bucketline_ingest_api.documents.service import MAX_REFERENCES

pytestmark = pytest.mark.stack


class Shelf:
    """A collection with documents that no processor had to make."""

    def __init__(self, replica: Replica, collection_id: str, namespace_id: str, bucket_id: str) -> None:
        self.replica = replica
        self.id = collection_id
        self.namespace_id = namespace_id
        self.bucket_id = bucket_id

    async def add(
        self,
        number: int,
        fields: Mapping[str, object],
        *,
        parent: str | None = None,
        namespace_id: str | None = None,
        object_id: str = "obj_1",
    ) -> str:
        now = self.replica.deps.clock.now()
        identifier = derived("doc", self.id, number)
        above = [{"collection_id": self.id, "document_id": parent}] if parent else []
        document: DocumentDocument = {
            "_id": identifier,
            "namespace_id": namespace_id or self.namespace_id,
            "collection_id": self.id,
            "object_id": object_id,
            "bucket_id": self.bucket_id,
            "ordinal": number,
            "run": 1,
            "revision": 1,
            "source_document_id": parent,
            "fields": dict(fields),
            "blobs": [],
            "internal": {"lineage": {"chain": [*above, {"collection_id": self.id, "document_id": identifier}]}},
            "created_at": now,
            "updated_at": now,
        }
        await self.replica.deps.documents.save([document])
        return identifier

    async def call(self, path: str = "/list", body: object = None, *, method: str = "POST") -> Any:
        return await self.replica.call(
            method, f"/v1/collections/{self.id}/documents{path}", body, namespace=self.namespace_id
        )

    async def rows(self, body: object) -> list[dict[str, Any]]:
        answer = await self.call(body=body)
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.body["results"]
        return found


@pytest.fixture
async def shelf(replica: Replica) -> Shelf:
    path = await bucket(replica)
    collection_id = await collection(replica, path)
    found = await replica.deps.collections.collection.get(collection_id)
    assert found is not None
    return Shelf(replica, collection_id, found["namespace_id"], path.rpartition("/")[2])


async def test_select_keeps_fields_and_ids(shelf: Shelf) -> None:
    identifier = await shelf.add(1, {"sku": "A", "vendor": {"name": "Acme", "id": 7}, "text": "long"})
    ids = {"document_id": identifier, "collection_id": shelf.id}
    assert await shelf.rows({"select": ["sku", "vendor.name", "nothing"]}) == [
        {**ids, "sku": "A", "vendor": {"name": "Acme"}}
    ]
    assert await shelf.rows({"select": []}) == [ids]
    (row,) = await shelf.rows({"select": ["_internal.lineage", "document_blobs"]})
    assert row.keys() == {*ids, "_internal", "document_blobs"}
    (row,) = await shelf.rows({"select": None})
    assert row["text"] == "long"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
async def test_partitions_are_disjoint_and_complete_and_a_cursor_alone_stays_inside(shelf: Shelf, count: int) -> None:
    made = {await shelf.add(number, {"n": number % 2}) for number in range(60)}
    seen: list[str] = []
    for index in range(count):
        body: dict[str, Any] = {"partition": {"index": index, "count": count}, "limit": 7, "include_total": True}
        total, before = None, len(seen)
        while True:
            answer = await shelf.call(body=body)
            assert answer.status == 200, answer.body
            seen += [row["document_id"] for row in answer.body["results"]]
            total = total or answer.body["total_documents"]
            if (cursor := answer.body["pagination"]["next_cursor"]) is None:
                break
            body = {"cursor": cursor, "limit": 7}
        assert len(seen) - before == total
    assert len(seen) == len(made)
    assert set(seen) == made
    filtered = {
        row["document_id"]
        for index in range(count)
        for row in await shelf.rows({"partition": {"index": index, "count": count}, "filters": {"n": 1}, "limit": 60})
    }
    assert len(filtered) == 30


async def test_partition_that_does_not_exist_or_is_not_the_cursors_is_refused(shelf: Shelf) -> None:
    for number in range(20):
        await shelf.add(number, {})
    for wrong in ({"index": 2, "count": 2}, {"index": -1, "count": 2}, {"index": 0, "count": 257}, {"index": 0}):
        assert (await shelf.call(body={"partition": wrong})).status == 422, wrong
    first = await shelf.call(body={"partition": {"index": 0, "count": 2}, "limit": 2})
    cursor = first.body["pagination"]["next_cursor"]
    other = await shelf.call(body={"partition": {"index": 1, "count": 2}, "cursor": cursor})
    assert (other.status, other.body["error"]["code"]) == (400, "invalid_cursor")


async def test_expand_attaches_documents_of_the_namespace_one_level_deep(shelf: Shelf) -> None:
    part = await shelf.add(1, {"name": "part"})
    foreign = await shelf.add(2, {}, namespace_id="ns_other")
    items = [{"ref": part}, {"ref": foreign}, {"ref": "doc_missing"}, {"ref": 5}]
    whole = await shelf.add(3, {"main": part, "items": items, "more": [part], "not": "text"})
    body = {
        "filters": {"document_id": whole},
        "expand": ["main", "items.ref", "more", "not", "absent"],
        "select": ["main"],
    }
    (row,) = await shelf.rows(body)
    assert row.keys() == {"document_id", "collection_id", "main", "_expanded"}
    found = row["_expanded"]
    assert found["main"]["document_id"] == part
    assert found["main"]["name"] == "part"
    assert [one["document_id"] for one in found["items.ref"]] == [part]
    assert [one["document_id"] for one in found["more"]] == [part]
    assert (found["not"], found["absent"]) == (None, None)
    assert "_expanded" not in found["main"]


async def test_expand_of_too_many_documents_is_refused_and_not_cut(shelf: Shelf) -> None:
    refs = [derived("doc", "ref", number) for number in range(MAX_REFERENCES + 1)]
    await shelf.add(1, {"refs": refs})
    answer = await shelf.call(body={"expand": ["refs"]})
    assert answer.status == 422
    (fault,) = answer.body["error"]["details"]["validation_errors"]
    assert (fault["location"], str(MAX_REFERENCES + 1) in fault["message"]) == (["body", "expand"], True)


async def test_get_expands_the_lineage(shelf: Shelf) -> None:
    made = await shelf.replica.make(f"/v1/buckets/{shelf.bucket_id}/objects", {"sku": "A"}, namespace="home")
    top = await shelf.add(1, {"level": 0}, object_id=made["object_id"])
    below = [await shelf.add(n, {"level": 1, "see": top}, parent=top, object_id=made["object_id"]) for n in (2, 3)]
    names = "parent,ancestors,children,root_object,see"
    of_top = (await shelf.call(f"/{top}?expand={names}", method="GET")).body
    assert of_top["level"] == 0
    assert (of_top["_expanded"]["parent"], of_top["_expanded"]["ancestors"]) == (None, [])
    assert [child["document_id"] for child in of_top["_expanded"]["children"]] == below
    assert of_top["_expanded"]["root_object"]["sku"] == "A"
    of_child = (await shelf.call(f"/{below[0]}?expand={names}", method="GET")).body["_expanded"]
    assert of_child["parent"]["document_id"] == of_child["see"]["document_id"] == top
    assert [above["document_id"] for above in of_child["ancestors"]] == [top]
    assert of_child["children"] == []
    assert "_expanded" not in (await shelf.call(f"/{top}", method="GET")).body


async def test_filters_and_sort_may_stand_in_the_query(shelf: Shelf) -> None:
    for number in range(4):
        await shelf.add(number, {"n": number})
    filters = orjson.dumps({"AND": [{"field": "n", "operator": "gte", "value": 2}]}).decode()
    for method, path in (("GET", ""), ("POST", "/list")):
        for sort in ("n:desc", '{"field":"n","direction":"desc"}'):
            answer = await shelf.call(f"{path}?filters={filters}&sort={sort}", method=method)
            assert [row["n"] for row in answer.body["results"]] == [3, 2], answer.body
    body_wins = await shelf.call(f"/list?filters={filters}", {"filters": {"n": 0}})
    assert [row["n"] for row in body_wins.body["results"]] == [0]
    for wrong in ("filters={", "filters=3", "sort=n:up", "sort={"):
        refused = await shelf.call(f"?{wrong}", method="GET")
        named = {tuple(row["location"][:2]) for row in refused.body["error"]["details"]["validation_errors"]}
        assert (refused.status, named) == (422, {("query", wrong.partition("=")[0])})


@pytest.mark.parametrize(
    ("method", "path", "body", "named"),
    [
        ("POST", "/list", {"return_vectors": True}, ["body", "return_vectors"]),
        ("POST", "/list", {"return_vector_names": ["e5"]}, ["body", "return_vector_names"]),
        ("POST", "/list", {"group_by": "sku"}, ["body", "group_by"]),
        ("POST", "/list?return_vectors=true", None, ["query", "return_vectors"]),
        ("GET", "?return_vectors=true", None, ["query", "return_vectors"]),
        ("GET", "/doc_1?return_vector_names=true", None, ["query", "return_vector_names"]),
    ],
)
async def test_vectors_and_groups_are_refused_by_name(
    shelf: Shelf, method: str, path: str, body: object, named: list[str]
) -> None:
    refused = await shelf.call(path, body, method=method)
    assert refused.status == 422
    assert [row["location"] for row in refused.body["error"]["details"]["validation_errors"]] == [named]
    nothing = await shelf.call("/list?return_vectors=false", {"return_vectors": False, "group_by": None})
    assert nothing.status == 200
