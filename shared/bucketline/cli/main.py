"""The ``bucketline`` command."""

from importlib import import_module
from typing import Annotated

import typer

from bucketline import __version__
from bucketline.cli import demo, indexes, push, topics, up
from bucketline.settings import SERVICES, ServiceName, read_settings

app = typer.Typer(
    name="bucketline",
    help="Self-hosted, event-driven object ingestion.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("push")(push.push)
app.command("indexes")(indexes.indexes)
app.add_typer(topics.app, name="topics")

_PACKAGES: dict[ServiceName, str] = {
    "ingest-api": "ingest_api.app",
    "dedup": "dedup.app",
    "batcher": "batcher.app",
    "processor": "processor.app",
}


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(SERVICES)}.")],
) -> None:
    """Run one service until SIGTERM. It is configured by BUCKETLINE_* variables alone.

    Example: [cyan]BUCKETLINE_HTTP_PORT=8080 bucketline serve ingest-api[/]
    """
    from bucketline.serve import serve as run

    name = next((known for known in SERVICES if known == service), None)
    if name is None:
        raise typer.BadParameter(f"there is no service {service!r}; there are {', '.join(SERVICES)}")
    # A service is named here and imported nowhere else in the library.
    raise typer.Exit(run(read_settings(name), import_module(_PACKAGES[name]).create))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


if __name__ == "__main__":
    app()
