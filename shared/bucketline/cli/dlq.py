"""``bucketline parked``: records that could not be handled, and how they get another chance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from bucketline.cli.output import fail, running, wide_console

if TYPE_CHECKING:
    from bucketline.kafka.dead_letter_admin import Parked, ParkedRecords

T = TypeVar("T")

MAX_RECORDS = 10_000
"""As :data:`bucketline.kafka.dead_letter_admin.MOST`, which takes a second to import."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

Only = Annotated[str | None, typer.Option("--topic", help="Only parking topics whose name contains this.")]
RecordAddress = Annotated[str, typer.Argument(metavar="TOPIC:PARTITION:OFFSET", help="As `parked list` shows it.")]


@app.callback()
def parked() -> None:
    """Parked records: list them, look at one, replay them.

    Example: [cyan]bucketline parked list[/]
    """


@app.command("list")
def list_(
    topic: Only = None,
    limit: Annotated[int, typer.Option(help="Show at most this many.", min=1, max=MAX_RECORDS)] = 50,
    replayed: Annotated[bool, typer.Option("--all", help="Show those that were replayed, too.")] = False,
) -> None:
    """Show what is parked and waits for a replay.

    Example: [cyan]bucketline parked list --topic objects.v1[/]
    """
    rows = _run(lambda records: records.waiting(limit=limit, replayed=replayed), only=topic)
    if not rows:
        wide_console().print("nothing is parked" if replayed else "nothing waits for a replay")
        return
    table = Table("record", "key", "event", "error", "attempts", "parked at", "replayed")
    for row in rows:
        table.add_row(
            escape(f"{row.parking}:{row.partition}:{row.offset}"),
            escape(_shown(row.key)),
            escape(row.type),
            escape(f"{row.context.get('error-type', '?')}: {row.context.get('error', '')}"),
            escape(row.context.get("attempts", "?")),
            escape(row.context.get("at", "?")),
            "cannot be" if row.incomplete else "yes" if row.replayed else "",
        )
    wide_console().print(table)


@app.command()
def show(place: RecordAddress) -> None:
    """Show one parked record with its headers and its value, as JSON.

    If it was not parked whole, `incomplete` says what is missing and why.

    Example: [cyan]bucketline parked show bucketline.objects.v1.parked.dedup:0:12[/]
    """
    import orjson

    row = _found(place)
    document = {
        "topic": row.topic,
        "key": _shown(row.key),
        "parked": row.context,
        "replayed": row.replayed,
        "headers": {name: None if value is None else _shown(value) for name, value in row.headers},
        "value": _value(row.value),
    }
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


@app.command()
def replay(
    place: Annotated[
        str | None, typer.Argument(metavar="[TOPIC:PARTITION:OFFSET]", help="One record; without it all that wait.")
    ] = None,
    topic: Only = None,
    limit: Annotated[int, typer.Option(help="Replay at most this many.", min=1, max=MAX_RECORDS)] = 1000,
) -> None:
    """Send parked records back to the topics they came from. What fails again is parked again.

    What was too large to be parked whole is passed and counted: it can only come from its producer again.

    Example: [cyan]bucketline parked replay --topic objects.v1[/]
    """
    if place is not None:
        row = _found(place)
        _run(lambda records: records.replay_one(row))
        wide_console().print(f"replayed to {row.topic}")
        return
    outcome = _run(lambda records: records.replay(limit=limit), only=topic)
    for name, count in sorted(outcome.topics.items()):
        wide_console().print(f"{name}: {count}")
    wide_console().print(f"{outcome.count} records replayed")
    if outcome.passed:
        wide_console().print(f"{outcome.passed} not: they were not parked whole, see parked list --all")


def _found(place: str) -> Parked:
    parking, _, rest = place.partition(":")
    partition, _, offset = rest.partition(":")
    if not (parking and partition.isdigit() and offset.isdigit()):
        raise typer.BadParameter("TOPIC:PARTITION:OFFSET is expected")
    row = _run(lambda records: records.get(parking, int(partition), int(offset)))
    if row is None:
        fail(f"there is no record at {place}")
    return row


def _run(work: Callable[[ParkedRecords], Awaitable[T]], only: str | None = None) -> T:
    async def run() -> T:
        from bucketline.db.job_cursors import JobCursors
        from bucketline.db.mongo import Database
        from bucketline.kafka.dead_letter_admin import ParkedRecords
        from bucketline.settings import KafkaSettings, MongoSettings

        database = Database(MongoSettings())
        try:
            return await work(ParkedRecords(KafkaSettings(), JobCursors(database), only=only))
        finally:
            database.close()

    return running(run())


def _shown(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="backslashreplace")


def _value(value: bytes | None) -> object:
    import orjson

    try:
        return orjson.loads(value or b"null")
    except orjson.JSONDecodeError:
        return _shown(value)
