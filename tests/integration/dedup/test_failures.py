"""Failing sources and stores: retries, dead letters and replays."""

import asyncio
from typing import cast

import pytest
from tests.faults.proxy import Fault
from tests.integration.dedup.conftest import Open, proxied
from tests.integration.dedup.harness import MIB, Bench, sha
from tests.integration.dedup.sources import Page, Sources
from tests.waiting import eventually

from bucketline.devstack.stack import LocalStack
from bucketline.events.cloudevents import ReceivedEvent, decode_event
from bucketline.events.models import ObjectCreated, ObjectMirrored, ObjectStatusChanged
from bucketline_dedup.subscribers import mirror_objects

pytestmark = pytest.mark.stack


async def test_source_that_recovers_is_read_in_a_later_attempt(bench: Bench, sources: Sources) -> None:
    page = Page(data=b"patience", failures=[503, 500, 429])
    obj = await bench.mirror_one({"kind": "url", "url": sources.put("/flaky", page)})
    assert (obj["mirror"]["state"], obj["mirror"]["attempts"], page.requests) == ("done", 3, 4)
    assert "error" not in obj["mirror"]


async def test_mirrored_blobs_are_not_fetched_again(bench: Bench, sources: Sources) -> None:
    good, flaky = Page(data=b"good"), Page(data=b"flaky", failures=[503, 503])
    object_id = await bench.add(
        bench.blob({"kind": "url", "url": sources.put("/good", good)}),
        bench.blob({"kind": "url", "url": sources.put("/bad", flaky)}, property="other"),
    )
    await bench.created(object_id)
    await bench.mirrored(object_id)
    assert (good.requests, flaky.requests) == (1, 3)


async def test_source_that_stays_unavailable_is_dead_lettered_and_replayed(opened: Open, sources: Sources) -> None:
    page = Page(data=b"back again", failures=[503] * 3)
    async with opened(max_attempts=3) as bench:
        obj = await bench.mirror_one({"kind": "url", "url": sources.put("/away", page)})
        object_id = obj["_id"]
        why = "main: the source answered 503; given up after 3 attempts"
        assert (obj["mirror"]["state"], obj["mirror"]["error"], page.requests) == ("failed", why, 3)
        (failed,) = bench.bus.of(ObjectStatusChanged, object_id)
        assert (failed.status, failed.error, failed.error_type) == ("FAILED", why, "transient")
        ((topic, key, value, headers),) = bench.bus.raw
        assert (topic, key) == ("bucketline.objects.v1.dedup.dlq", object_id.encode())
        assert headers["dlq-original-topic"] == b"bucketline.objects.v1"
        assert headers["dlq-exception-message"] == b"the source answered 503"
        await bench.objects.apply_statuses([failed])

        # The event that created the object may be redelivered; only the dead-lettered one starts over.
        await bench.created(object_id)
        assert (await bench.get(object_id))["mirror"]["state"] == "failed"
        dead_letter = cast("ReceivedEvent[ObjectCreated]", decode_event(value, headers.items()))
        await mirror_objects([dead_letter], bench.dedup.mirroring)
        obj = await bench.mirrored(object_id)
        assert (obj["mirror"]["state"], await bench.content(obj)) == ("done", b"back again")
        back = bench.bus.of(ObjectStatusChanged, object_id)[-1]
        assert (back.status, back.run_id, back.error) == ("DRAFT", 1, None)
        assert [event.failed for event in bench.bus.of(ObjectMirrored, object_id)] == [True, True, False]
        # A second replay changes nothing.
        await mirror_objects([dead_letter], bench.dedup.mirroring)
        assert (await bench.get(object_id))["mirror"]["state"] == "done"


async def test_replay_of_an_auto_process_object_queues_it_again(opened: Open, sources: Sources) -> None:
    async with opened(max_attempts=1) as bench:
        url = sources.put("/once", Page(data=b"x", failures=[500]))
        object_id = await bench.add(
            bench.blob({"kind": "url", "url": url}),
            auto_process=True,
            status="QUEUED",
            batch_id="btch_1",
            run={"id": 1, "rank": 1},
        )
        await bench.created(object_id)
        await bench.mirrored(object_id)
        # The processor publishes the failure of an object in a batch.
        assert bench.bus.of(ObjectStatusChanged, object_id) == []
        await bench.objects.collection.update_one(
            {"_id": object_id}, {"$set": {"status": "FAILED", "run": {"id": 1, "rank": 3}}}
        )
        (_, _, value, headers) = bench.bus.raw[0]
        await mirror_objects(
            [cast("ReceivedEvent[ObjectCreated]", decode_event(value, headers.items()))], bench.dedup.mirroring
        )
        await bench.mirrored(object_id)
        (queued,) = bench.bus.of(ObjectStatusChanged, object_id)
        assert (queued.status, queued.run_id, queued.sequence) == ("QUEUED", 2, 1)
        assert queued.batch_id not in (None, "btch_1")


