"""The ``bucketline`` command."""

import typer

from bucketline.cli.lazy_group import HELP, LazyGroup

app = typer.Typer(
    cls=LazyGroup,
    name="bucketline",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": sorted(HELP)},
    # A traceback in boxes is unreadable in a log.
    pretty_exceptions_enable=False,
)


@app.callback()
def bucketline() -> None:
    """Self-hosted, event-driven object ingestion.

    Everything is configured by BUCKETLINE_* variables or a .env file. What these leave open, commands take from the
    local stack that `bucketline up` runs here.
    """


if __name__ == "__main__":
    app()
