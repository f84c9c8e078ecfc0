"""Documents that are corrected by hand: fields change, lineage stays, processing has the last word."""

import asyncio
from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica, World

from bucketline.db.documents import DocumentDocument
from bucketline_ingest_api.documents import service
from bucketline_ingest_api.documents.service import merge_fields

pytestmark = pytest.mark.stack


@pytest.fixture
async def path(replica: Replica) -> str:
    """The path of a document, as a processor would have written it."""
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    schema = {"properties": {"sku": {"type": "string"}, "when": {"type": "datetime"}}}
    bucket = await replica.make("/v1/buckets", {"bucket_name": "b", "bucket_schema": schema}, namespace="home")
    collection = await replica.make(
        "/v1/collections",
        {
            "collection_name": "docs",
            "source": {"type": "bucket", "bucket_ids": ["b"]},
            "feature_extractor": {
                "feature_extractor_name": "passthrough_extractor",
                "version": "v1",
                "field_passthrough": [{"source_path": "when"}],
            },
        },
        namespace="home",
    )
    now = replica.deps.clock.now()
    for number, when in enumerate(("2026-03-01T10:00:00+05:30", "2026-03-01T05:00:00Z")):
        document: DocumentDocument = {
            "_id": f"doc_{number}",
            "namespace_id": "ns_1",
            "collection_id": collection["collection_id"],
            "object_id": "obj_1",
            "bucket_id": bucket["bucket_id"],
            "ordinal": number,
            "run": 1,
            "revision": 1,
            "fields": {"sku": "A-1", "when": when, "metadata": {"a": 1, "b": None, "c": {"d": 1}}},
            "blobs": [],
            "internal": {"document_id": f"doc_{number}", "updated_at": "2026-03-01T00:00:00.000Z", "lineage": {"x": 1}},
            "created_at": now,
            "updated_at": now,
        }
        await replica.deps.documents.save([document], fresh=True)
    return f"/v1/collections/{collection['collection_id']}/documents"


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_document_change_sets_what_is_sent(replica: Replica, path: str, method: str) -> None:
    before = (await replica.call("GET", f"{path}/doc_0", namespace="home")).body
    sent = {"label": "contract", "sku": None, "metadata": {"a": None, "c": 2, "e": [1]}}
    answer = await replica.call(method, f"{path}/doc_0", sent, namespace="home")
    assert answer.status == 200
    expected = {"label": "contract", "sku": None, "metadata": {"b": None, "c": 2, "e": [1]}}
    assert {name: answer.body[name] for name in expected} == expected
    assert answer.body["when"] == before["when"]
    changed = answer.body["_internal"].pop("updated_at")
    assert changed > before["_internal"].pop("updated_at")
    assert answer.body["_internal"] == before["_internal"]
    read = (await replica.call("GET", f"{path}/doc_0", namespace="home")).body
    assert read["_internal"].pop("updated_at") == changed
    assert read == answer.body
    other = (await replica.call("GET", f"{path}/doc_1", namespace="home")).body
    assert other["sku"] == "A-1"


async def test_document_change_of_nothing_writes_nothing(replica: Replica, path: str) -> None:
    before = await replica.deps.documents.collection.get("doc_0")
    for sent in ({}, {"sku": "A-1"}, {"metadata": {"a": 1}}):
        assert (await replica.call("PATCH", f"{path}/doc_0", sent, namespace="home")).status == 200
    assert await replica.deps.documents.collection.get("doc_0") == before


async def test_concurrent_document_changes_are_all_kept(replica: Replica, path: str) -> None:
    changes = [replica.call("PATCH", f"{path}/doc_0", {f"f{n}": n}, namespace="home") for n in range(8)]
    assert [answer.status for answer in await asyncio.gather(*changes)] == [200] * 8
    read = (await replica.call("GET", f"{path}/doc_0", namespace="home")).body
    assert [read[f"f{n}"] for n in range(8)] == list(range(8))


async def test_document_that_is_made_again_loses_the_change(replica: Replica, path: str) -> None:
    made: Any = await replica.deps.documents.collection.get("doc_0")
    await replica.call("PATCH", f"{path}/doc_0", {"sku": "by hand"}, namespace="home")
    made["run"] = 2
    await replica.deps.documents.save([made])
    assert (await replica.call("GET", f"{path}/doc_0", namespace="home")).body["sku"] == "A-1"


@pytest.mark.parametrize(
    ("sent", "location"),
    [
        ({"_internal": {}}, "_internal"),
        ({"document_id": "doc_9"}, "document_id"),
        ({"collection_id": "col_9"}, "collection_id"),
        ({"document_blobs": []}, "document_blobs"),
        ({"a.b": 1}, "a.b"),
        ({"$set": 1}, "$set"),
        ({"": 1}, ""),
        ({"deep": {"$ref": 1}}, "deep"),
        ({"big": 2**63}, "big"),
    ],
)
async def test_document_change_of_a_name_that_is_none_returns_422(
    replica: Replica, path: str, sent: dict[str, Any], location: str
) -> None:
    answer = await replica.call("PATCH", f"{path}/doc_0", sent, namespace="home")
    assert answer.status == 422
    [row] = answer.body["error"]["details"]["validation_errors"]
    assert row["location"][:2] == ["body", location]


async def test_document_change_has_a_largest_size(replica: Replica, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_OBJECT_BYTES", 1000)
    answer = await replica.call("PATCH", f"{path}/doc_0", {"text": "x" * 1000}, namespace="home")
    assert (answer.status, answer.body["error"]["details"]["limit_bytes"]) == (413, 1000)


async def test_document_change_elsewhere_returns_404(world: World, replica: Replica, path: str) -> None:
    assert (await replica.call("PATCH", f"{path}/doc_9", {"a": 1}, namespace="home")).status == 404
    assert (await replica.call("PUT", "/v1/collections/gone/documents/doc_0", {"a": 1}, namespace="home")).status == 404
    reader = await world.key(permissions=frozenset({"READ"}))
    assert (await replica.call("PATCH", f"{path}/doc_0", {"a": 1}, namespace="home", key=reader)).status == 403
    for body in ([1], "x", None):
        assert (await replica.call("PATCH", f"{path}/doc_0", body, namespace="home")).status == 422


async def test_documents_are_listed_by_moments(replica: Replica, path: str) -> None:
    filters = {"AND": [{"field": "when", "operator": "gte", "value": "2026-03-01T05:00Z"}]}
    listed = await replica.make(f"{path}/list", {"filters": filters, "include_total": True}, namespace="home")
    assert [row["document_id"] for row in listed["results"]] == ["doc_1"]
    assert listed["pagination"]["total"] == 1
    listed = await replica.make(f"{path}/list", {"sort": {"field": "when"}}, namespace="home")
    assert [row["document_id"] for row in listed["results"]] == ["doc_0", "doc_1"]


def test_merge_fields_replaces_metadata_that_is_no_object() -> None:
    assert merge_fields({"metadata": 1}, {"metadata": {"a": None, "b": 1}}) == {"metadata": {"b": 1}}
    assert merge_fields({"metadata": {"a": 1}}, {"metadata": [1]}) == {"metadata": [1]}
    assert merge_fields({"a": 1}, {}) == {"a": 1}
