"""Batches whose work units have expired: they say what they know, and do not call it a loss."""

from datetime import timedelta
from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica, World

from bucketline.db.batches import Batches
from bucketline.db.work_units import KEPT, WorkUnits

pytestmark = pytest.mark.stack

STATUSES = ("COMPLETED", "SKIPPED", "COMPLETED_WITH_ERRORS", "FAILED")


class Old:
    """A batch that is over, each of its objects in a unit of its own, and one that was deleted before."""

    def __init__(self, world: World, replica: Replica, path: str, batch: Any) -> None:
        self.world, self.replica, self.path = world, replica, f"{path}/batches/{batch['batch_id']}"
        self.batch_id, self.ids = str(batch["batch_id"]), batch["object_ids"]
        self.units, self.batches = WorkUnits(world.database), Batches(world.database)

    async def end(self, statuses: tuple[str, ...] = STATUSES, **more: Any) -> None:
        """What the batcher writes."""
        batch: Any = await self.batches.get(self.batch_id)
        now = self.world.clock.now()
        failed = []
        for number, status in enumerate(statuses):
            object_id = self.ids[number]
            result = {"status": status, "documents": 1, "error": None, "error_type": None, "at": now}
            if status in ("COMPLETED_WITH_ERRORS", "FAILED"):
                result |= {"error": "broke", "error_type": "permanent"}
                failed.append({"object_id": object_id, "error": "broke", "error_type": "permanent", "timestamp": now})
            item = {"object_id": object_id, "batch_id": self.batch_id, "turn": batch["run"], "run": batch["run"]}
            unit: Any = {
                "_id": f"{object_id}:{batch['run']}",
                "batch_id": self.batch_id,
                "turn": batch["run"],
                "items": [item],
                "size": 1,
                "state": "done",
                "results": {"0": result},
                "finished_at": now,
            }
            await self.units.insert([unit])
        base = batch.get("base") or {"finished": 0, "failed": 0}
        finished = sum(status != "DRAFT" for status in statuses)
        ended = {
            "status": "COMPLETED_WITH_ERRORS",
            "processed": base["finished"] + finished,
            "failed": base["failed"] + len(failed),
            "missing": len(self.ids) - base["finished"] - len(statuses),
            "failed_objects": failed,
            "completed_at": now,
            **more,
        }
        await self.batches.collection.update_one({"_id": self.batch_id}, {"$set": ended})

    async def expire(self, *object_ids: str) -> None:
        """What MongoDB does in time; all of them without an argument."""
        await self.units.collection.delete_many({"items.object_id": {"$in": list(object_ids or self.ids)}})

    async def audit(self) -> Any:
        return (await self.replica.call("GET", f"{self.path}/audit", namespace="home")).body

    async def retry(self) -> Any:
        return await self.replica.call("POST", f"{self.path}/retry", {"retry_mode": "all"}, namespace="home")


@pytest.fixture
async def old(world: World, replica: Replica) -> Old:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    schema = {"properties": {"name": {"type": "string"}}}
    bucket = await replica.make("/v1/buckets", {"bucket_name": "files", "bucket_schema": schema}, namespace="home")
    path = f"/v1/buckets/{bucket['bucket_id']}"
    made = [await replica.make(f"{path}/objects", {"name": f"n{n}"}, namespace="home") for n in range(5)]
    ids = [obj["object_id"] for obj in made]
    batch = await replica.make(f"{path}/batches", {"object_ids": ids, "auto_submit": True}, namespace="home")
    deleted = await replica.call("DELETE", f"{path}/objects/{ids[-1]}", namespace="home")
    assert deleted.status == 204
    return Old(world, replica, path, batch)


@pytest.mark.parametrize("gone", [2, 4])
async def test_audit_of_a_batch_with_expired_units_shows_its_totals(world: World, old: Old, gone: int) -> None:
    await old.end()
    before = await old.audit()
    assert (before["all_balanced"], before["from_sums"], before["skipped"]) == (True, False, 1)
    world.clock.advance(KEPT.total_seconds() + 60)
    await old.expire(*old.ids[:gone])
    books = await old.audit()
    assert (books["all_balanced"], books["has_lost_objects"], books["lost_object_ids"]) == (True, False, [])
    assert (books["submitted"], books["processed"], books["failed"], books["deleted"]) == (5, 4, 2, 1)
    assert (books["completed"], books["given_back"], books["from_sums"]) == (2, 0, True)
    assert all(tier["lost"] == 0 for tier in books["tiers"])


async def test_audit_of_an_old_canceled_batch_counts_returned_objects_as_not_lost(world: World, old: Old) -> None:
    await old.end(("COMPLETED", "DRAFT", "DRAFT", "DRAFT"), status="CANCELED")
    world.clock.advance(KEPT.total_seconds() + 60)
    await old.expire()
    books = await old.audit()
    assert (books["all_balanced"], books["processed"], books["given_back"], books["deleted"]) == (True, 1, 3, 1)


async def test_audit_reports_a_unit_missing_before_expiry_as_lost(world: World, old: Old) -> None:
    await old.end()
    world.clock.advance((KEPT - timedelta(days=1)).total_seconds())
    await old.expire(old.ids[0])
    books = await old.audit()
    assert (books["all_balanced"], books["lost_object_ids"], books["from_sums"]) == (False, [old.ids[0]], False)


@pytest.mark.parametrize("gone", [3, 4])
async def test_failures_of_an_old_batch_are_listed_and_retry_is_rejected(world: World, old: Old, gone: int) -> None:
    await old.end()
    world.clock.advance(KEPT.total_seconds() + 60)
    await old.expire(*old.ids[:gone])
    shown = await old.replica.call("GET", f"{old.path}/failed-documents", namespace="home")
    assert [row["object_id"] for row in shown.body["results"]] == sorted(old.ids[2:4])
    refused = await old.retry()
    assert (refused.status, refused.body["error"]["code"]) == (400, "batch_results_expired")
    assert "resubmit" in refused.body["error"]["message"]
    assert refused.body["error"]["details"]["failed_object_count"] == 2
    again = await old.replica.call("POST", f"{old.path}/resubmit", namespace="home")
    assert (again.status, again.body["status"]) == (200, "PENDING"), "what the error names works"


async def test_retry_of_an_old_batch_without_failures_changes_nothing(world: World, old: Old) -> None:
    await old.end(("COMPLETED",) * 4, status="COMPLETED")
    world.clock.advance(KEPT.total_seconds() + 60)
    await old.expire()
    answer = await old.retry()
    assert (answer.status, answer.body["retried_count"]) == (200, 0)


async def test_results_of_a_late_retry_outlive_the_previous_run(world: World, old: Old) -> None:
    await old.end()
    world.clock.advance((KEPT - timedelta(days=1)).total_seconds())
    taken = await old.retry()
    assert (taken.status, taken.body["retried_count"]) == (200, 2)
    first = [unit["_id"] for unit in await old.units.collection.find({"batch_id": old.batch_id}, limit=10)]
    old.ids = [*old.ids[2:4], *old.ids[:2], *old.ids[4:]]
    await old.end(("COMPLETED", "FAILED"))
    world.clock.advance(timedelta(days=2).total_seconds())
    await old.units.collection.delete_many({"_id": {"$in": first}})
    books = await old.audit()
    assert (books["all_balanced"], books["processed"], books["failed"], books["deleted"]) == (True, 4, 1, 1)
    refused = await old.retry()
    assert (refused.status, refused.body["error"]["code"]) == (400, "batch_results_expired")
