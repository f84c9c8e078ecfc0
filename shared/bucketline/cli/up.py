"""``bucketline up``: the whole pipeline on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from bucketline.cli.environment import DATA_VARIABLE, DEFAULT_DATA, MARKER, written
from bucketline.cli.output import run_until_signal
from bucketline.errors import LocalStackError

if TYPE_CHECKING:
    from bucketline.devstack.reservations import PortReservation
    from bucketline.devstack.stack import LocalStack
    from bucketline.devstack.supervisor import Event, Supervisor

AS_GIVEN = "<as given>"

_COLORS = {"ingest-api": "cyan", "dedup": "magenta", "batcher": "yellow", "processor": "green"}
_LOG_FORMAT = "BUCKETLINE_LOG_FORMAT"


def up(
    port: Annotated[int, typer.Option(envvar="BUCKETLINE_PORT", help="Port of the HTTP API.", min=1, max=65535)] = 8080,
    key: Annotated[
        str | None,
        typer.Option(envvar="BUCKETLINE_API_KEY", help="Admin API key; made and kept beside the data if not given."),
    ] = None,
    data: Annotated[
        Path, typer.Option(envvar=DATA_VARIABLE, help="Folder for the data, one subfolder per port.")
    ] = DEFAULT_DATA,
    processors: Annotated[int, typer.Option(help="How many processors to run.", min=1, max=16)] = 1,
) -> None:
    """Start MongoDB, a Kafka broker, S3 and the four services, and keep them running until Ctrl-C.

    A part whose address is set (BUCKETLINE_MONGODB_URL, BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS, BUCKETLINE_S3_ENDPOINT_URL)
    is used where it is and not started. What ends unasked is started again, without a limit. Other commands use this
    stack while it runs; its variables are in `env` in the data folder, and `bucketline env` prints them.

    Example: [cyan]bucketline up --port 9000 --processors 2[/]
    """
    console = Console()
    folder = data / str(port)
    claimed = claim_port(port)
    run_until_signal(_up(console, data, folder, claimed, key, processors))
    console.print(f"stopped; the data stays in {folder}", markup=False, soft_wrap=True)


def claim_port(port: int) -> PortReservation:
    """Claim the port of the API before anything is started."""
    from bucketline.devstack.reservations import reserve_port

    try:
        return reserve_port(port)
    except LocalStackError as taken:
        raise LocalStackError(f"{taken}; choose another port for the API with --port or BUCKETLINE_PORT") from None


async def _up(
    console: Console, data: Path, folder: Path, claimed: PortReservation, given_key: str | None, processors: int
) -> None:
    """Run everything until the task is canceled."""
    from bucketline.cli.local_stack import load_or_create_key, local_stack, service_environment
    from bucketline.devstack.supervisor import Supervisor, bucketline_services

    (port,) = claimed.ports
    key = given_key or load_or_create_key(folder / "api-key")
    try:
        async with local_stack(
            folder,
            lambda message: console.print(f"[dim]{escape(message)}[/]", highlight=False, soft_wrap=True),
            on_event=lambda event: _event(console, event),
        ) as stack:
            environment = service_environment(stack, key)
            supervisor = Supervisor(
                bucketline_services(
                    {_LOG_FORMAT: "console", **environment},
                    replicas={"processor": processors},
                    ports={"ingest-api": port},
                ),
                on_line=lambda name, line: _line(console, name, line),
                on_event=lambda event: _event(console, event),
                stop_timeout=10.0,
                reserved=claimed,
            )
            async with supervisor:
                variables = {**environment, "BUCKETLINE_URL": supervisor.url("ingest-api"), MARKER: str(folder)}
                with written(data, folder, variables) as env_file:
                    _welcome(console, stack, supervisor, AS_GIVEN if given_key else key, folder, env_file)
                    await asyncio.Event().wait()
    finally:
        claimed.release()


def _line(console: Console, name: str, line: str) -> None:
    prefix = Text(f"{name:<12}│ ", style=_COLORS.get(name.partition(".")[0], "white"))
    console.print(prefix + Text.from_ansi(line), soft_wrap=True)


def _event(console: Console, event: Event) -> None:
    from bucketline.devstack.supervisor import Exited, Ready, Restarting, RestartsExhausted, Waiting

    match event:
        case Waiting(instances, seconds):
            console.print(f"[dim]waiting for {', '.join(instances)} ({seconds:.0f} s)[/]", highlight=False)
        case Ready(instance, seconds):
            console.print(f"[green]{instance} is ready[/] after {seconds:.1f} s")
        case Exited(instance, code, words) if code not in (0, -SIGTERM) or words:
            console.print(f"[red]{instance} ended with {code}{escape(words)}[/]", soft_wrap=True)
        case Restarting(instance, delay):
            console.print(f"[yellow]{instance} starts again in {delay:.1f} s[/]")
        case RestartsExhausted(instance, reason):
            console.print(f"[red]{instance} does not start: {escape(reason)}[/]", soft_wrap=True)
        case _:
            pass


def addresses(stack: LocalStack) -> list[tuple[str, str]]:
    """Return what is where. Keys that the stack made are shown; what the user gave is not."""
    mongodb, s3 = stack.mongodb_url, f"{stack.s3_endpoint} (key {stack.s3_access_key}, secret {stack.s3_secret_key})"
    if not stack.runs("mongodb"):
        # Up to the last @: a password may have some. And options may be secret as well.
        mongodb = re.sub(r"//.*@", f"//{AS_GIVEN}@", mongodb).partition("?")[0]
    if not stack.runs("s3"):
        s3 = f"{stack.s3_endpoint} (key and secret {AS_GIVEN})"
    return [("MongoDB", mongodb), ("Kafka", stack.kafka_bootstrap), ("S3", s3)]


def _welcome(
    console: Console, stack: LocalStack, supervisor: Supervisor, key: str, folder: Path, env_file: Path
) -> None:
    api = supervisor.url("ingest-api")
    rows = [("HTTP API", f"{api}/v1"), ("documentation", f"{api}/docs"), ("admin API key", key), *addresses(stack)]
    rows += [(f"{name} probes", f"{supervisor.url(name)}/ready") for name in supervisor.names() if name != "ingest-api"]
    rows += [("data", str(folder)), ("env file", str(env_file))]
    width = max(len(what) for what, _ in rows)
    console.print("\n[bold]Bucketline is up[/]")
    for what, where in rows:
        # One line each, whatever the width of the terminal: addresses are copied.
        console.print(Text(f"  {what:<{width}}  {where}"), soft_wrap=True)
    console.print(
        "Try: [cyan]bucketline push FILE…[/], [cyan]bucketline doctor[/]   "
        f"For a shell: [cyan]. {escape(str(env_file))}[/]   Stop: Ctrl-C",
        highlight=False,
        soft_wrap=True,
    )
