"""Commands that inspect and prepare an installation: ``doctor``, ``indexes``, ``extractors`` and ``version``."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bucketline import __version__
from bucketline.cli.terminal import report_progress, run_quietly, silence_client_logs, wide_console

if TYPE_CHECKING:
    from bucketline.admin.diagnostics import CheckResult

_SEVERITIES = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]failed[/]"}


def version() -> None:
    """Print the version.

    Example: [cyan]bucketline version[/]
    """
    typer.echo(__version__)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """Check all dependencies and give advice. Exit 1 if a check fails.

    MongoDB, Kafka and S3 have to be reachable, with the permissions and guarantees that the services need, and the
    clocks of MongoDB and S3 have to agree with the local one. The checks write and delete one document and two small
    objects, and publish nothing.

    Example: [cyan]BUCKETLINE_MONGODB_URL=mongodb://db:27017 bucketline doctor[/]
    """
    import orjson

    from bucketline.admin.api_keys import ApiKeySettings
    from bucketline.admin.diagnostics import run_checks
    from bucketline.clock import SystemClock
    from bucketline.extractors import ExtractorRegistry
    from bucketline.settings import KafkaSettings, MongoSettings, S3Settings

    silence_client_logs()
    results = asyncio.run(
        run_checks(MongoSettings(), KafkaSettings(), S3Settings(), ApiKeySettings(), ExtractorRegistry(), SystemClock())
    )
    if as_json:
        typer.echo(orjson.dumps([asdict(result) for result in results], option=orjson.OPT_INDENT_2).decode())
    else:
        _print_results(results)
    raise typer.Exit(1 if any(result.severity == "error" for result in results) else 0)


def _print_results(results: "Sequence[CheckResult]") -> None:
    console = wide_console()
    table = Table("Part", "Check", "Result", "Found", "Advice")
    for result in results:
        severity = _SEVERITIES[result.severity]
        table.add_row(result.part, result.check, severity, escape(result.found), escape(result.advice))
    console.print(table)
    failed = sum(result.severity == "error" for result in results)
    warnings = sum(result.severity == "warning" for result in results)
    console.print(f"{len(results)} checks: {failed} failed, {warnings} warnings")


def indexes() -> None:
    """Create the MongoDB indexes that are missing. Safe at any time and from several places at once.

    Example: [cyan]bucketline indexes[/]
    """
    from bucketline.db.indexes import INDEXES

    console = Console()
    with report_progress("creating missing indexes; this takes minutes for a large collection"):
        created = run_quietly(_create_indexes())
    for collection, names in created.items():
        console.print(f"created in {collection}: {', '.join(names)}")
    console.print(f"{sum(map(len, INDEXES.values()))} indexes exist, {sum(map(len, created.values()))} of them are new")


async def _create_indexes() -> dict[str, list[str]]:
    from bucketline.db.indexes import ensure_indexes, missing_indexes
    from bucketline.db.mongo import Database
    from bucketline.settings import MongoSettings

    database = Database(MongoSettings())
    try:
        missing = await missing_indexes(database)
        await ensure_indexes(database)
        return missing
    finally:
        database.close()


def extractors(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with the schemas of the parameters.")] = False,
) -> None:
    """List the installed extractors and those that do not load. Exit 1 if one does not load.

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
            "broken": [asdict(extractor) for extractor in broken],
        }
        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=list).decode())
    else:
        console = wide_console()
        table = Table("Extractor", "Version", "Runs in", "Description")
        for info in infos:
            runs_in = "worker process" if info.cpu_bound else "event loop"
            table.add_row(info.name, info.version, runs_in, escape(info.description))
        console.print(table)
        for extractor in broken:
            name = f"[red]{escape(extractor.entry_point)}[/] of {escape(extractor.distribution)}"
            console.print(f"{name} does not load: {escape(extractor.reason)}")
    raise typer.Exit(1 if broken else 0)
