"""``bucketline gc``: removes content that nothing refers to any more."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from bucketline.cli.output import Tell, fail, progress_reporter
from bucketline.errors import BucketlineError

if TYPE_CHECKING:
    from bucketline.admin.gc import References, Report

MIN_GRACE_HOURS = 1.0
"""As :data:`bucketline.db.blobs.MIN_GRACE`, which takes half a second to import."""
_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_WORK = "gc"
_NOT_OURS = (
    "Are BUCKETLINE_MONGODB_URL, BUCKETLINE_MONGODB_DATABASE and BUCKETLINE_S3_BUCKET those of one deployment? Was the "
    "database restored from an old backup? If all of this content is really this database's, [cyan]--adopt-unknown[/] "
    "says so, once: it is kept for another grace period, and what nothing refers to by then goes."
)


def gc(
    grace_hours: Annotated[
        float, typer.Option(help="Content is kept this long after its last use.", min=MIN_GRACE_HOURS)
    ] = 24.0,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this long; the next such run goes on from there.", min=0)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    orphans: Annotated[
        bool, typer.Option(help="Look through the bucket for content that no record knows, too.")
    ] = True,
    adopt_unknown: Annotated[
        bool,
        typer.Option("--adopt-unknown", help="The bucket is this database's, even though it knows little of it."),
    ] = False,
    references: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Remove nothing; count what refers to this content.")
    ] = None,
) -> None:
    """Remove content that no object and no document refers to. Safe at any time, while everything runs.

    It can be stopped at any moment, by Ctrl-C or SIGTERM, and needs MongoDB and S3 only. What no record knows is kept
    for a whole grace after it was found. Database and bucket that do not seem to belong together are left alone.

    Example: [cyan]bucketline gc --dry-run[/]
    """
    from bucketline.admin.deployment_id import ForeignBucketError
    from bucketline.db.job_cursors import BEGINNING

    console = Console(highlight=False)
    grace = timedelta(hours=grace_hours)
    try:
        if references is not None:
            found = _HASH.fullmatch(references.lower())
            if found is None:
                raise typer.BadParameter("64 hexadecimal digits are expected", param_hint="--references")
            counted = asyncio.run(_count(found[1], grace))
            console.print(f"{counted.objects} objects and {counted.documents} documents refer to it")
            return
        with progress_reporter("looking for content that nothing refers to") as tell:
            report = asyncio.run(_run(grace, minutes, dry_run, orphans, adopt_unknown, tell))
    except ForeignBucketError as error:
        fail(f"nothing was removed: {error.message}", advice=_NOT_OURS)
    except BucketlineError as error:
        fail(f"stopped: {error.message}. Run it again; nothing was left half done.")
    verb = "would be removed" if dry_run else "removed"
    console.print(f"{report.removed} blobs ({decimal(report.removed_bytes)}) {verb}")
    console.print(
        f"{report.examined} looked at, {report.referenced} in use, {report.spared} taken into use meanwhile, "
        f"{report.adopted} ({decimal(report.adopted_bytes)}) found without a record"
    )
    if report.adopted:
        console.print(
            f"what had no record is kept for {grace_hours:g} hours more, and goes if nothing refers to it then"
        )
    if report.place != BEGINNING:
        rest = "" if dry_run else "; the next run with --minutes goes on from there"
        console.print(f"stopped before the end{rest}")
    if report.doubt:
        fail(f"without --dry-run nothing would be removed: {report.doubt}", advice=_NOT_OURS)


async def _run(
    grace: timedelta, minutes: float | None, dry_run: bool, orphans: bool, adopt_unknown: bool, tell: Tell
) -> Report:
    from bucketline.admin.gc import GarbageCollector
    from bucketline.blobs.s3 import S3BlobStore
    from bucketline.clock import SystemClock
    from bucketline.db.indexes import ensure_indexes
    from bucketline.db.job_cursors import BEGINNING, JobCursors
    from bucketline.db.mongo import Database
    from bucketline.ids import RandomIds
    from bucketline.settings import MongoSettings, S3Settings

    database = Database(MongoSettings())
    places = JobCursors(database)
    ends = float("inf") if minutes is None else time.monotonic() + minutes * 60
    try:
        # References are looked up by index: without them a run would read every object, again and again.
        await ensure_indexes(database)
        async with S3BlobStore(S3Settings()) as store:
            collector = GarbageCollector(database, store, clock=SystemClock(), ids=RandomIds(), grace=grace)
            begin = BEGINNING if minutes is None or dry_run else await places.get(_WORK)
            with _terminated() as stop:

                def told(report: Report) -> bool:
                    tell(_so_far(report, dry_run))
                    return time.monotonic() < ends and not stop.is_set()

                report = await collector.run(
                    dry_run=dry_run, orphans=orphans, adopt_unknown=adopt_unknown, begin=begin, told=told
                )
            if not dry_run:
                await places.put(_WORK, report.place)
            return report
    finally:
        database.close()


@contextmanager
def _terminated() -> Iterator[asyncio.Event]:
    """Set by SIGTERM: the page that is being dealt with is finished, and its place kept."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    # Outside of the main thread there are no signals to hear of.
    with suppress(RuntimeError):
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _so_far(report: Report, dry_run: bool) -> str:
    removed = f"{report.removed} {'to remove' if dry_run else 'removed'} ({decimal(report.removed_bytes)})"
    return f"{report.listed} found in the bucket, {report.examined} records looked at, {removed}"


async def _count(sha256: str, grace: timedelta) -> References:
    from bucketline.admin.gc import GarbageCollector
    from bucketline.blobs.s3 import S3BlobStore
    from bucketline.clock import SystemClock
    from bucketline.db.mongo import Database
    from bucketline.ids import RandomIds
    from bucketline.settings import MongoSettings, S3Settings

    database = Database(MongoSettings())
    try:
        async with S3BlobStore(S3Settings()) as store:
            collector = GarbageCollector(database, store, clock=SystemClock(), ids=RandomIds(), grace=grace)
            return await collector.references(sha256)
    finally:
        database.close()
