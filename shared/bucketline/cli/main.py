"""The ``bucketline`` command. The module of a subcommand is imported only when that subcommand runs.

``bucketline --help`` would otherwise load every database client, which takes seconds.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from bucketline.cli.environment import use_running_stack
from bucketline.cli.terminal import print_note, report_errors

HELP_OPTIONS = {"-h", "--help"}
RUN, USE, OPERATE = "Run", "Use", "Operate"


@dataclass(frozen=True)
class Entry:
    """A subcommand: ``attribute`` of ``module`` is a function or a Typer application with subcommands of its own."""

    name: str
    module: str
    attribute: str
    panel: str
    help: str
    uses_stack: bool = False
    """Whether variables that are not set are taken from the local stack that is running here."""


ENTRIES = (
    Entry("demo", "demo", "demo", RUN, "Start everything, upload files, follow them to COMPLETED, stop everything."),
    Entry("up", "up", "up", RUN, "Start MongoDB, a Kafka broker, S3, the four services and the console."),
    Entry("serve", "serve", "serve", RUN, "Run one service until SIGTERM."),
    Entry("env", "environment", "env", RUN, "Print the variables of the running local stack, for a shell."),
    Entry("upload", "upload", "upload", USE, "Upload files and folders as objects and process them.", uses_stack=True),
    Entry("version", "doctor", "version", USE, "Print the version."),
    Entry("doctor", "doctor", "doctor", OPERATE, "Check all dependencies and give advice.", uses_stack=True),
    Entry("topics", "topics", "app", OPERATE, "List, check, create and document the Kafka topics.", uses_stack=True),
    Entry("indexes", "doctor", "indexes", OPERATE, "Create the MongoDB indexes that are missing.", uses_stack=True),
    Entry("keys", "keys", "app", OPERATE, "List, create, rotate and revoke API keys.", uses_stack=True),
    Entry("extractors", "doctor", "extractors", OPERATE, "List the installed extractors and those that do not load."),
    Entry("dlq", "dlq", "app", OPERATE, "List, show, replay and discard dead letters.", uses_stack=True),
    Entry("events", "events", "app", OPERATE, "Follow events, print their schemas.", uses_stack=True),
    Entry("gc", "gc", "app", OPERATE, "Delete content that no object and no document refers to.", uses_stack=True),
)
_BY_NAME = {entry.name: entry for entry in ENTRIES}


def load_command(entry: Entry) -> Any:
    """Import and return the click command of an entry."""
    target = getattr(import_module(f"bucketline.cli.{entry.module}"), entry.attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(rich_markup_mode="rich")
        target.command(entry.name)(function)
    target._add_completion = False  # it is installed once, for the whole command
    command = get_command(target)
    command.name = entry.name
    return command


class LazyGroup(TyperGroup):
    """A group that knows the name and one line of help of each subcommand, and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all subcommands."""
        return list(_BY_NAME)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a placeholder that is sufficient for the list of commands."""
        entry = _BY_NAME.get(cmd_name)
        if entry is None:
            return None
        return TyperCommand(entry.name, help=entry.help, rich_markup_mode="rich", rich_help_panel=entry.panel)

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand and report expected errors without a traceback."""
        with report_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replace the placeholder by the subcommand, and use the running local stack if the subcommand can."""
        name, command, rest = super().resolve_command(ctx, args)
        entry = _BY_NAME.get(name or "")
        if command is None or entry is None:
            return name, command, rest
        if entry.uses_stack and not HELP_OPTIONS & set(rest) and (stack := use_running_stack()) is not None:
            folder, kept = stack
            print_note(
                f"using the local stack in {folder}" + (f", except {', '.join(kept)} (already set)" if kept else "")
            )
        return name, load_command(entry), rest


app = typer.Typer(
    cls=LazyGroup,
    name="bucketline",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": sorted(HELP_OPTIONS)},
    # A traceback in boxes is unreadable in a log.
    pretty_exceptions_enable=False,
)


@app.callback()
def bucketline() -> None:
    """Self-hosted, event-driven object ingestion.

    Everything is configured with BUCKETLINE_* variables or a .env file. Commands take the variables that are not set
    from the local stack that `bucketline up` runs here.

    Example: [cyan]bucketline upload report.pdf[/]
    """


if __name__ == "__main__":
    app()
