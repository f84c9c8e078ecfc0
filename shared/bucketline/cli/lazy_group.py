"""The commands of ``bucketline`` and where they are: a command's module is imported when the command runs.

``bucketline --help`` would otherwise load every client of every store, which takes seconds.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command as built

from bucketline.cli.environment import use_running_stack
from bucketline.cli.output import dim, user_errors

HELP = {"-h", "--help"}
RUN, USE, OPERATE = "Run", "Use", "Operate"


@dataclass(frozen=True)
class Entry:
    """A command: ``what`` in ``module`` is a function, or a Typer application with subcommands.

    ``uses_stack``: what the environment leaves open is taken from the local stack that runs here.
    """

    name: str
    module: str
    what: str
    panel: str
    help: str
    uses_stack: bool = False


ENTRIES = (
    Entry("demo", "demo", "demo", RUN, "Start everything, push files, follow them to COMPLETED, show what happened."),
    Entry("up", "up", "up", RUN, "Start MongoDB, a Kafka broker, S3 and the four services."),
    Entry("serve", "serve", "serve", RUN, "Run one service until SIGTERM."),
    Entry("env", "env", "env", RUN, "Print the variables of the running local stack, for a shell."),
    Entry("push", "upload", "push", USE, "Push files as objects and have them processed at once.", uses_stack=True),
    Entry(
        "doctor",
        "doctor",
        "doctor",
        OPERATE,
        "Check everything that the services depend on, with advice.",
        uses_stack=True,
    ),
    Entry(
        "topics",
        "topics",
        "app",
        OPERATE,
        "The topics: list them, check them, make them, document them.",
        uses_stack=True,
    ),
    Entry("indexes", "indexes", "indexes", OPERATE, "Make the MongoDB indexes that are missing.", uses_stack=True),
    Entry("keys", "keys", "app", OPERATE, "API keys: create, list, rotate, revoke.", uses_stack=True),
    Entry("extractors", "extractors", "extractors", OPERATE, "List the installed extractors, and broken ones."),
    Entry("parked", "dlq", "app", OPERATE, "Parked records: list them, look at one, replay them.", uses_stack=True),
    Entry("replay", "events", "replay", OPERATE, "Publish the events of stored objects again.", uses_stack=True),
    Entry("gc", "gc", "gc", OPERATE, "Remove content that no object and no document refers to.", uses_stack=True),
    Entry("version", "version", "version", USE, "Print the version."),
)
_BY_NAME = {entry.name: entry for entry in ENTRIES}


def load_command(entry: Entry) -> Any:
    """The command itself."""
    found = getattr(import_module(f"bucketline.cli.{entry.module}"), entry.what)
    if isinstance(found, typer.Typer):
        found._add_completion = False  # it is installed once, for the whole command
        return built(found)
    alone = typer.Typer(rich_markup_mode="rich", add_completion=False)
    alone.command(entry.name)(found)
    return built(alone)


class LazyGroup(TyperGroup):
    """A group that knows its commands by name and one line of help, and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the interface of groups
        return list(_BY_NAME)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """A stand-in that is enough for the list of commands."""
        entry = _BY_NAME.get(cmd_name)
        if entry is None:
            return None
        return TyperCommand(entry.name, help=entry.help, rich_markup_mode="rich", rich_help_panel=entry.panel)

    def invoke(self, ctx: Any) -> Any:
        with user_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        entry = _BY_NAME.get(name or "")
        if command is None or entry is None:
            return name, command, rest
        if entry.uses_stack and not HELP & set(rest) and (found := use_running_stack()) is not None:
            folder, given = found
            dim(f"using the local stack of {folder}" + (f", except {', '.join(given)} (set already)" if given else ""))
        real = load_command(entry)
        real.name = entry.name
        return name, real, rest
