"""Garbage collection next to writers deletes what is not referred to, and nothing else."""

import asyncio
import os
import random
import secrets
import sys
from collections.abc import Collection
from datetime import datetime, timedelta

import pytest
from pymongo import UpdateOne
from tests.database import drop_database
from tests.integration.dedup.conftest import Open
from tests.integration.dedup.harness import Bench, sha
from tests.waiting import eventually
from typer.testing import CliRunner

from bucketline.admin.gc import ForeignBucketError, GarbageCollector, References
from bucketline.cli.gc import app
from bucketline.db.blobs import Blobs, NewContent, blob_key
from bucketline.db.documents import Documents
from bucketline.db.job_cursors import BEGINNING, JobCursors
from bucketline.db.mongo import Database
from bucketline.devstack.stack import LocalStack
from bucketline.extractors import DerivedBlob
from bucketline_processor.documents import DerivedBlobs

pytestmark = pytest.mark.stack

DAY = timedelta(days=1)


def collector(bench: Bench, store: object = None) -> GarbageCollector:
    return GarbageCollector(
        bench.runtime.database,
        store or bench.store,  # type: ignore[arg-type]
        clock=bench.runtime.clock,
        ids=bench.runtime.ids,
        grace=DAY,
    )


async def age(bench: Bench, days: float = 2) -> None:
    """Make every record look unused for days."""
    records = Blobs(bench.runtime.database)
    await records.collection.update_many({}, {"$set": {"touched_at": bench.runtime.clock.now() - timedelta(days=days)}})


async def held(bench: Bench) -> set[str]:
    return {row.key for row in await bench.store.list("blobs/", limit=1000)}


def settings_of(bench: Bench, stack: LocalStack) -> dict[str, str]:
    """Return the environment of a command that works on the database and bucket of the bench."""
    settings = bench.runtime.settings
    return {
        "BUCKETLINE_MONGODB_URL": stack.mongodb_url,
        "BUCKETLINE_MONGODB_DATABASE": settings.mongo.database,
        "BUCKETLINE_S3_ENDPOINT_URL": stack.s3.endpoint,
        "BUCKETLINE_S3_ACCESS_KEY": stack.s3.access_key,
        "BUCKETLINE_S3_SECRET_KEY": stack.s3.secret_key,
        "BUCKETLINE_S3_BUCKET": settings.s3.bucket,
        "COLUMNS": "200",
    }


async def test_gc_deletes_only_unreferenced_content_after_its_grace(bench: Bench) -> None:
    kept = await bench.mirror_one({"kind": "text", "text": "kept"})
    gone = await bench.mirror_one({"kind": "text", "text": "gone"})
    shared = [await bench.mirror_one({"kind": "text", "text": "shared"}) for _ in range(2)]
    derived = await DerivedBlobs(bench.runtime).store([DerivedBlob("thumb", "a.png", "image/png", b"derived")])
    now = bench.runtime.clock.now()
    await Documents(bench.runtime.database).collection.insert(
        {
            "_id": "doc_1",
            "namespace_id": "ns",
            "collection_id": "col",
            "object_id": "obj_gone",
            "bucket_id": "b",
            "ordinal": 0,
            "run": 1,
            "revision": 1,
            "fields": {},
            "blobs": derived,
            "internal": {},
            "created_at": now,
            "updated_at": now,
        }
    )
    for obj in (gone, shared[0]):
        await bench.objects.collection.delete_one({"_id": obj["_id"]})
    report = await collector(bench).run()
    assert (report.examined, report.deleted) == (0, 0), "within its grace nothing goes"
    await age(bench)
    dry = await collector(bench).run(dry_run=True)
    assert (dry.examined, dry.referenced, dry.deleted, dry.deleted_bytes) == (4, 3, 1, 4)
    assert len(await held(bench)) == 4
    report = await collector(bench).run()
    assert (report.examined, report.referenced, report.deleted, report.deleted_bytes) == (4, 3, 1, 4)
    assert await held(bench) == {blob_key(sha(text)) for text in (b"kept", b"shared", b"derived")}
    assert await bench.content(kept) == b"kept"
    assert await collector(bench).references(sha(b"shared")) == References(objects=1, documents=0)
    assert await collector(bench).references(sha(b"derived")) == References(objects=0, documents=1)


