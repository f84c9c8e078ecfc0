"""Concurrency: large and small objects, equal content, replicas that die."""

import asyncio
import time
from typing import Any

import bson
import pytest
from prometheus_client import REGISTRY
from tests.integration.dedup.conftest import Open
from tests.integration.dedup.harness import MIB, Bench, sha
from tests.integration.dedup.sources import Page, Sources
from tests.waiting import eventually

from bucketline.db.blobs import blob_key
from bucketline.db.mongo import Collection
from bucketline.events.models import ObjectMirrored

pytestmark = pytest.mark.stack

LEASE = 5.0
"""Longest pause of a loaded machine, in seconds."""


async def test_thousand_small_objects_do_not_wait_for_a_large_one(bench: Bench, sources: Sources) -> None:
    """The large source finishes only after the small ones, so they would never finish if they waited for it."""
    gate = asyncio.Event()
    video = Page(size=200 * MIB, gate=gate)
    large = await bench.add(bench.blob({"kind": "url", "url": sources.put("/video", video)}))
    small = [await bench.add(bench.blob({"kind": "text", "text": f"{n:04d} " * 200})) for n in range(1000)]
    fetched = [await bench.add(bench.blob({"kind": "url", "url": sources.put(f"/{n}", b"%d" % n)})) for n in range(20)]
    ids = [large, *small, *fetched]
    for start in range(0, len(ids), 500):
        async with asyncio.timeout(20):
            await bench.created(*ids[start : start + 500])
    states = await bench.objects.get_many(small, fields=["mirror"])
    assert {o["mirror"]["state"] for o in states.values()} == {"done"}
    for object_id in fetched:
        await bench.mirrored(object_id)
    assert (await bench.get(large))["mirror"]["state"] == "pending"
    gate.set()
    obj = await bench.mirrored(large, deadline=120)
    assert obj["blobs"][0]["details"]["size_bytes"] == 200 * MIB  # type: ignore[index]
    assert await bench.leftovers() == []


async def test_more_large_objects_than_slots_do_not_block_small_ones(opened: Open, sources: Sources) -> None:
    gate = asyncio.Event()
    async with opened(max_large_transfers=1, max_concurrency=2) as bench:
        large = [
            await bench.add(bench.blob({"kind": "url", "url": sources.put(f"/l{n}", Page(size=3 * MIB, gate=gate))}))
            for n in range(4)
        ]
        await bench.created(*large)

        async def sorted_out() -> bool:
            found = await bench.objects.get_many(large, fields=["mirror"])
            return len([o for o in found.values() if o["mirror"].get("lane") == "large"]) == 3

        await eventually(sorted_out)
        assert (await bench.mirror_one({"kind": "url", "url": sources.put("/s", b"small")}))["mirror"][
            "state"
        ] == "done"
        gate.set()
        for object_id in large:
            await bench.mirrored(object_id)


@pytest.mark.parametrize("kind", ["text", "url"])
async def test_twenty_concurrent_equal_objects_store_one_copy(opened: Open, sources: Sources, kind: str) -> None:
    data = b"the same in all twenty"
    async with opened() as first, opened() as second:
        source = (
            {"kind": "text", "text": data.decode()}
            if kind == "text"
            else {"kind": "url", "url": sources.put("/same", data)}
        )
        ids = [await first.add(first.blob(dict(source))) for _ in range(20)]
        halves = (first, ids[:10]), (second, ids[10:])
        await asyncio.gather(*(replica.created(object_id) for replica, half in halves for object_id in half))
        found = [await first.mirrored(object_id) for object_id in ids]
        assert sum(not o["blobs"][0]["storage"]["duplicate"] for o in found) == 1
        assert [row.key for row in await first.store.list("blobs/", limit=10)] == [blob_key(sha(data))]
        count = await first.objects.collection.count({"blobs.details.hash": f"sha256:{sha(data)}"})
        assert count == 20


