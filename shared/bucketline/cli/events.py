"""``bucketline replay``: the events of stored objects once more, for a new subscriber."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bucketline.cli.output import fail, running, wide_console
from bucketline.cli.params import moment
from bucketline.errors import BucketlineError, NotFound

if TYPE_CHECKING:
    from bucketline.admin.event_replay import EventReplay, ReplayCursor
    from bucketline.db.mongo import Database


def replay(
    bucket: Annotated[str, typer.Option(help="The bucket, by id or name.")],
    since: Annotated[str, typer.Option(help="Objects made since then: 2026-03-01T12:00, 24h, 7d.")],
    namespace: Annotated[str, typer.Option(help="The bucket's namespace, by id or name.")] = "default",
    rate: Annotated[float, typer.Option(help="At most this many objects a second.", min=0.1, max=100_000)] = 500.0,
    after: Annotated[str | None, typer.Option(help="Go on from the place that an interrupted replay named.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the objects.")] = False,
) -> None:
    """Publish the events of stored objects again: created, mirrored, and their latest status.

    They go to the usual topics with ids of their own, the same in every replay. Nothing is mirrored or processed again.

    Example: [cyan]bucketline replay --namespace shop --bucket invoices --since 7d[/]
    """
    from bucketline.admin.event_replay import ReplayCursor
    from bucketline.clock import SystemClock

    clock = SystemClock()
    begin = moment(since, clock.now())
    try:
        place = ReplayCursor.read(after) if after else None
    except BucketlineError as error:
        raise typer.BadParameter(error.message, param_hint="--after") from error
    running(_replay(namespace, bucket, begin, place, rate, dry_run))


async def _replay(
    namespace: str, bucket: str, since: datetime, place: ReplayCursor | None, rate: float, dry_run: bool
) -> None:
    from bucketline.admin.event_replay import COUNTED, EventReplay
    from bucketline.clock import SystemClock
    from bucketline.db.mongo import Database
    from bucketline.db.objects import Objects
    from bucketline.kafka.publisher import KafkaPublisher
    from bucketline.settings import KafkaSettings, MongoSettings

    database = Database(MongoSettings())
    try:
        bucket_id = await _bucket(database, namespace, bucket)
        async with KafkaPublisher(KafkaSettings()) as publisher:
            work = EventReplay(Objects(database), publisher, clock=SystemClock(), rate=rate)
            if dry_run:
                wide_console().print(f"{await work.count(bucket_id, since, place)} objects would be told of")
                return
            found = await work.count(bucket_id, since, place, most=COUNTED)
            await _run(work, bucket_id, since, place, found if found < COUNTED else None)
    finally:
        database.close()


async def _run(
    work: EventReplay, bucket_id: str, since: datetime, place: ReplayCursor | None, total: int | None
) -> None:
    """``total`` is None where there are too many to count them first."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    objects = events = 0
    columns = TextColumn("objects"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("objects", total=total)
        try:
            async for progress in work.run(bucket_id, since, place):
                objects, events, place = progress.objects, progress.events, progress.place
                bar.update(task, completed=objects, total=max(total, objects) if total else None)
        except BaseException as error:
            bar.stop()
            if place is not None:
                Console(stderr=True).print(f"stopped after {objects} objects; go on with [cyan]--after {place}[/]")
            if isinstance(error, BucketlineError):
                fail(error.message)
            raise
    wide_console().print(f"{events} events of {objects} objects published")


async def _bucket(database: Database, namespace: str, identifier: str) -> str:
    from bucketline.api_keys.settings import ApiKeySettings
    from bucketline.db.buckets import Buckets
    from bucketline.db.namespaces import Namespaces

    owner = await Namespaces(database).resolve(ApiKeySettings().organization_id, namespace)
    if owner is None:
        raise NotFound(f"there is no namespace {namespace!r}; name it with --namespace")
    found = await Buckets(database).resolve(owner["_id"], identifier)
    if found is None:
        raise NotFound(f"there is no bucket {identifier!r} in {namespace!r}")
    return found["_id"]
