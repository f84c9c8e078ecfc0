"""``bucketline extractors``: what this installation can do with objects."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bucketline.cli.output import wide_console


def extractors(
    as_json: Annotated[bool, typer.Option("--json", help="JSON with the schemas of the parameters.")] = False,
) -> None:
    """List the installed extractors, and broken ones. Exit 1 if one is broken.

    Example: [cyan]bucketline extractors --json[/]
    """
    import orjson

    from bucketline.extractors import ExtractorRegistry

    registry = ExtractorRegistry()
    infos, broken = registry.infos(), registry.broken()
    if as_json:
        document = {
            "extractors": [
                {
                    "id": info.id,
                    "name": info.name,
                    "version": info.version,
                    "description": info.description,
                    "parameters_schema": dict(info.parameters_schema),
                }
                for info in infos
            ],
            "broken": [
                {"entry_point": one.entry_point, "distribution": one.distribution, "reason": one.reason}
                for one in broken
            ],
        }
        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=list).decode())
        raise typer.Exit(1 if broken else 0)
    table = Table("extractor", "version", "runs in", "what it does")
    for info in infos:
        table.add_row(info.name, info.version, "worker" if info.cpu_bound else "event loop", escape(info.description))
    console = wide_console()
    console.print(table)
    for one in broken:
        console.print(f"[red]{escape(one.entry_point)}[/] of {escape(one.distribution)}: {escape(one.reason)}")
    raise typer.Exit(1 if broken else 0)
