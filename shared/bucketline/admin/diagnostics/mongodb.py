"""MongoDB: a replica set, of a version that is known to work, that lets us write, with every index."""

import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC

from bucketline.admin.diagnostics.result import CheckResult, clock_check
from bucketline.clock import Clock
from bucketline.db.indexes import INDEXES, missing_indexes
from bucketline.db.mongo import Database
from bucketline.settings import MongoSettings

PART = "MongoDB"
UNREACHABLE = "Is BUCKETLINE_MONGODB_URL right, and does the network allow it? Are user and password right?"
OLDEST = (6, 0)
SLOW_SECONDS = 0.25
PATIENCE_SECONDS = 5.0


async def mongodb(settings: MongoSettings, clock: Clock) -> AsyncIterator[CheckResult]:
    # A person is waiting: what takes longer than this is not well either.
    database = Database(
        settings.model_copy(update={"timeout_seconds": min(settings.timeout_seconds, PATIENCE_SECONDS)})
    )
    try:
        before = clock.now()
        info = await database.server_info()
        middle = before + (clock.now() - before) / 2
        version = str(info["version"])
        numbers = tuple(int(number) for number in version.split(".")[:2])
        yield CheckResult(
            PART,
            "version",
            "ok" if numbers >= OLDEST else "bad",
            version,
            "" if numbers >= OLDEST else f"Upgrade to {'.'.join(map(str, OLDEST))} or newer.",
        )
        yield _replica_set(info.get("setName"), len(info.get("hosts", ())))
        local = info["localTime"]
        local = local if local.tzinfo else local.replace(tzinfo=UTC)
        skew = (local - middle).total_seconds()
        yield clock_check(PART, skew, warn=2, bad=30, why="leases and sweeps compare the services' clocks")
        yield await _writes(database)
        yield await _indexes(database)
    finally:
        database.close()


def _replica_set(name: object, members: int) -> CheckResult:
    if not name:
        advice = (
            "Start mongod with --replSet: without it a majority is one server, and a 200 is only as durable as that."
        )
        return CheckResult(PART, "replica set", "bad", "a single server", advice)
    if members < 3:
        advice = "Three members survive the loss of one; fewer are fine for trying things out."
        return CheckResult(PART, "replica set", "warning", f"{name}, {members} member(s)", advice)
    return CheckResult(PART, "replica set", "ok", f"{name}, {members} members")


async def _writes(database: Database) -> CheckResult:
    """A document is written with majority, read and deleted, in a collection of its own."""
    scratch = database.collection("doctor")
    identifier = secrets.token_hex(8)
    started = time.perf_counter()
    await scratch.insert({"_id": identifier})
    seconds = time.perf_counter() - started
    there = await scratch.get(identifier) is not None
    await scratch.delete_one({"_id": identifier})
    if not there:
        return CheckResult(
            PART, "write and read", "bad", "a document was not there after its write", "Is this the primary?"
        )
    slow = seconds > SLOW_SECONDS
    return CheckResult(
        PART,
        "write and read",
        "warning" if slow else "ok",
        f"a majority write took {seconds * 1000:.0f} ms",
        "Every accepted object waits for one: look at the members' disks and at the network between them."
        if slow
        else "",
    )


async def _indexes(database: Database) -> CheckResult:
    missing = await missing_indexes(database)
    total = sum(map(len, INDEXES.values()))
    if not missing:
        return CheckResult(PART, "indexes", "ok", f"all {total} are there")
    named = ", ".join(f"{collection}.{name}" for collection, names in missing.items() for name in names)
    return CheckResult(PART, "indexes", "warning", f"missing: {named}"[:300], "Run: bucketline indexes")
