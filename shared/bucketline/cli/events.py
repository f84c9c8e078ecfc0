"""``bucketline events``: replay the events of stored objects for a new subscriber."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bucketline.cli.terminal import fail, parse_past_time, run_quietly, wide_console
from bucketline.errors import BucketlineError, NotFound

if TYPE_CHECKING:
    from bucketline.admin.event_replay import EventReplay, ReplayCursor
    from bucketline.db.mongo import Database

MAX_COUNT = 1_000_000
"""Counting more objects would take too long."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def events() -> None:
    """Replay the events of stored objects.

    Example: [cyan]bucketline events replay --bucket invoices --since 24h --dry-run[/]
    """


@app.command()
def replay(
    bucket: Annotated[str, typer.Option(help="The bucket, by id or name.")],
    since: Annotated[str, typer.Option(help="Objects created since then: 2026-03-01T12:00, 24h, 7d.")],
    namespace: Annotated[str, typer.Option(help="The bucket's namespace, by id or name.")] = "default",
    rate: Annotated[float, typer.Option(help="Maximum number of objects per second.", min=0.1, max=100_000)] = 500.0,
    after: Annotated[str | None, typer.Option(help="The cursor that an interrupted replay printed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the objects.")] = False,
) -> None:
    """Publish the events of stored objects again: created, mirrored, and their latest status.

    The events go to their usual topics with ids that are the same in every replay. Nothing is mirrored or processed
    again.

    Example: [cyan]bucketline events replay --namespace shop --bucket invoices --since 7d[/]
    """
    from bucketline.admin.event_replay import ReplayCursor
    from bucketline.clock import SystemClock

    start = parse_past_time(since, SystemClock().now())
    try:
        cursor = ReplayCursor.parse(after) if after else None
    except BucketlineError as error:
        raise typer.BadParameter(error.message, param_hint="--after") from error
    run_quietly(_replay(namespace, bucket, start, cursor, rate, dry_run))


async def _replay(
    namespace: str, bucket: str, since: datetime, after: ReplayCursor | None, rate: float, dry_run: bool
) -> None:
    from bucketline.admin.event_replay import EventReplay
    from bucketline.clock import SystemClock
    from bucketline.db.mongo import Database
    from bucketline.db.objects import Objects
    from bucketline.kafka.publisher import KafkaPublisher
    from bucketline.settings import KafkaSettings, MongoSettings

    database = Database(MongoSettings())
    try:
        bucket_id = await _find_bucket(database, namespace, bucket)
        objects = Objects(database)
        position = (after.created_at, after.object_id) if after else None
        count = await objects.count_created_since(bucket_id, since, after=position, limit=MAX_COUNT)
        if dry_run:
            wide_console().print(f"{'at least ' if count == MAX_COUNT else ''}{count} objects found")
            return
        async with KafkaPublisher(KafkaSettings()) as publisher:
            event_replay = EventReplay(objects, publisher, clock=SystemClock(), rate=rate)
            await _publish(event_replay, bucket_id, since, after, count if count < MAX_COUNT else None)
    finally:
        database.close()


async def _publish(
    event_replay: EventReplay, bucket_id: str, since: datetime, cursor: ReplayCursor | None, total: int | None
) -> None:
    """Publish the events and show the progress. ``total`` is None if there are too many objects to count."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    objects = published = 0
    columns = TextColumn("objects"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("objects", total=total)
        try:
            async for progress in event_replay.run(bucket_id, since, cursor):
                objects, published, cursor = progress.objects, progress.events, progress.cursor
                bar.update(task, completed=objects, total=max(total, objects) if total else None)
        except BaseException as error:
            bar.stop()
            if cursor is not None:
                Console(stderr=True).print(f"stopped after {objects} objects; continue with [cyan]--after {cursor}[/]")
            if isinstance(error, BucketlineError):
                fail(error.message)
            raise
    wide_console().print(f"{published} events of {objects} objects published")


async def _find_bucket(database: Database, namespace: str, identifier: str) -> str:
    from bucketline.admin.api_keys import ApiKeySettings
    from bucketline.db.buckets import Buckets
    from bucketline.db.namespaces import Namespaces

    owner = await Namespaces(database).resolve(ApiKeySettings().organization_id, namespace)
    if owner is None:
        raise NotFound(f"there is no namespace {namespace!r}; pass another one with --namespace")
    document = await Buckets(database).resolve(owner["_id"], identifier)
    if document is None:
        raise NotFound(f"there is no bucket {identifier!r} in the namespace {namespace!r}")
    return document["_id"]