async def test_gc_command_reports_and_deletes(bench: Bench, stack: LocalStack) -> None:
    obj = await bench.mirror_one({"kind": "text", "text": "by command"})
    await age(bench)
    environment = settings_of(bench, stack)

    async def said(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner(env=environment).invoke, app, list(arguments))
        return result.exit_code, result.stdout

    assert await said("refs", sha(b"by command")) == (0, "1 objects and 0 documents refer to this content\n")
    code, output = await said()
    assert (code, output.splitlines()[0]) == (0, "0 blobs (0 bytes) deleted")
    await bench.objects.collection.delete_one({"_id": obj["_id"]})
    assert (await said("--dry-run"))[1].splitlines()[0] == "1 blobs (10 bytes) would be deleted"
    assert (await said())[1].splitlines()[0] == "1 blobs (10 bytes) deleted"
    assert await held(bench) == set()
    assert (await said("--grace-hours", "0.5"))[0] == 2

    places = JobCursors(bench.runtime.database)
    await bench.mirror_one({"kind": "text", "text": "for a run without time"})
    await age(bench)
    code, output = await said("--max-minutes", "0")
    assert (code, output.splitlines()[-1]) == (
        0,
        "stopped before the end; the next run with --max-minutes continues from there",
    )
    for _ in range(2):
        assert await places.get("gc") != BEGINNING
        await said("--max-minutes", "0")
    assert await places.get("gc") == BEGINNING, "each run goes on from the place where the one before it stopped"


