"""``bucketline events``: follow events, print their schemas, and replay those of stored objects."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bucketline.cli.terminal import fail, parse_past_time, run_quietly, run_until_signal, wide_console
from bucketline.errors import BucketlineError, NotFound

if TYPE_CHECKING:
    from bucketline.admin.event_replay import EventReplay, ReplayCursor
    from bucketline.db.mongo import Database
    from bucketline.events.models import Event

MAX_COUNT = 1_000_000
"""Counting more objects would take too long."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def events() -> None:
    """Follow events, print their schemas. Also replays the events of stored objects.

    Example: [cyan]bucketline events tail --type object.status_changed[/]
    """


@app.command()
def tail(
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only events of this type, for example object.created; repeatable."),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only events of this object or batch, by id.")] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest stored event instead of new ones.")
    ] = False,
    count: Annotated[int | None, typer.Option(help="Stop after this many events.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Follow the events on Kafka until Ctrl-C. It uses no consumer group, so it does not affect other subscribers.

    Example: [cyan]bucketline events tail --type object.created --type object.deleted --json[/]
    """
    names = {_event_type(name).type for name in types or ()}
    run_until_signal(_tail(names, subject, from_beginning, count, as_json))


@app.command()
def schema(
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="An event type, for example object.created.")],
) -> None:
    """Print the JSON Schema of the payload of an event type.

    Example: [cyan]bucketline events schema object.status_changed[/]
    """
    import json

    from bucketline.events.models import json_schema

    typer.echo(json.dumps(json_schema(_event_type(type_name)), indent=2))


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


def _event_type(name: str) -> type[Event]:
    """Return the event type by its full or short name (``object.created``). An unknown name ends the command."""
    from bucketline.events.models import EVENT_TYPES_BY_NAME

    short = {full.removeprefix("bucketline.").rpartition(".v")[0]: event for full, event in EVENT_TYPES_BY_NAME.items()}
    found = EVENT_TYPES_BY_NAME.get(name) or short.get(name)
    if found is None:
        raise typer.BadParameter(f"unknown event type {name!r}; known are {', '.join(sorted(short))}")
    return found


async def _tail(types: set[str], subject: str | None, from_beginning: bool, count: int | None, as_json: bool) -> None:
    from aiokafka import AIOKafkaConsumer

    from bucketline.events.topics import TOPICS
    from bucketline.kafka.client_config import client_options
    from bucketline.settings import KafkaSettings

    settings = KafkaSettings()
    topics = [settings.topic_prefix + topic.name for topic in TOPICS]
    consumer = AIOKafkaConsumer(
        *topics,
        **client_options(settings),
        auto_offset_reset="earliest" if from_beginning else "latest",
        fetch_max_wait_ms=settings.fetch_max_wait_ms,
    )
    printed = 0
    async with consumer:
        if from_beginning:
            await consumer.seek_to_beginning()
        async for record in consumer:
            headers = {name: value.decode(errors="replace") for name, value in record.headers}
            if (types and headers.get("ce_type") not in types) or (subject and headers.get("ce_subject") != subject):
                continue
            typer.echo(_format_event(headers, record.value, as_json))
            printed += 1
            if printed == count:
                return


def _format_event(headers: dict[str, str], payload: bytes | None, as_json: bool) -> str:
    """Return one line: the time, the type, the subject and the payload."""
    import json

    try:
        data = json.loads(payload or b"null")
    except ValueError:
        data = (payload or b"").decode(errors="replace")
    attributes = {name.removeprefix("ce_"): value for name, value in headers.items() if name.startswith("ce_")}
    if as_json:
        return json.dumps({**attributes, "data": data}, ensure_ascii=False)
    columns = (attributes.get(name, "-") for name in ("time", "type", "subject"))
    return "  ".join([*columns, json.dumps(data, ensure_ascii=False)])


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
