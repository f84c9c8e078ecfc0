"""Submit many batches with one request: all drafts of a bucket, or all of its objects."""

from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica

from bucketline.clock import ManualClock
from bucketline_ingest_api.batches import submission
from bucketline_ingest_api.batches.service import new_draft

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"state": {"type": "string"}, "when": {"type": "datetime"}}}


@pytest.fixture
async def path(replica: Replica) -> str:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    for name in ("b", "other"):
        await replica.make("/v1/buckets", {"bucket_name": name, "bucket_schema": SCHEMA}, namespace="home")
    return "/v1/buckets/b"


async def objects(replica: Replica, path: str, count: int, **fields: object) -> list[str]:
    bodies = [{"state": "open", **fields} for _ in range(count)]
    made = await replica.make(f"{path}/objects/batch", {"objects": bodies}, namespace="home")
    return [row["object_id"] for row in made["succeeded"]]


async def batches(replica: Replica, path: str) -> list[dict[str, Any]]:
    found = await replica.make(f"{path}/batches/list", {"sort": {"field": "created_at"}}, namespace="home")
    return list(found["results"])


async def test_submit_all_submits_the_drafts_of_the_bucket(
    replica: Replica, clock: ManualClock, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "MAX_DRAFTS", 2)
    ids = await objects(replica, path, 4)
    drafts = []
    for object_id in ids[:3]:
        draft = await replica.make(f"{path}/batches", {"object_ids": [object_id]}, namespace="home")
        drafts.append(draft["batch_id"])
        clock.advance(1)
    running = await replica.make(f"{path}/batches?auto_submit=true", {"object_ids": ids[3:]}, namespace="home")
    others = await objects(replica, "/v1/buckets/other", 1)
    other = await replica.make("/v1/buckets/other/batches", {"object_ids": others}, namespace="home")
    bucket: Any = await replica.deps.buckets.collection.find_one({"name": "b"})
    await replica.deps.batches.collection.insert(
        new_draft(bucket["namespace_id"], bucket["_id"], [], batch_id="btch_empty", now=replica.deps.clock.now())
    )
    first = await replica.make(f"{path}/batches/submit-all", None, namespace="home")
    assert (first["submitted"], first["failed"], first["empty"], first["has_more"]) == (2, 0, 1, True)
    assert [row["batch_id"] for row in first["batches"]] == drafts[:2]
    assert {row["status"] for row in first["batches"]} == {"PENDING"}
    second = await replica.make(f"{path}/batches/submit-all", None, namespace="home")
    assert [row["batch_id"] for row in second["batches"]] == drafts[2:]
    third = await replica.make(f"{path}/batches/submit-all", None, namespace="home")
    assert (third["total"], third["has_more"]) == (0, False)
    await replica.deps.batch_outbox.close()
    said = [event.subject for event in replica.bus.published if event.type.endswith("batch.submitted.v1")]
    assert sorted(said) == sorted([*drafts, running["batch_id"]])
    untouched = await replica.call("GET", f"/v1/buckets/other/batches/{other['batch_id']}", namespace="home")
    assert untouched.body["status"] == "DRAFT"


@pytest.mark.parametrize(("size", "chunks"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (1000, [7])])
async def test_bulk_submit_puts_every_object_into_one_batch(
    replica: Replica, path: str, size: int, chunks: list[int]
) -> None:
    ids = await objects(replica, path, 7)
    await objects(replica, "/v1/buckets/other", 1)
    answer = await replica.make(f"{path}/batches/bulk-submit", {"chunk_size": size}, namespace="home")
    assert answer["total_objects"] == 7
    assert (answer["total_batches"], answer["submitted"], answer["failed"]) == (len(chunks), len(chunks), 0)
    assert answer["chunk_size"] == size
    assert [row["object_count"] for row in answer["batches"]] == chunks
    made = await batches(replica, path)
    assert sorted(object_id for batch in made for object_id in batch["object_ids"]) == sorted(ids)
    group = {"metadata.batch_group_id": answer["batch_group_id"]}
    listed = await replica.make(f"{path}/batches/list", {"filters": group}, namespace="home")
    assert listed["total_count"] == len(chunks)


async def test_bulk_submit_without_a_body_submits_the_whole_bucket(replica: Replica, path: str) -> None:
    empty = await replica.make(f"{path}/batches/bulk-submit", None, namespace="home")
    assert (empty["total_objects"], empty["batches"]) == (0, [])
    await objects(replica, path, 2)
    assert (await replica.make(f"{path}/batches/bulk-submit", None, namespace="home"))["total_objects"] == 2


async def test_bulk_submit_with_filters_and_maximum_submits_the_oldest_matches(replica: Replica, path: str) -> None:
    early = await objects(replica, path, 2, when="2026-03-01T10:00:00+05:30")
    await objects(replica, path, 2, when="2026-03-01T05:00:00Z")
    body = {"filters": {"AND": [{"field": "when", "operator": "lt", "value": "2026-03-01T05:00Z"}]}}
    answer = await replica.make(f"{path}/batches/bulk-submit", body, namespace="home")
    assert answer["total_objects"] == 2
    [batch] = await batches(replica, path)
    assert sorted(batch["object_ids"]) == sorted(early)
    answer = await replica.make(f"{path}/batches/bulk-submit", {"max_objects": 3, "chunk_size": 2}, namespace="home")
    assert [row["object_count"] for row in answer["batches"]] == [2, 1]


async def test_bulk_submit_above_the_limit_creates_nothing(
    replica: Replica, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "MAX_BATCHES", 2)
    await objects(replica, path, 5)
    answer = await replica.call("POST", f"{path}/batches/bulk-submit", {"chunk_size": 2}, namespace="home")
    assert (answer.status, answer.body["error"]["code"]) == (400, "bulk_submit_too_large")
    assert await batches(replica, path) == []
    body = {"chunk_size": 2, "max_objects": 4}
    assert (await replica.make(f"{path}/batches/bulk-submit", body, namespace="home"))["total_objects"] == 4


@pytest.mark.parametrize(
    ("body", "status"),
    [({"chunk_size": 0}, 422), ({"chunk_size": 50_001}, 422), ({"max_objects": 0}, 422),
     ({"dedup_strategy": "never"}, 422), ({"collection_ids": ["col_unknown"]}, 404),
     ({"filters": {"when": "noon"}}, 422)],
)  # fmt: skip
async def test_bulk_submit_with_invalid_body_is_rejected(
    replica: Replica, path: str, body: dict[str, Any], status: int
) -> None:
    answer = await replica.call("POST", f"{path}/batches/bulk-submit", body, namespace="home")
    assert answer.status == status