async def test_gc_runs_without_time_complete_in_turns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content in use stays at the front; a run that always began there would never reach the rest."""
    monkeypatch.setattr("bucketline.admin.gc.PAGE", 2)
    for number in range(5):
        await bench.mirror_one({"kind": "text", "text": f"kept {number}"})
    for number in range(3):
        obj = await bench.mirror_one({"kind": "text", "text": f"gone {number}"})
        await bench.objects.collection.delete_one({"_id": obj["_id"]})
    orphan = b"without a record"
    await bench.store.put_if_absent(blob_key(sha(orphan)), orphan, sha256=sha(orphan), content_type="text/plain")
    await age(bench)
    records = Blobs(bench.runtime.database).collection
    running = later(bench, 2)
    places = JobCursors(bench.runtime.database)

    deleted = recovered = runs = 0
    while runs == 0 or await places.get("gc") != BEGINNING:
        report = await running.run(begin=await places.get("gc"), on_page=lambda _: False)
        assert report.listed + report.examined <= 2, "one page a run"
        await places.save("gc", report.cursor)
        deleted, recovered, runs = deleted + report.deleted, recovered + report.recovered, runs + 1
        assert runs < 20
    assert (deleted, recovered) == (3, 1), "content without a record is kept for another grace period"
    kept = {blob_key(sha(f"kept {number}".encode())) for number in range(5)}
    assert await held(bench) == {*kept, blob_key(sha(orphan))}
    assert await records.count({}) == 6


async def test_gc_on_sigterm_stops_after_its_page_and_the_next_run_continues(bench: Bench, stack: LocalStack) -> None:
    for text in ("one", "two"):
        obj = await bench.mirror_one({"kind": "text", "text": text})
        await bench.objects.collection.delete_one({"_id": obj["_id"]})
    await age(bench)
    environment = settings_of(bench, stack)
    program = (
        "import asyncio, os, signal\n"
        "import bucketline.admin.gc as gc\n"
        "from bucketline.cli.main import app\n"
        "gc.PAGE = 1\n"
        "page = gc.GarbageCollector._collect_page\n"
        "async def terminated(*arguments):\n"
        "    await page(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    for _ in range(10):\n"  # the loop handles a signal in one of its next iterations
        "        await asyncio.sleep(0)\n"
        "gc.GarbageCollector._collect_page = terminated\n"
        "app(['gc', '--no-scan-bucket', '--max-minutes', '10'])\n"
    )
    for left in (1, 0):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode == 0
        assert out.decode().startswith("1 blobs")
        assert "stopped before the end" in out.decode()
        assert len(await held(bench)) == left


async def test_content_stored_again_after_gc_is_kept(bench: Bench) -> None:
    for _ in range(2):
        obj = await bench.mirror_one({"kind": "text", "text": "back"})
        assert not obj["blobs"][0]["storage"]["duplicate"]  # type: ignore[index]
        assert await bench.content(obj) == b"back"
        await bench.objects.collection.delete_one({"_id": obj["_id"]})
        await age(bench)
        assert (await collector(bench).run()).deleted == 1


async def test_gc_recovers_old_content_without_a_record(bench: Bench) -> None:
    for text in (b"orphan", b"used"):
        await bench.store.put_if_absent(blob_key(sha(text)), text, sha256=sha(text), content_type="text/plain")
    await bench.mirror_one({"kind": "text", "text": "used"})
    await bench.runtime.database.collection("blobs").delete_many({})
    young = GarbageCollector(
        bench.runtime.database, bench.store, clock=bench.runtime.clock, ids=bench.runtime.ids, grace=DAY
    )
    assert (await young.run()).recovered == 0
    dry = await later(bench, 2).run(dry_run=True)
    assert (dry.recovered, dry.recovered_bytes, dry.deleted) == (2, 10, 0)
    report = await later(bench, 2).run()
    assert (report.recovered, report.recovered_bytes, report.deleted) == (2, 10, 0)
    assert len(await held(bench)) == 2, "it is kept for a grace from now on"
    report = await later(bench, 2.9).run()
    assert (report.recovered, report.deleted) == (0, 0)
    report = await later(bench, 3.1).run()
    assert (report.recovered, report.deleted, report.referenced) == (0, 1, 1)
    assert await held(bench) == {blob_key(sha(b"used"))}


def elsewhere(bench: Bench) -> Database:
    """Another database on the same server."""
    settings = bench.runtime.settings.mongo
    return Database(settings.model_copy(update={"database": f"other-{secrets.token_hex(4)}"}))


async def test_gc_with_an_unrelated_database_deletes_nothing(bench: Bench, stack: LocalStack) -> None:
    """As with a typo in its name, a laptop's MongoDB, or a restore of an older backup."""
    for number in range(12):
        await bench.mirror_one({"kind": "text", "text": f"ours {number}"})
    content = await held(bench)
    other = elsewhere(bench)
    try:
        wrong = later(bench, 2, other)
        with pytest.raises(ForeignBucketError, match="no record of 12 of 12"):
            await wrong.run()
        dry = await wrong.run(dry_run=True)
        assert (dry.recovered, dry.deleted) == (12, 0)
        assert dry.ownership_conflict is not None
        assert await Blobs(other).collection.count({}) == 0
        forced = await wrong.run(claim_bucket=True)
        assert (forced.recovered, forced.deleted) == (12, 0), "and even then nothing goes at once"
        assert await held(bench) == content
    finally:
        await drop_database(other)
        other.close()


