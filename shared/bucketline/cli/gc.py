"""``bucketline gc``: removes content that nothing refers to any more."""

import asyncio
import re
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from bucketline.clock import SystemClock
from bucketline.errors import StoreUnavailable
from bucketline.ids import RandomIds
from bucketline.maintenance.gc import Collector, References, Report
from bucketline.settings import MongoSettings, S3Settings
from bucketline.storage.blobs import LEAST_GRACE
from bucketline.storage.indexes import ensure_indexes
from bucketline.storage.mongo import Database
from bucketline.storage.s3 import S3BlobStore

_LEAST_HOURS = LEAST_GRACE / timedelta(hours=1)
_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def gc(
    grace_hours: Annotated[
        float, typer.Option(help="Content is kept this long after its last use.", min=_LEAST_HOURS)
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    orphans: Annotated[
        bool, typer.Option(help="Look through the bucket for content that no record knows, too.")
    ] = True,
    references: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Remove nothing; count what refers to this content.")
    ] = None,
) -> None:
    """Remove content that no object and no document refers to. Safe at any time, while everything runs.

    Example: [cyan]bucketline gc --dry-run[/]
    """
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
        report = asyncio.run(_run(grace, dry_run, orphans))
    except StoreUnavailable as error:
        Console(stderr=True).print(f"[red]stopped:[/] {error.message}. Run it again; nothing was left half done.")
        raise typer.Exit(1) from error
    verb = "would be removed" if dry_run else "removed"
    console.print(f"{report.removed} blobs ({decimal(report.removed_bytes)}) {verb}")
    console.print(
        f"{report.examined} looked at, {report.referenced} in use, {report.spared} taken into use meanwhile, "
        f"{report.adopted} found without a record"
    )


async def _run(grace: timedelta, dry_run: bool, orphans: bool) -> Report:
    database = Database(MongoSettings())
    try:
        # References are looked up by index: without them a run would read every object, again and again.
        await ensure_indexes(database)
        async with S3BlobStore(S3Settings()) as store:
            collector = Collector(database, store, clock=SystemClock(), ids=RandomIds(), grace=grace)
            return await collector.run(dry_run=dry_run, orphans=orphans)
    finally:
        database.close()


async def _count(sha256: str, grace: timedelta) -> References:
    database = Database(MongoSettings())
    try:
        async with S3BlobStore(S3Settings()) as store:
            collector = Collector(database, store, clock=SystemClock(), ids=RandomIds(), grace=grace)
            return await collector.references(sha256)
    finally:
        database.close()
