"""``bucketline env``: the variables of the running local stack."""

from pathlib import Path
from typing import Annotated

import typer

from bucketline.cli.environment import DATA_VARIABLE, DEFAULT_DATA, find
from bucketline.cli.output import fail


def env(
    data: Annotated[
        Path, typer.Option(envvar=DATA_VARIABLE, help="The data folder of `bucketline up`.")
    ] = DEFAULT_DATA,
) -> None:
    """Print the variables of the running local stack, for a shell. They hold its keys.

    Example: [cyan]eval "$(bucketline env)"[/]
    """
    path = find(data)
    if path is None:
        fail(f"no local stack runs with its data in {data}", advice="Start one: [cyan]bucketline up[/].")
    typer.echo(path.read_text(), nl=False)
