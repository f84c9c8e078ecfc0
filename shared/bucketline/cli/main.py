"""The ``bucketline`` command."""

import typer

from bucketline.cli.commands import Commands

app = typer.Typer(
    cls=Commands,
    name="bucketline",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    # A traceback in boxes is unreadable in a log.
    pretty_exceptions_enable=False,
)


@app.callback()
def bucketline() -> None:
    """Self-hosted, event-driven object ingestion.

    Everything is configured by BUCKETLINE_* variables or a .env file; without any, commands look for a local stack.
    """


if __name__ == "__main__":
    app()