async def test_interrupted_transfer_with_ranges_resumes(bench: Bench, sources: Sources) -> None:
    page = Page(size=12 * MIB, ranges=True, cut=7 * MIB)
    obj = await bench.mirror_one({"kind": "url", "url": sources.put("/cut", page)})
    assert (obj["mirror"]["attempts"], page.requests) == (0, 2)
    assert len(await bench.content(obj)) == 12 * MIB


async def test_interrupted_transfer_without_ranges_starts_over(bench: Bench, sources: Sources) -> None:
    page = Page(size=12 * MIB, cut=7 * MIB)
    obj = await bench.mirror_one({"kind": "url", "url": sources.put("/cut", page)})
    assert (obj["mirror"]["attempts"], page.requests) == (1, 2)
    assert obj["blobs"][0]["details"]["hash"] == f"sha256:{sha(await bench.content(obj))}"  # type: ignore[index]
    assert await bench.leftovers() == []


FAULTS = {
    "busy": Fault("answer", times=2, method="PUT", path="blobs/sha256"),
    "conflict": Fault("answer", times=2, method="PUT", path="blobs/sha256", status=409, code="OperationAborted"),
    "reply lost": Fault("drop_reply", method="PUT", path="blobs/sha256"),
    "cut": Fault("cut_request", method="PUT", path="blobs/sha256", after=100),
    "internal": Fault("answer", method="PUT", path="blobs/sha256", status=500, code="InternalError"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("kind", ["text", "url"])
async def test_s3_faults_leave_one_object_with_the_right_checksum(
    opened: Open, stack: LocalStack, sources: Sources, name: str, kind: str
) -> None:
    data = name.encode() * 100 + kind.encode()
    async with (
        proxied(stack) as proxy,
        opened(s3_endpoint=proxy.url) as bench,
    ):
        fault = FAULTS[name]
        proxy.plan(Fault(**{**fault.__dict__}))
        source = (
            {"kind": "url", "url": sources.put("/f", data)}
            if kind == "url"
            else {"kind": "text", "text": data.decode()}
        )
        obj = await bench.mirror_one(source)
        assert await bench.content(obj) == data
        assert len(await bench.store.list("blobs/", limit=10)) == 1
        stored = proxy.count("PUT", "blobs/sha256", where=lambda seen: seen.status is not None)
        assert stored <= 2, "at most one put more than needed reached the store"


@pytest.mark.parametrize("path", ["uploadId", "uploads", "partNumber=2", r"blobs/sha256.*"])
@pytest.mark.parametrize("kind", ["drop_reply", "answer"])
async def test_s3_faults_in_a_streamed_upload_leave_one_object(
    opened: Open, stack: LocalStack, sources: Sources, path: str, kind: str
) -> None:
    async with (
        proxied(stack) as proxy,
        opened(s3_endpoint=proxy.url, staging_cleanup_min_age_seconds=0.5) as bench,
    ):
        proxy.plan(Fault(kind, times=2, method="PUT|POST", path=path))  # type: ignore[arg-type]
        obj = await bench.mirror_one({"kind": "url", "url": sources.put("/f", Page(size=12 * MIB))})
        content = await bench.content(obj)
        assert (len(content), obj["blobs"][0]["details"]["hash"]) == (12 * MIB, f"sha256:{sha(content)}")
        assert len(await bench.store.list("blobs/", limit=10)) == 1

        # A lost response may have contained the id of an upload, which only the reconciler finds.
        async def tidied() -> bool:
            await bench.dedup.reconciler.reconcile_staging()
            return not await bench.leftovers()

        await eventually(tidied, deadline=10)


async def test_s3_outage_fails_and_dead_letters_nothing(opened: Open, stack: LocalStack, sources: Sources) -> None:
    async with (
        proxied(stack) as proxy,
        opened(s3_endpoint=proxy.url, max_attempts=1) as bench,
    ):
        object_id = await bench.add(bench.blob({"kind": "url", "url": sources.put("/f", b"later")}))
        away = Fault("answer", times=1000, method="PUT", path="blobs/sha256")
        proxy.plan(away)
        await bench.created(object_id)

        async def given_back() -> bool:
            mirror = (await bench.get(object_id))["mirror"]
            return away.times < 1000 and "claim" not in mirror and mirror["state"] == "pending"

        await eventually(given_back)
        assert (await bench.get(object_id))["mirror"]["attempts"] == 0
        away.times = 0
        obj = await bench.mirrored(object_id)
        assert (await bench.content(obj), bench.bus.raw) == (b"later", [])


async def test_key_that_s3_cannot_write_delays_only_its_objects(
    opened: Open, stack: LocalStack, sources: Sources
) -> None:
    bad = sha(b"bad")
    async with proxied(stack) as proxy, opened(s3_endpoint=proxy.url, max_attempts=2) as bench:
        full = Fault("answer", times=10**6, method="PUT", path=f"{bad}$", status=500, code="InternalError")
        proxy.plan(full)
        texts = ["one", "two", "bad", "three", "four", "five"]
        ids = [await bench.add(bench.blob({"kind": "text", "text": text})) for text in texts]
        fetched = await bench.add(bench.blob({"kind": "url", "url": sources.put("/bad", b"bad")}))
        await bench.created(*ids, fetched)
        for object_id, text in zip(ids, texts, strict=True):
            if text != "bad":
                obj = await bench.mirrored(object_id)
                assert (obj["mirror"]["state"], await bench.content(obj)) == ("done", text.encode())
        alone = await bench.add(bench.blob({"kind": "text", "text": "bad"}))
        await bench.created(alone)  # a micro-batch of nothing else is not repeated either
        url = sources.put("/later", b"later")
        later = [
            await bench.add(bench.blob(source))
            for source in ({"kind": "text", "text": "6"}, {"kind": "url", "url": url})
        ]
        await bench.created(*later)
        for object_id in later:
            assert (await bench.mirrored(object_id))["mirror"]["state"] == "done"
        delayed = [ids[2], fetched, alone]

        async def postponed() -> bool:
            return all([(await bench.get(object_id))["mirror"].get("postponed") for object_id in delayed])

        await eventually(postponed)
        full.times = 0
        for object_id in delayed:
            obj = await bench.mirrored(object_id)
            assert (obj["mirror"]["state"], await bench.content(obj)) == ("done", b"bad")
        assert bench.bus.raw == [], "nothing was sent to the dead-letter topic"


async def test_kafka_outage_delays_the_events_of_an_outcome(bench: Bench, sources: Sources) -> None:
    bench.bus.away = True
    object_id = await bench.add(bench.blob({"kind": "url", "url": sources.put("/f", b"said later")}))
    await bench.created(object_id)

    async def stored() -> bool:
        return (await bench.get(object_id))["mirror"]["state"] == "done"

    await eventually(stored)
    assert bench.bus.of(ObjectMirrored, object_id) == []
    bench.bus.away = False
    # The same as the end of a lease.
    await bench.objects.collection.update_one(
        {"_id": object_id}, {"$set": {"mirror.due_at": bench.runtime.clock.now()}}
    )
    await bench.mirrored(object_id)
    assert len(bench.bus.of(ObjectMirrored, object_id)) == 1


async def test_change_during_the_transfer_takes_precedence(bench: Bench, sources: Sources) -> None:
    gate = asyncio.Event()
    old = sources.put("/old", Page(size=2 * MIB, gate=gate))
    object_id = await bench.add(bench.blob({"kind": "url", "url": old}))
    await bench.created(object_id)

    async def fetching() -> bool:
        return sources.pages["/old"].requests == 1

    await eventually(fetching)
    fresh = {
        "blobs": [bench.blob({"kind": "text", "text": "new"})],
        "blobs_revision": 2,
        "mirror": {"state": "pending", "attempts": 0, "due_at": bench.runtime.clock.now()},
    }
    await bench.objects.collection.update_one({"_id": object_id}, {"$set": fresh})
    await bench.created(object_id)
    gate.set()
    obj = await bench.mirrored(object_id)
    assert await bench.content(obj) == b"new"
