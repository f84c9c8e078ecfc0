"""``bucketline dlq``: inspect dead letters, replay them or discard them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from bucketline.cli.terminal import fail, run_quietly, wide_console

if TYPE_CHECKING:
    from bucketline.kafka.dead_letters import DeadLetter, DeadLetterStore

T = TypeVar("T")

MAX_RECORDS = 10_000
"""The same as :data:`bucketline.kafka.dead_letters.MAX_RECORDS`, which takes a second to import."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

TopicFilter = Annotated[str | None, typer.Option("--topic", help="Only dead-letter topics whose name contains this.")]
Address = Annotated[str, typer.Argument(metavar="TOPIC:PARTITION:OFFSET", help="As shown by `dlq list`.")]


@app.callback()
def dlq() -> None:
    """List, show, replay and discard dead letters: records that a service could not process.

    Example: [cyan]bucketline dlq list[/]
    """


@app.command("list")
def list_(
    topic: TopicFilter = None,
    limit: Annotated[int, typer.Option(help="Maximum number of records.", min=1, max=MAX_RECORDS)] = 50,
    include_all: Annotated[bool, typer.Option("--all", help="Include replayed and discarded records.")] = False,
) -> None:
    """List the dead letters that have been neither replayed nor discarded.

    Example: [cyan]bucketline dlq list --topic objects.v1[/]
    """
    rows = _run(lambda admin: admin.list(limit=limit, include_all=include_all), topic_filter=topic)
    if not rows:
        wide_console().print("no dead letters" if include_all else "no dead letters to replay")
        return
    table = Table("Record", "Key", "Event", "Error", "Attempts", "Failed at", "State")
    for row in rows:
        table.add_row(
            escape(row.address),
            escape(_decode(row.key)),
            escape(row.type),
            escape(f"{row.context.get('exception-class', '?')}: {row.context.get('exception-message', '')}"),
            escape(row.context.get("attempts", "?")),
            escape(row.context.get("failed-at", "?")),
            row.state,
        )
    wide_console().print(table)


@app.command()
def show(address: Address) -> None:
    """Show a dead letter with its headers and its value, as JSON.

    If the record was too large to be stored whole, `incomplete` in its failure context says what is missing.

    Example: [cyan]bucketline dlq show bucketline.objects.v1.dedup.dlq:0:12[/]
    """
    import orjson

    row = _find(address)
    document = {
        "topic": row.topic,
        "key": _decode(row.key),
        "failure": row.context,
        "state": row.state,
        "headers": {name: None if value is None else _decode(value) for name, value in row.headers},
        "value": _decode_json(row.value),
    }
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


@app.command()
def replay(
    address: Annotated[
        str | None, typer.Argument(metavar="[TOPIC:PARTITION:OFFSET]", help="One record; all if not given.")
    ] = None,
    topic: TopicFilter = None,
    limit: Annotated[int, typer.Option(help="Maximum number of records.", min=1, max=MAX_RECORDS)] = 1000,
) -> None:
    """Publish dead letters to the topics that they came from. What fails again becomes a dead letter again.

    Discarded records are skipped. Incomplete records are skipped and counted: their producer has to send them again.

    Example: [cyan]bucketline dlq replay --topic objects.v1[/]
    """
    console = wide_console()
    if address is not None:
        row = _find(address)
        _run(lambda admin: admin.replay_one(row))
        console.print(f"replayed to {row.topic}")
        return
    result = _run(lambda admin: admin.replay(limit=limit), topic_filter=topic)
    for name, count in sorted(result.topics.items()):
        console.print(f"{name}: {count}")
    console.print(f"{result.count} records replayed")
    if result.incomplete:
        console.print(f"{result.incomplete} incomplete records skipped, see `dlq list --all`")


@app.command()
def discard(
    address: Address,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Discard a dead letter: it is no longer listed, and `dlq replay` skips it. The record itself is kept.

    Example: [cyan]bucketline dlq discard bucketline.objects.v1.dedup.dlq:0:12 --yes[/]
    """
    row = _find(address)
    if not yes:
        error = f"{row.context.get('exception-class', '?')}: {row.context.get('exception-message', '')}"
        typer.confirm(
            f"{row.type or 'A record'} with the key {_decode(row.key)!r} failed with {error}. Discard it?", abort=True
        )
    _run(lambda admin: admin.discard(row))
    wide_console().print(f"discarded {escape(address)}")


def _find(address: str) -> DeadLetter:
    topic, _, rest = address.partition(":")
    partition, _, offset = rest.partition(":")
    if not (topic and partition.isdigit() and offset.isdigit()):
        raise typer.BadParameter(f"{address!r} is not TOPIC:PARTITION:OFFSET")
    row = _run(lambda admin: admin.get(topic, int(partition), int(offset)))
    if row is None:
        fail(f"there is no dead letter at {address}")
    return row


def _run(work: Callable[[DeadLetterStore], Awaitable[T]], topic_filter: str | None = None) -> T:
    async def run() -> T:
        from bucketline.db.job_cursors import JobCursors
        from bucketline.db.mongo import Database
        from bucketline.kafka.dead_letters import DeadLetterStore
        from bucketline.settings import KafkaSettings, MongoSettings

        database = Database(MongoSettings())
        try:
            return await work(DeadLetterStore(KafkaSettings(), JobCursors(database), topic_filter=topic_filter))
        finally:
            database.close()

    return run_quietly(run())


def _decode(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="backslashreplace")


def _decode_json(value: bytes | None) -> object:
    import orjson

    try:
        return orjson.loads(value or b"null")
    except orjson.JSONDecodeError:
        return _decode(value)
