"""``bucketline topics``: what is on the bus, and whether the broker has it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bucketline.cli.output import fail, running, wide_console
from bucketline.cli.serve import PACKAGES

if TYPE_CHECKING:
    from bucketline.kafka.topic_admin import Fault, TopicState

ADVICE: Mapping[Fault, str] = {
    "missing": "Missing ones: [cyan]bucketline topics create[/].",
    "partitions": "Partitions: [cyan]kafka-topics.sh --alter --topic TOPIC --partitions COUNT[/], while nothing is in "
    "flight: more partitions change which one a key goes to.",
    "retention": "How long records are kept: [cyan]kafka-configs.sh --alter --entity-type topics --entity-name TOPIC "
    "--add-config retention.ms=MILLISECONDS[/].",
    "copies": "Copies: [cyan]kafka-reassign-partitions.sh[/], with as many brokers as there shall be copies.",
}
"""What helps against each fault. On Kubernetes the KafkaTopic says the same, and its operator does it."""

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def topics(
    context: typer.Context,
    asyncapi: Annotated[bool, typer.Option("--asyncapi", help="Print the AsyncAPI 3.0 document as JSON.")] = False,
) -> None:
    """The topics: list them, check them, make them, document them.

    Without a subcommand their events, producers and consumers are listed.

    Example: [cyan]bucketline topics --asyncapi > asyncapi.json[/]
    """
    if context.invoked_subcommand is not None:
        return
    from bucketline.events.topics import TOPICS
    from bucketline.settings import KafkaSettings

    settings = KafkaSettings()
    if asyncapi:
        from bucketline.kafka.asyncapi import rendered

        routers = {name: import_module(f"{package}.subscribers").router for name, package in PACKAGES.items()}
        typer.echo(rendered(routers, settings.topic_prefix).decode(), nl=False)
        return
    table = Table("topic", "events", "key", "partitions", "from", "to")
    for topic in TOPICS:
        table.add_row(
            settings.topic_prefix + topic.name,
            "\n".join(event.type for event in topic.events),
            topic.key,
            str(topic.partitions),
            "\n".join(topic.producers),
            "\n".join(topic.consumers),
        )
    wide_console().print(table)


@app.command()
def check() -> None:
    """Compare the broker's topics with the table; exit 1 if one is missing or has too little of something.

    Partitions, how long records are kept, and copies (BUCKETLINE_KAFKA_REPLICATION_FACTOR). More of them is fine.

    Example: [cyan]bucketline topics check[/]
    """
    from bucketline.kafka.topic_admin import check_topics
    from bucketline.settings import KafkaSettings

    states = running(check_topics(KafkaSettings(), retention=True))
    wide_console().print(_table(states))
    found = {fault for state in states for fault in state.faults}
    if found:
        lines = [line for fault, line in ADVICE.items() if fault in found]
        fail("some topics are not as they should be", advice="\n".join(lines))


@app.command()
def create() -> None:
    """Make the topics that are missing; existing ones are left as they are.

    Example: [cyan]BUCKETLINE_KAFKA_REPLICATION_FACTOR=3 bucketline topics create[/]
    """
    from bucketline.kafka.topic_admin import ensure_topics
    from bucketline.settings import KafkaSettings

    made = running(ensure_topics(KafkaSettings()))
    Console().print("\n".join(f"made {name}" for name in made) or "nothing was missing")


def _table(states: list[TopicState]) -> Table:
    """Of each topic what is found and, where that is too little, what is wanted."""
    table = Table("topic", "partitions", "kept", "copies", "")
    for state in states:
        if state.partitions is None:
            table.add_row(state.name, "", "", "", "[red]missing")
            continue
        cells = {
            "partitions": (str(state.partitions), str(state.wanted_partitions)),
            "retention": (_days(state.kept_ms), _days(state.retention_ms)),
            "copies": (str(state.copies), str(state.wanted_copies)),
        }
        texts = [
            f"[red]{found} of {wanted}[/]" if fault in state.faults else found
            for fault, (found, wanted) in cells.items()
        ]
        table.add_row(state.name, *texts, "[red]too little" if state.faults else "[green]ok")
    return table


def _days(milliseconds: int | None) -> str:
    from bucketline.events.topics import DAY_MS

    if milliseconds is None:
        return "not told"
    return "for ever" if milliseconds < 0 else f"{milliseconds / DAY_MS:g} d"
