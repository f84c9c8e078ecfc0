"""``bucketline topics``: what is on the bus, and whether the broker has it."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bucketline.cli.console import running, wide_console
from bucketline.events.asyncapi import rendered
from bucketline.events.topics import TOPICS
from bucketline.messaging.topics import TopicState, check_topics, ensure_topics
from bucketline.settings import KafkaSettings

app = typer.Typer(help="The topics: list them, check them, make them, document them.", invoke_without_command=True)


@app.callback()
def topics(
    context: typer.Context,
    asyncapi: Annotated[bool, typer.Option("--asyncapi", help="Print the AsyncAPI 3.0 document as JSON.")] = False,
) -> None:
    """List the topics with their events, producers and consumers.

    Example: [cyan]bucketline topics --asyncapi > asyncapi.json[/]
    """
    if context.invoked_subcommand is not None:
        return
    settings = KafkaSettings()
    if asyncapi:
        typer.echo(rendered(settings.topic_prefix).decode(), nl=False)
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
    """Compare the broker's topics with the table; exit 1 if one is missing or has too few partitions.

    Example: [cyan]bucketline topics check[/]
    """
    states = running(check_topics(KafkaSettings()))
    wide_console().print(_table(states))
    if not all(state.good for state in states):
        Console(stderr=True).print(
            "[red]some topics are not as they should be;[/] run [cyan]bucketline topics create[/]"
        )
        raise typer.Exit(1)


@app.command()
def create() -> None:
    """Make the topics that are missing; existing ones are left as they are.

    Example: [cyan]BUCKETLINE_KAFKA_REPLICATION_FACTOR=3 bucketline topics create[/]
    """
    made = running(ensure_topics(KafkaSettings()))
    Console().print("\n".join(f"made {name}" for name in made) or "nothing was missing")


def _table(states: list[TopicState]) -> Table:
    table = Table("topic", "partitions wanted", "found", "")
    for state in states:
        found = "missing" if state.partitions is None else str(state.partitions)
        table.add_row(
            state.name, str(state.wanted_partitions), found, "[green]ok" if state.good else "[red]not as it should be"
        )
    return table
