"""``bucketline serve``: one service in this process."""

from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bucketline.settings import ServiceName

PACKAGES: "dict[ServiceName, str]" = {
    "ingest-api": "bucketline_ingest_api",
    "dedup": "bucketline_dedup",
    "batcher": "bucketline_batcher",
    "processor": "bucketline_processor",
}
"""The import names of the services. The library does not import them in any other way."""

CONSOLE = "console"
"""The web console: a server of its own, but no part of the pipeline."""


def serve(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join([*PACKAGES, CONSOLE])}.")],
) -> None:
    """Run one service until SIGTERM. It is configured with BUCKETLINE_* variables only.

    Example: [cyan]BUCKETLINE_HTTP_PORT=8080 bucketline serve ingest-api[/]
    """
    from bucketline.server import serve as run_service
    from bucketline.settings import SERVICES, read_settings

    if service == CONSOLE:  # it needs neither MongoDB nor Kafka nor S3
        settings = import_module("bucketline_console.settings").read_settings()
        raise typer.Exit(run_service(settings, import_module("bucketline_console.app").create))
    name = next((known for known in SERVICES if known == service), None)
    if name is None:
        raise typer.BadParameter(f"there is no service {service!r}; there are {', '.join([*SERVICES, CONSOLE])}")
    raise typer.Exit(run_service(read_settings(name), import_module(f"{PACKAGES[name]}.app").create))