async def test_gc_refuses_a_bucket_of_another_database(bench: Bench, stack: LocalStack) -> None:
    """However small the bucket is, and whatever records the other database has."""
    await bench.mirror_one({"kind": "text", "text": "ours"})
    await collector(bench).run()
    other = elsewhere(bench)
    try:
        now = bench.runtime.clock.now()
        await Blobs(other).record([NewContent(sha(b"ours"), 4, "text/plain")], now)
        wrong = later(bench, 2, other)
        with pytest.raises(ForeignBucketError, match="never been used with it"):
            await wrong.run(scan_bucket=False)
        assert (await wrong.run(dry_run=True)).ownership_conflict is not None
        for database in (other, bench.runtime.database):  # both have an id now, and the bucket that of the latter
            await later(bench, 0, database).claim_bucket()
        with pytest.raises(ForeignBucketError, match="belongs to another deployment"):
            await wrong.run(scan_bucket=False)
        assert len(await held(bench)) == 1

        environment = {**settings_of(bench, stack), "BUCKETLINE_MONGODB_DATABASE": other._database.name}
        for arguments in ([], ["--dry-run"]):
            result = await asyncio.to_thread(CliRunner(env=environment).invoke, app, arguments)
            assert result.exit_code == 1
            assert "belongs to another deployment" in result.stderr
            assert "--claim-bucket" in result.stderr
        result = await asyncio.to_thread(CliRunner(env=environment).invoke, app, ["--claim-bucket"])
        assert (result.exit_code, len(await held(bench))) == (0, 1)
        with pytest.raises(ForeignBucketError, match="belongs to another"):
            await collector(bench).run()
    finally:
        await drop_database(other)
        other.close()


async def test_gc_with_a_few_orphans_recovers_them(bench: Bench) -> None:
    for number in range(9):
        text = f"orphan {number}".encode()
        await bench.store.put_if_absent(blob_key(sha(text)), text, sha256=sha(text), content_type="text/plain")
    assert (await later(bench, 2).run()).recovered == 9


def later(bench: Bench, days: float, database: Database | None = None) -> GarbageCollector:
    """Return a collector that runs some days later, of this database or another."""

    class Later:
        def now(self) -> datetime:
            return bench.runtime.clock.now() + timedelta(days=days)

    return GarbageCollector(
        database or bench.runtime.database, bench.store, clock=Later(), ids=bench.runtime.ids, grace=DAY
    )


def _hesitate(bench: Bench, chance: random.Random) -> None:
    outcomes = bench.dedup.mirroring._outcomes
    save = outcomes.save

    async def later(objects, *, publish_by):  # type: ignore[no-untyped-def]
        await asyncio.sleep(chance.random() * 0.1)
        return await save(objects, publish_by=publish_by)

    outcomes.save = later  # type: ignore[method-assign]


class _SlowStore:
    """Deletes only when the test allows it."""

    def __init__(self, bench: Bench) -> None:
        self._store = bench.store
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.fail = False
        self.read, self.list, self.put_if_absent = bench.store.read, bench.store.list, bench.store.put_if_absent

    async def delete(self, keys: Collection[str]) -> None:
        self.reached.set()
        await self.go_on.wait()
        if self.fail:
            raise ConnectionError("the collector died here")
        await self._store.delete(keys)


@pytest.mark.parametrize("kind", ["text", "base64"])
async def test_object_whose_content_is_being_deleted_stores_it_again(bench: Bench, kind: str) -> None:
    obj = await bench.mirror_one({"kind": "text", "text": "leaving"})
    await bench.objects.collection.delete_one({"_id": obj["_id"]})
    await age(bench)
    slow = _SlowStore(bench)
    run = asyncio.create_task(collector(bench, slow).run(scan_bucket=False))
    await slow.reached.wait()
    source = {"kind": "text", "text": "leaving"} if kind == "text" else {"kind": "base64", "base64": "bGVhdmluZw=="}
    object_id = await bench.add(bench.blob(source))
    await bench.created(object_id)
    assert (await bench.get(object_id))["mirror"]["state"] == "pending"
    slow.go_on.set()
    assert (await run).deleted == 1
    again = await bench.mirrored(object_id)
    assert not again["blobs"][0]["storage"]["duplicate"]  # type: ignore[index]
    assert await bench.content(again) == b"leaving"


