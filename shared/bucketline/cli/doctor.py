"""``bucketline doctor``: looks at everything that the services depend on, and says what to do."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bucketline.cli.output import silence_client_logs, wide_console

if TYPE_CHECKING:
    from bucketline.admin.diagnostics.result import CheckResult

_SIGNS = {"ok": "[green]ok[/]", "warning": "[yellow]look[/]", "bad": "[red]bad[/]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """Check everything that the services depend on, with advice. Exit 1 if something is bad.

    MongoDB, Kafka and S3: reachable, as they should be, with the permissions and promises that we need; the clocks of
    MongoDB and S3 in step with ours (Kafka does not tell its own, and nothing depends on it).
    It writes and removes one document and two small objects of its own, and publishes nothing.

    Example: [cyan]BUCKETLINE_MONGODB_URL=mongodb://db:27017 bucketline doctor[/]
    """
    import orjson

    from bucketline.admin.diagnostics.run import DiagnosticTargets, run_checks
    from bucketline.api_keys.settings import ApiKeySettings
    from bucketline.clock import SystemClock
    from bucketline.extractors import ExtractorRegistry
    from bucketline.settings import KafkaSettings, MongoSettings, S3Settings

    silence_client_logs()
    patient = DiagnosticTargets(MongoSettings(), KafkaSettings(), S3Settings(), ApiKeySettings(), ExtractorRegistry())
    rows = asyncio.run(run_checks(patient, SystemClock()))
    if as_json:
        typer.echo(orjson.dumps([asdict(row) for row in rows], option=orjson.OPT_INDENT_2).decode())
    else:
        _show(rows)
    raise typer.Exit(1 if any(row.verdict == "bad" for row in rows) else 0)


def _show(rows: "Sequence[CheckResult]") -> None:
    console = wide_console()
    table = Table("part", "what", "", "found", "advice")
    for row in rows:
        table.add_row(row.part, row.what, _SIGNS[row.verdict], escape(row.found), escape(row.advice))
    console.print(table)
    bad = sum(row.verdict == "bad" for row in rows)
    look = sum(row.verdict == "warning" for row in rows)
    console.print(
        "everything is as it should be" if not bad + look else f"{bad} bad, {look} to look at, of {len(rows)} checks"
    )
