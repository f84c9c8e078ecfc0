"""``bucketline topics``: the Kafka topics as they should be and as the broker has them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bucketline.cli.serve import PACKAGES
from bucketline.cli.terminal import fail, run_quietly, wide_console

if TYPE_CHECKING:
    from bucketline.kafka.admin import Fault, TopicState

ADVICE: Mapping[Fault, str] = {
    "missing": "Missing topics: [cyan]bucketline topics create[/].",
    "partitions": "Partitions: [cyan]kafka-topics.sh --alter --topic TOPIC --partitions COUNT[/], while no events "
    "are in flight: with more partitions, keys are assigned to other ones.",
    "retention": "Retention: [cyan]kafka-configs.sh --alter --entity-type topics --entity-name TOPIC "
    "--add-config retention.ms=MILLISECONDS[/].",
    "copies": "Replicas: [cyan]kafka-reassign-partitions.sh[/], with at least as many brokers as replicas.",
}
"""How to correct each fault. On Kubernetes, Strimzi applies what the KafkaTopic resource contains."""

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def topics(
    context: typer.Context,
    asyncapi: Annotated[bool, typer.Option("--asyncapi", help="Print the AsyncAPI 3.0 document as JSON.")] = False,
) -> None:
    """List, check, create and document the Kafka topics.

    Without a subcommand, the topics are listed with their events, producers and consumers.

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
    table = Table("Topic", "Events", "Key", "Partitions", "Producers", "Consumers")
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
    """Compare the broker's topics with what they should be. Exit 1 if a topic is missing or below that.

    Compares the numbers of partitions and replicas (BUCKETLINE_KAFKA_REPLICATION_FACTOR) and the retention.

    Example: [cyan]bucketline topics check[/]
    """
    from bucketline.kafka.admin import check_topics
    from bucketline.settings import KafkaSettings

    states = run_quietly(check_topics(KafkaSettings(), retention=True))
    wide_console().print(_build_table(states))
    faults = {fault for state in states for fault in state.faults}
    if faults:
        lines = [line for fault, line in ADVICE.items() if fault in faults]
        fail(
            "some topics are missing or have too few partitions, replicas or days of retention", advice="\n".join(lines)
        )


@app.command()
def create() -> None:
    """Create the topics that are missing. Existing topics are not changed.

    Example: [cyan]BUCKETLINE_KAFKA_REPLICATION_FACTOR=3 bucketline topics create[/]
    """
    from bucketline.kafka.admin import ensure_topics
    from bucketline.settings import KafkaSettings

    created = run_quietly(ensure_topics(KafkaSettings()))
    Console().print("\n".join(f"created {name}" for name in created) or "no topic is missing")


def _build_table(states: list[TopicState]) -> Table:
    """Show the properties of each topic and, where one is too low, the required value."""
    table = Table("Topic", "Partitions", "Retention", "Replicas", "Result")
    for state in states:
        if state.partitions is None:
            table.add_row(state.name, "", "", "", "[red]missing")
            continue
        cells = {
            "partitions": (str(state.partitions), str(state.wanted_partitions)),
            "retention": (_format_days(state.kept_ms), _format_days(state.retention_ms)),
            "copies": (str(state.copies), str(state.wanted_copies)),
        }
        texts = [
            f"[red]{actual} of {required}[/]" if fault in state.faults else actual
            for fault, (actual, required) in cells.items()
        ]
        table.add_row(state.name, *texts, "[red]too low" if state.faults else "[green]ok")
    return table


def _format_days(milliseconds: int | None) -> str:
    from bucketline.events.topics import DAY_MS

    if milliseconds is None:
        return "unknown"
    return "unlimited" if milliseconds < 0 else f"{milliseconds / DAY_MS:g} d"