async def test_concurrent_equal_large_content_is_stored_once_without_leftovers(opened: Open, sources: Sources) -> None:
    async with opened() as first, opened() as second:
        url = sources.put("/same", Page(size=12 * MIB))
        ids = [await first.add(first.blob({"kind": "url", "url": url})) for _ in range(4)]
        await asyncio.gather(first.created(*ids[:2]), second.created(*ids[2:]))
        for object_id in ids:
            assert (await first.mirrored(object_id, deadline=60))["mirror"]["state"] == "done"
        assert len(await first.store.list("blobs/", limit=10)) == 1
        assert await first.leftovers() == []


async def test_dead_replica_is_replaced_and_its_leftovers_are_removed(opened: Open, sources: Sources) -> None:
    """The replica stops in the middle of a transfer, like a killed process; its claim expires."""
    gate = asyncio.Event()
    page = Page(size=20 * MIB, gate=gate)
    async with (
        opened(scheduler=False) as dying,
        opened(lease_seconds=1.5, staging_cleanup_min_age_seconds=0.1) as living,
    ):
        object_id = await dying.add(dying.blob({"kind": "url", "url": sources.put("/f", page)}))
        upload = dying.store.upload(f"staging/dedup/{object_id}/req_dead/blob_1")
        half = await upload.__aenter__()
        for _ in range(8):
            await half.write(bytes(2 * MIB))

        async def begun() -> bool:
            return len(await living.leftovers()) == 1

        await eventually(begun)
        await dying.objects.collection.update_one(
            {"_id": object_id},
            {"$set": {"mirror.claim": "req_dead", "mirror.due_at": dying.runtime.clock.now()}},
        )
        gate.set()
        obj = await living.mirrored(object_id, deadline=60)
        assert obj["blobs"][0]["details"]["size_bytes"] == 20 * MIB

        async def swept() -> bool:
            await living.dedup.reconciler.reconcile_staging()
            return not await living.leftovers()

        await eventually(swept)
        await upload.__aexit__(None, None, None)


async def test_reconciler_keeps_what_is_in_use(opened: Open, sources: Sources) -> None:
    gate = asyncio.Event()
    async with opened(staging_cleanup_min_age_seconds=0.1, staging_ttl_seconds=0.1) as bench:
        page = Page(size=40 * MIB, announced=True, gate=gate, free=20 * MIB)
        object_id = await bench.add(bench.blob({"kind": "url", "url": sources.put("/f", page)}))
        waiting = await bench.add()
        key = f"staging/inline/{waiting}/blob_1"
        orphan = "staging/inline/obj_gone/blob_1"
        for each in (key, orphan):
            await bench.store.put_if_absent(each, b"staged", sha256=sha(b"staged"), content_type="text/plain")
        blob = bench.blob({"kind": "staged", "key": key})
        await bench.objects.collection.update_one({"_id": waiting}, {"$set": {"blobs": [blob]}})
        await bench.created(object_id)

        async def open_uploads() -> list[Any]:
            return [u for prefix in ("staging/", "blobs/") for u in await bench.store.list_multipart(prefix)]

        [opened_before] = await eventually(open_uploads)
        began = time.monotonic()

        async def swept_for_long_enough() -> bool:
            await bench.dedup.reconciler.reconcile_staging()
            return time.monotonic() - began > 2.5  # S3 reports ages in seconds

        await eventually(swept_for_long_enough)
        assert await open_uploads() == [opened_before]
        assert (await bench.get(object_id))["mirror"]["state"] == "pending"
        gate.set()
        assert (await bench.mirrored(object_id))["mirror"] | {"at": 0} == {"state": "done", "attempts": 0, "at": 0}
        assert [row.key for row in await bench.store.list("staging/", limit=10)] == [key]


