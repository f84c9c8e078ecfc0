"""The lease queue on a real MongoDB: claims, renewals and the ends of leases."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bucketline.db.lease_queue import LeaseFields, LeaseQueue
from bucketline.db.mongo import Collection, Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
UNTIL = NOW + timedelta(seconds=30)
NESTED = LeaseFields(owner="work.owner", due_at="work.due_at")
STATED = LeaseFields(
    owner="lease.owner",
    due_at="lease.until",
    within={"state": {"$in": ["ready", "leased"]}},
    unleased={"state": "ready"},
    lease="lease",
)


@pytest.fixture
def entries(database: Database) -> Collection[Any]:
    return database.collection("entries")


@pytest.fixture
def queue(entries: Collection[Any]) -> LeaseQueue[Any]:
    return LeaseQueue(entries, NESTED)


async def add(entries: Collection[Any], entry_id: str, *, due_in: float = -1, **fields: object) -> None:
    await entries.insert({"_id": entry_id, "work": {"due_at": NOW + timedelta(seconds=due_in)}, **fields})


async def work_of(entries: Collection[Any], entry_id: str) -> dict[str, Any]:
    entry = await entries.get(entry_id)
    assert entry is not None
    work: dict[str, Any] = entry["work"]
    return work


async def test_find_due_returns_overdue_entries_longest_overdue_first(
    entries: Collection[Any], queue: LeaseQueue[Any]
) -> None:
    for entry_id, due_in in (("late", -5.0), ("later", 5.0), ("now", 0.0), ("latest", -50.0)):
        await add(entries, entry_id, due_in=due_in)
    await entries.insert({"_id": "finished", "work": {}})

    assert [entry["_id"] for entry in await queue.find_due(NOW, limit=10)] == ["latest", "late", "now"]
    assert [entry["_id"] for entry in await queue.find_due(NOW, limit=1)] == ["latest"]
    assert await queue.count_due(NOW, limit=10) == 3
    assert await queue.count_due(NOW, limit=10, where={"_id": "late"}) == 1


async def test_claim_by_many_workers_gives_the_entry_to_one(entries: Collection[Any], queue: LeaseQueue[Any]) -> None:
    await add(entries, "a")
    claims = await asyncio.gather(*(queue.claim("a", f"worker {n}", now=NOW, until=UNTIL, fields={}) for n in range(8)))
    [claimed] = [entry for entry in claims if entry is not None]
    assert claimed["work"]["due_at"] == UNTIL
    assert await work_of(entries, "a") == claimed["work"]


async def test_claim_after_the_lease_expired_succeeds(entries: Collection[Any], queue: LeaseQueue[Any]) -> None:
    await add(entries, "a")
    assert await queue.claim("a", "dead", now=NOW, until=UNTIL, fields={})
    assert await queue.claim("a", "early", now=UNTIL - timedelta(seconds=1), until=UNTIL, fields={}) is None
    again = await queue.claim("a", "next", now=UNTIL, until=UNTIL + timedelta(seconds=30), fields={})
    assert again is not None
    assert again["work"]["owner"] == "next"


async def test_claim_with_fields_computes_them_from_the_entry_before(
    entries: Collection[Any], queue: LeaseQueue[Any]
) -> None:
    await add(entries, "a", attempts=4)
    claimed = await queue.claim("a", "$owner", now=NOW, until=UNTIL, fields={"attempts": {"$add": ["$attempts", 1]}})
    assert claimed is not None
    assert claimed["attempts"] == 5
    assert claimed["work"]["owner"] == "$owner"


async def test_claim_many_leaves_entries_that_were_claimed_or_changed_since(
    entries: Collection[Any], queue: LeaseQueue[Any]
) -> None:
    for entry_id in "abcd":
        await add(entries, entry_id, revision=1)
    found = await queue.find_due(NOW, limit=10)
    assert await queue.claim("b", "other", now=NOW, until=UNTIL, fields={})
    await entries.update_one({"_id": "c"}, {"$set": {"revision": 2}})
    await entries.delete_one({"_id": "d"})

    assert await queue.claim_many(found, "mine", until=UNTIL, unchanged=["revision"]) == {"a"}
    assert (await work_of(entries, "b"))["owner"] == "other"
    assert "owner" not in await work_of(entries, "c")


async def test_claim_many_without_an_end_offers_the_entries_once(
    entries: Collection[Any], queue: LeaseQueue[Any]
) -> None:
    for entry_id in "abc":
        await add(entries, entry_id)
    found = await queue.find_due(NOW, limit=10)
    claims = await asyncio.gather(*(queue.claim_many(found, f"worker {n}", until=None) for n in range(4)))
    assert sorted(entry_id for claimed in claims for entry_id in claimed) == ["a", "b", "c"]
    assert await queue.find_due(NOW + timedelta(days=1), limit=10) == []


async def test_renew_extends_held_leases_and_returns_only_those(
    entries: Collection[Any], queue: LeaseQueue[Any]
) -> None:
    for entry_id in "abc":
        await add(entries, entry_id)
    for entry_id, owner in (("a", "one"), ("b", "two"), ("c", "stranger")):
        assert await queue.claim(entry_id, owner, now=NOW, until=UNTIL, fields={})
    later = UNTIL + timedelta(seconds=30)
    owners = {"a": "one", "b": "two", "c": "one", "gone": "one"}

    assert await queue.renew(owners, until=later) == {"a", "b"}
    assert await queue.renew(owners, until=later) == {"a", "b"}
    assert [(await work_of(entries, entry_id))["due_at"] for entry_id in "abc"] == [later, later, UNTIL]
    assert await queue.renew({}, until=later) == set()


async def test_reschedule_and_release_by_an_owner_that_lost_its_lease_change_nothing(
    entries: Collection[Any], queue: LeaseQueue[Any]
) -> None:
    await add(entries, "a")
    assert await queue.claim("a", "dead", now=NOW, until=UNTIL, fields={})
    assert await queue.claim("a", "next", now=UNTIL, until=UNTIL + timedelta(seconds=30), fields={})
    before = await work_of(entries, "a")

    assert not await queue.reschedule("a", "dead", due_at=NOW, changes={"$set": {"result": 1}})
    assert not await queue.release("a", "dead", changes={"$set": {"result": 1}})
    assert await work_of(entries, "a") == before
    assert await queue.reschedule("a", "next", due_at=NOW, changes={"$inc": {"failures": 1}})
    assert await work_of(entries, "a") == {"due_at": NOW}
    assert await queue.claim("a", "last", now=NOW, until=UNTIL, fields={})
    assert await queue.release("a", "last", changes={})
    assert await work_of(entries, "a") == {}
    assert (await entries.get("a") or {})["failures"] == 1


async def test_release_of_an_unleased_kind_makes_the_entry_due_for_any_clock(entries: Collection[Any]) -> None:
    queue: LeaseQueue[Any] = LeaseQueue(entries, STATED)
    for state in ("ready", "held", "canceled"):
        await entries.insert({"_id": state, "state": state})
    behind = NOW - timedelta(hours=1)
    assert [entry["_id"] for entry in await queue.find_due(behind, limit=10)] == ["ready"]

    assert await queue.claim("ready", "p", now=behind, until=UNTIL, fields={"state": "leased"})
    assert await queue.claim("held", "p", now=NOW, until=UNTIL, fields={"state": "leased"}) is None
    assert await queue.claim("ready", "q", now=NOW, until=UNTIL, fields={"state": "leased"}) is None
    assert await queue.release("ready", "p", changes={"$set": {"state": "ready"}})
    assert await entries.get("ready") == {"_id": "ready", "state": "ready"}


async def test_give_up_changes_entries_that_no_worker_holds(entries: Collection[Any]) -> None:
    queue: LeaseQueue[Any] = LeaseQueue(entries, STATED)
    changes = {"$set": {"state": "canceled"}}
    for entry_id in "ab":
        await entries.insert({"_id": entry_id, "state": "ready", "attempts": 1})
    assert await queue.claim("a", "p", now=NOW, until=UNTIL, fields={"state": "leased"})

    assert not await queue.give_up("a", now=NOW, changes=changes, where={"attempts": 1})
    assert not await queue.give_up("b", now=NOW, changes=changes, where={"attempts": 2})
    assert await queue.give_up("b", now=NOW, changes=changes, where={"attempts": 1})
    assert await queue.give_up("a", now=UNTIL, changes=changes, where={"attempts": 1})
    assert await queue.renew({"a": "p"}, until=UNTIL) == set()
