"""``bucketline gc``: delete content that nothing refers to any more."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from bucketline.cli.terminal import ProgressReporter, fail, report_progress
from bucketline.errors import BucketlineError

if TYPE_CHECKING:
    from bucketline.admin.gc import GarbageCollector, References, Report
    from bucketline.db.mongo import Database

MIN_GRACE_HOURS = 1.0
"""The same as :data:`bucketline.db.blobs.MIN_GRACE`, which takes half a second to import."""
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_JOB = "gc"
_FOREIGN_BUCKET_ADVICE = (
    "Check that BUCKETLINE_MONGODB_URL, BUCKETLINE_MONGODB_DATABASE and BUCKETLINE_S3_BUCKET belong to one deployment, "
    "and that the database was not restored from an old backup. If this bucket does belong to this database, run "
    "[cyan]bucketline gc --claim-bucket[/] once: unknown content is kept for another grace period and deleted after it "
    "if nothing refers to it."
)

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def gc(
    context: typer.Context,
    grace_hours: Annotated[
        float, typer.Option(help="Keep content for this long after its last use.", min=MIN_GRACE_HOURS)
    ] = 24.0,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after this time; the next run with this option continues.", min=0)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be deleted.")] = False,
    scan_bucket: Annotated[
        bool, typer.Option(help="Also list the bucket to find content that the database does not know.")
    ] = True,
    claim_bucket: Annotated[
        bool,
        typer.Option(
            "--claim-bucket", help="Confirm that the bucket belongs to this database, which knows little of it."
        ),
    ] = False,
) -> None:
    """Delete content that no object and no document refers to. Safe at any time, while everything runs.

    A run needs MongoDB and S3 only and may be stopped at any time with Ctrl-C or SIGTERM. Content that the database
    does not know is kept for a whole grace period after it was found. Nothing is deleted when the database and the
    bucket do not seem to belong together.

    Example: [cyan]bucketline gc --dry-run[/]
    """
    if context.invoked_subcommand is not None:
        return
    from bucketline.admin.gc import ForeignBucketError
    from bucketline.db.job_cursors import BEGINNING

    console = Console(highlight=False)
    try:
        with report_progress("looking for content that nothing refers to") as report_line:
            report = asyncio.run(
                _collect(timedelta(hours=grace_hours), max_minutes, dry_run, scan_bucket, claim_bucket, report_line)
            )
    except ForeignBucketError as error:
        fail(f"nothing was deleted: {error.message}", advice=_FOREIGN_BUCKET_ADVICE)
    except BucketlineError as error:
        fail(f"stopped: {error.message}. Run the command again; nothing is left half done.")
    console.print(
        f"{report.deleted} blobs ({decimal(report.deleted_bytes)}) {'would be deleted' if dry_run else 'deleted'}"
    )
    console.print(
        f"{report.examined} examined, {report.referenced} in use, {report.skipped} used again during the run, "
        f"{report.recovered} ({decimal(report.recovered_bytes)}) not known to the database"
    )
    if report.recovered:
        console.print(
            f"Unknown content is kept for {grace_hours:g} hours and deleted after that if nothing refers to it."
        )
    if report.cursor != BEGINNING:
        suffix = "" if dry_run else "; the next run with --max-minutes continues from there"
        console.print(f"stopped before the end{suffix}")
    if report.ownership_conflict:
        fail(f"without --dry-run nothing would be deleted: {report.ownership_conflict}", advice=_FOREIGN_BUCKET_ADVICE)


@app.command()
def refs(sha256: Annotated[str, typer.Argument(help="The SHA-256 of the content, 64 hexadecimal digits.")]) -> None:
    """Count the objects and documents that refer to some content.

    Example: [cyan]bucketline gc refs e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855[/]
    """
    match = _SHA256.fullmatch(sha256.lower())
    if match is None:
        raise typer.BadParameter(f"{sha256!r} does not have 64 hexadecimal digits", param_hint="SHA256")
    references = asyncio.run(_count_references(match[1]))
    Console(highlight=False).print(
        f"{references.objects} objects and {references.documents} documents refer to this content"
    )


async def _collect(
    grace: timedelta,
    max_minutes: float | None,
    dry_run: bool,
    scan_bucket: bool,
    claim_bucket: bool,
    report_line: ProgressReporter,
) -> Report:
    from bucketline.db.indexes import ensure_indexes
    from bucketline.db.job_cursors import BEGINNING, JobCursors

    deadline = float("inf") if max_minutes is None else time.monotonic() + max_minutes * 60
    async with _open_collector(grace) as (database, collector):
        # References are looked up by index: without them every lookup would read all objects.
        await ensure_indexes(database)
        cursors = JobCursors(database)
        begin = BEGINNING if max_minutes is None or dry_run else await cursors.get(_JOB)
        with _stop_on_sigterm() as stop:

            def may_continue(report: Report) -> bool:
                report_line(_describe_progress(report, dry_run))
                return time.monotonic() < deadline and not stop.is_set()

            report = await collector.run(
                dry_run=dry_run, scan_bucket=scan_bucket, claim_bucket=claim_bucket, begin=begin, on_page=may_continue
            )
        if not dry_run:
            await cursors.save(_JOB, report.cursor)
        return report


async def _count_references(sha256: str) -> References:
    async with _open_collector(timedelta(hours=MIN_GRACE_HOURS)) as (_, collector):
        return await collector.references(sha256)


@asynccontextmanager
async def _open_collector(grace: timedelta) -> AsyncIterator[tuple[Database, GarbageCollector]]:
    from bucketline.admin.gc import GarbageCollector
    from bucketline.blobs.s3 import S3BlobStore
    from bucketline.clock import SystemClock
    from bucketline.db.mongo import Database
    from bucketline.ids import RandomIds
    from bucketline.settings import MongoSettings, S3Settings

    database = Database(MongoSettings())
    try:
        async with S3BlobStore(S3Settings()) as store:
            yield database, GarbageCollector(database, store, clock=SystemClock(), ids=RandomIds(), grace=grace)
    finally:
        database.close()


@contextmanager
def _stop_on_sigterm() -> Iterator[asyncio.Event]:
    """Set an event on SIGTERM: the current page is finished and its cursor is stored."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    # Signals can be handled in the main thread only.
    with suppress(RuntimeError):
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _describe_progress(report: Report, dry_run: bool) -> str:
    deleted = f"{report.deleted} {'to delete' if dry_run else 'deleted'} ({decimal(report.deleted_bytes)})"
    return f"{report.listed} objects listed in the bucket, {report.examined} records examined, {deleted}"