async def test_long_transfer_keeps_its_claim(opened: Open, sources: Sources) -> None:
    gate = asyncio.Event()
    async with opened(lease_seconds=LEASE) as one, opened(lease_seconds=LEASE):
        page = Page(size=2 * MIB, gate=gate)
        object_id = await one.add(one.blob({"kind": "url", "url": sources.put("/slow", page)}))
        await one.created(object_id)

        async def claimed() -> Any:
            mirror = (await one.get(object_id))["mirror"]
            return mirror if "claim" in mirror else None

        first = await eventually(claimed)

        async def renewed() -> bool:
            """The first claim would have expired, and is still the same."""
            mirror = (await one.get(object_id))["mirror"]
            assert mirror.get("claim") == first["claim"]
            return bool(one.runtime.clock.now() > first["due_at"] and mirror["due_at"] > first["due_at"])

        await eventually(renewed)
        gate.set()
        await one.mirrored(object_id)
        assert page.requests == 1


async def test_stop_releases_claims_and_leaves_nothing(opened: Open, sources: Sources) -> None:
    gate = asyncio.Event()
    page = Page(size=20 * MIB, gate=gate)
    async with opened(scheduler=False) as watching:
        async with opened(shutdown_grace_seconds=0.1) as stopping:
            object_id = await stopping.add(stopping.blob({"kind": "url", "url": sources.put("/f", page)}))
            await stopping.created(object_id)

            async def fetching() -> bool:
                return page.requests == 1

            await eventually(fetching)
        mirror = (await watching.get(object_id))["mirror"]
        assert "claim" not in mirror
        assert mirror["due_at"] <= watching.runtime.clock.now()
        assert await watching.leftovers() == []


async def test_custom_fields_of_objects_are_not_read(
    bench: Bench, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of objects are in memory at a time, each with up to 12 MiB of custom fields."""
    sizes = []
    find = Collection.find

    async def weighed(self: Collection[Any], *args: Any, **options: Any) -> Any:
        rows = await find(self, *args, **options)
        sizes.append(sum(len(bson.encode(row)) for row in rows))
        return rows

    monkeypatch.setattr(Collection, "find", weighed)
    custom = {"large": "x" * 1_000_000}
    inline = await bench.add(bench.blob({"kind": "text", "text": "here"}), custom=custom)
    fetched = await bench.add(bench.blob({"kind": "url", "url": sources.put("/a", b"there")}), custom=custom)
    await bench.created(inline, fetched)
    for object_id in (inline, fetched):
        obj = await bench.mirrored(object_id)
        assert (obj["mirror"]["state"], obj["custom"]) == ("done", custom), "and it is still there"
    assert sizes
    assert max(sizes) < 10_000


async def test_object_without_a_consumed_event_is_mirrored(bench: Bench, sources: Sources) -> None:
    due = {"state": "pending", "attempts": 0, "due_at": bench.runtime.clock.now()}
    ids = [await bench.add(bench.blob({"kind": "text", "text": f"lost {n}"}), mirror=dict(due)) for n in range(30)]
    ids.append(await bench.add(bench.blob({"kind": "url", "url": sources.put("/a", b"a")}), mirror=dict(due)))
    for object_id in ids:
        assert (await bench.mirrored(object_id))["mirror"]["state"] == "done"
        assert len(bench.bus.of(ObjectMirrored, object_id)) == 1


async def test_backlog_metric_counts_due_objects(opened: Open, sources: Sources) -> None:
    gate = asyncio.Event()
    async with opened(max_concurrency=2, max_large_transfers=1) as bench:
        slow = [
            await bench.add(bench.blob({"kind": "url", "url": sources.put(f"/{n}", Page(size=10, gate=gate))}))
            for n in range(5)
        ]
        large = [
            await bench.add(
                bench.blob({"kind": "url", "size": 2 * MIB, "url": sources.put(f"/l{n}", Page(size=10, gate=gate))})
            )
            for n in range(3)
        ]
        await bench.created(*slow, *large)

        async def told(small: int, large: int) -> bool:
            await bench.dedup.scheduler.update_backlog_metric()
            found = [
                REGISTRY.get_sample_value("bucketline_mirror_queue_depth", {"size_class": size_class})
                for size_class in ("small", "large")
            ]
            return found == [small, large]

        await eventually(lambda: told(3, 2))
        gate.set()
        await eventually(lambda: told(0, 0))
