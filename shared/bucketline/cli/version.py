"""``bucketline version``."""

import typer

from bucketline import __version__


def version() -> None:
    """Print the version.

    Example: [cyan]bucketline version[/]
    """
    typer.echo(__version__)