async def test_gc_sees_a_reference_written_before_the_mark(bench: Bench) -> None:
    """The writer touched the content long ago; its object appears at the worst moment."""
    obj = await bench.mirror_one({"kind": "text", "text": "late"})
    await bench.objects.collection.delete_one({"_id": obj["_id"]})
    await age(bench)
    running = collector(bench)
    looked = running._select_unreferenced

    async def and_then_it_appears(hashes):  # type: ignore[no-untyped-def]
        found = await looked(hashes)
        running._select_unreferenced = looked  # type: ignore[method-assign]
        await bench.objects.collection.insert(obj)
        return found

    running._select_unreferenced = and_then_it_appears  # type: ignore[method-assign]
    report = await running.run()
    assert (report.deleted, report.skipped) == (0, 1)
    assert await bench.content(obj) == b"late"
    record = await Blobs(bench.runtime.database).collection.get(sha(b"late"))
    assert record is not None
    assert (record["state"], "deleting_until" in record) == ("live", False)


async def test_content_of_a_dead_collector_is_deleted_or_reused(bench: Bench) -> None:
    records = Blobs(bench.runtime.database)
    for text in ("finished", "used"):
        obj = await bench.mirror_one({"kind": "text", "text": text})
        await bench.objects.collection.delete_one({"_id": obj["_id"]})
    await age(bench)
    slow = _SlowStore(bench)
    slow.fail = True
    slow.go_on.set()
    with pytest.raises(ConnectionError):
        await collector(bench, slow).run(scan_bucket=False)
    # Its mark is valid for a limited time.
    assert await records.record([NewContent(sha(b"used"), 4, "text/plain")], bench.runtime.clock.now()) == {
        sha(b"used")
    }
    past = bench.runtime.clock.now() - timedelta(seconds=1)
    await records.collection.bulk(
        [UpdateOne({"_id": sha(t)}, {"$set": {"deleting_until": past}}) for t in (b"used", b"finished")]
    )
    used = await bench.mirror_one({"kind": "text", "text": "used"})
    assert (await collector(bench).run(scan_bucket=False)).deleted == 1
    assert await held(bench) == {blob_key(sha(b"used"))}
    assert await bench.content(used) == b"used"


async def test_writers_and_collectors_in_any_order_lose_nothing(opened: Open) -> None:
    """Rounds of objects coming and going over few contents, two replicas and two collectors at once.

    The moment between the claim of content and the reference to it is stretched: that is where it could get lost.
    """
    chance = random.Random(20)  # noqa: S311 - a test that can be repeated
    async with opened() as first, opened() as second:
        for replica in (first, second):
            _hesitate(replica, chance)
        alive: dict[str, str] = {}
        for _ in range(12):
            await age(first)

            async def write(bench: Bench, text: str) -> None:
                await asyncio.sleep(chance.random() * 0.2)
                object_id = await bench.add(bench.blob({"kind": "text", "text": text}))
                await bench.created(object_id)
                alive[object_id] = text

            async def drop(object_id: str) -> None:
                await asyncio.sleep(chance.random() * 0.2)
                await first.objects.collection.delete_one({"_id": object_id})

            async def collect(bench: Bench) -> None:
                for _ in range(6):
                    await asyncio.sleep(chance.random() * 0.06)
                    await collector(bench).run(scan_bucket=False)

            going = chance.sample(sorted(alive), k=len(alive) * 2 // 3)
            for object_id in going:
                del alive[object_id]
            texts = [f"content {chance.randrange(12)}" for _ in range(10)]
            await asyncio.gather(
                *(write(chance.choice([first, second]), text) for text in texts),
                *(drop(object_id) for object_id in going),
                collect(first),
                collect(second),
            )
            for object_id, text in alive.items():
                obj = await first.mirrored(object_id, deadline=60)
                assert await first.content(obj) == text.encode()
        await age(first)

        async def only_the_living() -> bool:
            await collector(first).run(scan_bucket=False)
            return await held(first) == {blob_key(sha(text.encode())) for text in alive.values()}

        await eventually(only_the_living)
