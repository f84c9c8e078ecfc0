"""``bucketline serve``: one service in this process."""

from importlib import import_module
from typing import Annotated

import typer

_PACKAGES = {
    "ingest-api": "bucketline_ingest_api.app",
    "dedup": "bucketline_dedup.app",
    "batcher": "bucketline_batcher.app",
    "processor": "bucketline_processor.app",
}


def serve(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(_PACKAGES)}.")],
) -> None:
    """Run one service until SIGTERM. It is configured by BUCKETLINE_* variables alone.

    Example: [cyan]BUCKETLINE_HTTP_PORT=8080 bucketline serve ingest-api[/]
    """
    from bucketline.server import serve as run
    from bucketline.settings import SERVICES, read_settings

    name = next((known for known in SERVICES if known == service), None)
    if name is None:
        raise typer.BadParameter(f"there is no service {service!r}; there are {', '.join(SERVICES)}")
    # A service is named here and imported nowhere else in the library.
    raise typer.Exit(run(read_settings(name), import_module(_PACKAGES[name]).create))
