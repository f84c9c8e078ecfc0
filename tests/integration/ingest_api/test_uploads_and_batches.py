"""Uploads and batches: what a sweeper does with time, and that no query scans a collection."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from tests.database import explain
from tests.fakes.blob_store import MemoryBlobStore
from tests.integration.ingest_api.conftest import Replica, World
from tests.integration.ingest_api.test_query_plans import record_queries, stages
from tests.waiting import present

from bucketline.errors import Forbidden, RetryableError, ServiceUnavailable
from bucketline_ingest_api.reconciler import UPLOAD_RETENTION, reconcile_uploads
from bucketline_ingest_api.uploads import confirmation
from bucketline_ingest_api.uploads.service import CONFIRM_GRACE

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"file": {"type": "pdf"}, "name": {"type": "string"}}}
PDF = b"%PDF-1.4 %%EOF"
SHA256 = hashlib.sha256(PDF).hexdigest()


async def bucket(replica: Replica, **more: object) -> str:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    made = await replica.make(
        "/v1/buckets", {"bucket_name": "files", "bucket_schema": SCHEMA, **more}, namespace="home"
    )
    return f"/v1/buckets/{made['bucket_id']}"


async def upload(replica: Replica, path: str, *, bytes_there: bool = True, **more: object) -> str:
    body = {"filename": "a.pdf", "content_type": "application/pdf", **more}
    made = await replica.make(f"{path}/uploads", body, namespace="home")
    if bytes_there:
        await put(replica, made["s3_key"])
    return str(made["upload_id"])


async def put(replica: Replica, key: str) -> None:
    """What a client does with its URL; here the store is told the checksum, too."""
    store = replica.deps.blobstore
    assert isinstance(store, MemoryBlobStore)
    async with store.upload(f"staging/{key}") as parts:
        await parts.write(PDF)
        await parts.finish_to(key, sha256=SHA256, size=len(PDF), content_type="application/pdf")


async def test_unconfirmed_upload_expires(world: World, replica: Replica) -> None:
    path = await bucket(replica)
    upload_id = await upload(replica, path)
    key = present(await world.database.collection("uploads").get(upload_id))["key"]
    world.clock.advance(3600 + CONFIRM_GRACE.total_seconds() + 1)
    late = await replica.call("POST", f"{path}/uploads/{upload_id}/confirm", namespace="home")
    assert late.status == 400
    assert await reconcile_uploads(replica.deps) == 1
    found = await replica.call("GET", f"{path}/uploads/{upload_id}", namespace="home")
    assert found.body["status"] == "FAILED"
    assert "expired" in found.body["message"]
    assert await replica.deps.blobstore.list(key, limit=1) == []
    world.clock.advance((UPLOAD_RETENTION - timedelta(days=1)).total_seconds())
    await reconcile_uploads(replica.deps)
    assert (await replica.call("GET", f"{path}/uploads/{upload_id}", namespace="home")).status == 200
    world.clock.advance(timedelta(days=2).total_seconds())
    await reconcile_uploads(replica.deps)
    assert (await replica.call("GET", f"{path}/uploads/{upload_id}", namespace="home")).status == 404


@pytest.mark.parametrize("how", ["upload", "upload, not its bytes", "bucket", "namespace"])
@pytest.mark.parametrize("late", [False, True])
async def test_no_bytes_of_a_deleted_upload_stay_behind(world: World, replica: Replica, how: str, late: bool) -> None:
    path = await bucket(replica)
    upload_id = await upload(replica, path, bytes_there=not late)
    key = present(await world.database.collection("uploads").get(upload_id))["key"]
    deleted = {
        "upload": f"{path}/uploads/{upload_id}",
        "upload, not its bytes": f"{path}/uploads/{upload_id}?delete_s3_object=false",
        "bucket": path,
        "namespace": "/v1/namespaces/home",
    }[how]
    assert (await replica.call("DELETE", deleted, namespace="home")).status in (200, 204)
    await replica.settle()
    if late:
        await put(replica, key)
    assert (await replica.call("GET", f"{path}/uploads/{upload_id}", namespace="home")).status == 404
    assert bool(await replica.deps.blobstore.list(key, limit=1)) == (late or "not" in how)
    world.clock.advance(3600 + CONFIRM_GRACE.total_seconds() + 1)
    await replica.deps.runner.poll()
    await replica.settle()
    await reconcile_uploads(replica.deps)
    assert await replica.deps.blobstore.list("uploads/", limit=1) == []
    assert await world.database.collection("uploads").count({}) == 0


async def test_a_confirmed_upload_stays(world: World, replica: Replica) -> None:
    path = await bucket(replica)
    upload_id = await upload(replica, path)
    done = await replica.make(f"{path}/uploads/{upload_id}/confirm", None, namespace="home")
    assert done["object_id"]
    world.clock.advance(timedelta(days=100).total_seconds())
    await reconcile_uploads(replica.deps)
    assert (await replica.call("GET", f"{path}/uploads/{upload_id}", namespace="home")).status == 200


async def test_large_ones_are_confirmed_in_the_background(world: World) -> None:
    replica = world.replica(async_confirm_threshold_bytes=len(PDF))
    path = await bucket(replica)
    upload_id = await upload(replica, path)
    started = await replica.make(f"{path}/uploads/{upload_id}/confirm", None, namespace="home")
    assert started["status"] == "PROCESSING"
    again = await replica.make(f"{path}/uploads/{upload_id}/confirm", None, namespace="home")
    assert again["task_id"] == started["task_id"]
    await replica.settle()
    found = await replica.call("GET", f"{path}/uploads/{upload_id}", namespace="home")
    assert found.body["status"] == "COMPLETED"
    assert found.body["object_id"]


@pytest.mark.parametrize("many", [False, True])
async def test_a_confirmation_outlasts_a_service_that_is_busy(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    path = await bucket(replica)
    upload_id = await upload(replica, path)
    create_object: Any = vars(confirmation)["create_object"]
    busy = [True, True]

    async def failing(*args: Any, **options: Any) -> Any:
        if busy:
            busy.pop()
            raise ServiceUnavailable("too many writes are waiting")
        return await create_object(*args, **options)

    monkeypatch.setattr(confirmation, "create_object", failing)
    if many:
        body = {"confirmations": [{"upload_id": upload_id}]}
        begun = await replica.make(f"{path}/uploads/confirm/batch", body, namespace="home")
    else:
        begun = await replica.make(f"{path}/uploads/{upload_id}/confirm?async=true", None, namespace="home")
    for _ in range(3):
        await replica.settle()
        world.clock.advance(5)
        await replica.deps.runner.poll()
    await replica.settle()
    task = (await replica.call("GET", f"/v1/tasks/{begun['task_id']}")).body
    assert (task["status"], len(task["outputs"])) == ("COMPLETED", 1)
    found = (await replica.call("GET", f"{path}/uploads/{upload_id}", namespace="home")).body
    assert (found["status"], [found["object_id"]]) == ("COMPLETED", task["outputs"])


async def test_rejected_submission_keeps_the_confirmed_upload(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Forbidden("the quota is used up")

    path = await bucket(replica)
    upload_id = await upload(replica, path)
    with monkeypatch.context() as patch:
        patch.setattr(confirmation, "submit_batch", refuse)
        body = {"auto_submit_batch": True}
        refused = await replica.call("POST", f"{path}/uploads/{upload_id}/confirm", body, namespace="home")
    assert refused.status == 403
    details = refused.body["error"]["details"]
    assert details["upload_id"] == upload_id
    batch = await replica.call("GET", f"{path}/batches/{details['batch_id']}", namespace="home")
    assert (batch.body["status"], batch.body["object_ids"]) == ("DRAFT", [details["object_id"]])
    found = await replica.call("GET", f"{path}/objects/{details['object_id']}", namespace="home")
    assert found.status == 200
    later = await replica.make(f"{path}/uploads/{upload_id}/confirm", body, namespace="home")
    assert later["batch_id"] == details["batch_id"]


async def test_the_end_of_a_draft_is_due_at_the_webhook_of_its_submission(world: World, replica: Replica) -> None:
    path = await bucket(replica)
    made = await replica.make(f"{path}/objects", {"name": "one"}, namespace="home")
    ends = []
    for hook in ({"webhook_url": "https://example.com/hook"}, {}):
        draft = await replica.make(f"{path}/batches", {"object_ids": [made["object_id"]]}, namespace="home")
        batch = f"{path}/batches/{draft['batch_id']}"
        await replica.make(f"{batch}/submit", hook, namespace="home")
        over = {"$set": {"status": "FAILED", "webhook": {"called_at": world.clock.now()}}}
        await replica.deps.batches.collection.update_one({"_id": draft["batch_id"]}, over)
        await replica.make(f"{batch}/resubmit?auto_submit=false", None, namespace="home")
        await replica.make(f"{batch}/cancel", None, namespace="home")
        ends.append(await replica.deps.batches.get(draft["batch_id"]))
    assert [end and (end["status"], end.get("webhook")) for end in ends] == [
        ("CANCELED", {"due_at": world.clock.now()}),
        ("CANCELED", None),
    ]
    due = await replica.deps.batches.webhooks_due(world.clock.now(), limit=10)
    assert [row["_id"] for row in due] == [ends[0] and ends[0]["_id"]]


async def test_the_books_of_a_batch_know_objects_of_its_bucket_only(replica: Replica) -> None:
    path = await bucket(replica)
    other = await replica.make("/v1/buckets", {"bucket_name": "other", "bucket_schema": SCHEMA}, namespace="home")
    foreign = await replica.make(f"/v1/buckets/{other['bucket_id']}/objects", {"name": "one"}, namespace="home")
    unchecked = {"object_ids": [foreign["object_id"], "obj_unknown"]}
    batch = await replica.make(f"{path}/batches?skip_validation=true", unchecked, namespace="home")
    over = {"status": "COMPLETED", "planned": True, "missing": 2, "processed": 0}
    await replica.deps.batches.collection.update_one({"_id": batch["batch_id"]}, {"$set": over})
    audit = (await replica.call("GET", f"{path}/batches/{batch['batch_id']}/audit", namespace="home")).body
    assert (audit["deleted"], audit["lost"], audit["all_balanced"]) == (2, 0, True), audit


@pytest.mark.parametrize("what", ["batch", "bucket"])
async def test_batch_can_be_deleted_after_its_completion_was_published(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def away(_: object) -> None:
        raise RetryableError("the broker is away")

    path = await bucket(replica)
    made = await replica.make(f"{path}/objects", {"name": "one"}, namespace="home")
    draft = await replica.make(f"{path}/batches", {"object_ids": [made["object_id"]]}, namespace="home")
    batch = f"{path}/batches/{draft['batch_id']}"
    with monkeypatch.context() as patched:
        patched.setattr(replica.bus, "publish", away)
        await replica.make(f"{batch}/cancel", None, namespace="home")
        if what == "batch":
            refused = await replica.call("DELETE", batch, namespace="home")
            assert (refused.status, refused.body["error"]["details"]["retryable"]) == (503, True)
        else:
            await replica.call("DELETE", path, namespace="home")
            await replica.settle()
        assert await replica.deps.batches.collection.count({}) == 1
    assert "bucketline.batch.completed.v1" not in [envelope.type for envelope in replica.bus.published]
    if what == "batch":
        assert (await replica.call("DELETE", batch, namespace="home")).status == 200
    else:
        world.clock.advance(10)
        await replica.deps.runner.poll()
        await replica.settle()
    assert await replica.deps.batches.collection.count({}) == 0
    told = [envelope.type for envelope in replica.bus.published if "batch" in envelope.type]
    assert told == ["bucketline.batch.canceled.v1", "bucketline.batch.completed.v1"]


async def test_no_plan_scans_a_collection(world: World, replica: Replica) -> None:
    with record_queries() as asked:
        path = await bucket(replica)
        upload_id = await upload(replica, path, file_hash=SHA256)
        await replica.make(f"{path}/uploads/{upload_id}/confirm", {"auto_submit_batch": True}, namespace="home")
        await upload(replica, path, file_hash=SHA256, bytes_there=False)
        for body in ({}, {"search": "a"}, {"filters": {"status": "COMPLETED"}}, {"sort": {"field": "created_at"}}):
            await replica.make(f"{path}/uploads/list", body, namespace="home")
            await replica.make(f"{path}/batches/list", body, namespace="home")
            await replica.make("/v1/batches/list", body, namespace="home")
            await replica.make("/v1/batches/list", body)
        made = await replica.make(f"{path}/objects", {"name": "one"}, namespace="home")
        draft = await replica.make(f"{path}/batches", {"object_ids": [made["object_id"]]}, namespace="home")
        await replica.make(f"{path}/batches", {"filters": {"name": "one"}}, namespace="home")
        one = f"{path}/batches/{draft['batch_id']}"
        for method, route in (
            ("GET", ""),
            ("GET", "/audit"),
            ("GET", "/failed-documents"),
            ("POST", "/submit"),
            ("POST", "/cancel"),
            ("POST", "/retry"),
            ("POST", "/resubmit"),
            ("DELETE", ""),
        ):
            await replica.call(method, one + route, namespace="home")
        world.clock.advance(10_000)
        await reconcile_uploads(replica.deps)
    scanned = []
    for name, where, sort, hint in asked:
        plan = await explain(world.database.collection(name), where, sort=sort) if hint is None else {"stage": "IXSCAN"}
        if "COLLSCAN" in stages(plan):
            scanned.append((name, where))
    assert scanned == []
