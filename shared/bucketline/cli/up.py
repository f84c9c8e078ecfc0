"""``bucketline up``: the whole pipeline on this machine, in the foreground."""

import asyncio
import re
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bucketline.cli.local import kept_key, local_stack, service_environment
from bucketline.local.services import Event, Exited, GaveUp, Ready, Restarting, bucketline_services
from bucketline.local.stack import LocalStack
from bucketline.local.supervisor import Supervisor

AS_GIVEN = "<as given>"

_COLORS = {"ingest-api": "cyan", "dedup": "magenta", "batcher": "yellow", "processor": "green"}


def up(
    port: Annotated[int, typer.Option(envvar="BUCKETLINE_PORT", help="Port of the HTTP API.", min=1, max=65535)] = 8080,
    key: Annotated[
        str | None,
        typer.Option(envvar="BUCKETLINE_API_KEY", help="Admin API key; made and kept beside the data if not given."),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder for the data, one subfolder a port.")] = Path(".bucketline"),
    processors: Annotated[int, typer.Option(help="How many processors to run.", min=1, max=16)] = 1,
) -> None:
    """Start MongoDB, a Kafka broker, S3 and the four services, and keep them running until Ctrl-C.

    A part whose address is set (BUCKETLINE_MONGODB_URL, BUCKETLINE_KAFKA_BOOTSTRAP, BUCKETLINE_S3_ENDPOINT)
    is used where it is and not started. What ends unasked is started again.

    Example: [cyan]bucketline up --port 9000 --processors 2[/]
    """
    console = Console()
    folder = data / str(port)
    asyncio.run(_up(console, folder, port, key, processors))


async def _up(console: Console, folder: Path, port: int, key: str | None, processors: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(_running(console, folder, port, key, processors, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done() and not stop.is_set():
        return
    try:
        # A stop while the stack is still coming up must not wait until it has.
        async with asyncio.timeout(15):
            await running
    except TimeoutError:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    finally:
        stopping.cancel()
    console.print("stopped; the data stays in", str(folder))


async def _running(
    console: Console, folder: Path, port: int, given: str | None, processors: int, stop: asyncio.Event
) -> None:
    key = given or kept_key(folder / "api-key")
    stack = local_stack(
        folder,
        lambda message: console.print(f"[dim]{message}[/]", highlight=False),
        on_event=lambda event: _event(console, event),
    )
    started = asyncio.create_task(stack.__aenter__())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({started, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        started.cancel()
        await asyncio.gather(started, return_exceptions=True)
        return
    stopping.cancel()
    await started
    try:
        environment = service_environment(stack, key, BUCKETLINE_TELEMETRY_LOG_FORMAT="console")
        supervisor = Supervisor(
            bucketline_services(environment, replicas={"processor": processors}, ports={"ingest-api": port}),
            on_line=lambda name, line: _line(console, name, line),
            on_event=lambda event: _event(console, event),
            stop_deadline=10.0,
        )
        async with supervisor:
            _welcome(console, stack, supervisor, AS_GIVEN if given else key, folder)
            await stop.wait()
            console.print("\n[bold]stopping[/]")
    finally:
        await stack.__aexit__(None, None, None)


def _line(console: Console, name: str, line: str) -> None:
    prefix = Text(f"{name:<12}│ ", style=_COLORS.get(name.partition(".")[0], "white"))
    console.print(prefix + Text.from_ansi(line), soft_wrap=True)


def _event(console: Console, event: Event) -> None:
    match event:
        case Ready(instance, seconds):
            console.print(f"[green]{instance} is ready[/] after {seconds:.1f} s")
        case Exited(instance, code, words) if code != 0 or words:
            console.print(f"[red]{instance} ended with {code}{escape(words)}[/]", soft_wrap=True)
        case Restarting(instance, delay):
            console.print(f"[yellow]{instance} starts again in {delay:.1f} s[/]")
        case GaveUp(instance, reason):
            console.print(f"[red]{instance} stays down: {escape(reason)}[/]", soft_wrap=True)
        case _:
            pass


def addresses(stack: LocalStack) -> list[tuple[str, str]]:
    """What is where. The keys to what the stack made itself are told; whatever the user gave stays the user's."""
    mongodb, s3 = stack.mongodb_url, f"{stack.s3_endpoint} (key {stack.s3_access_key}, secret {stack.s3_secret_key})"
    if not stack.runs("mongodb"):
        # Up to the last @: a password may have some. And options may be secret as well.
        mongodb = re.sub(r"//.*@", f"//{AS_GIVEN}@", mongodb).partition("?")[0]
    if not stack.runs("s3"):
        s3 = f"{stack.s3_endpoint} (key and secret {AS_GIVEN})"
    return [("MongoDB", mongodb), ("Kafka", stack.kafka_bootstrap), ("S3", s3)]


def _welcome(console: Console, stack: LocalStack, supervisor: Supervisor, key: str, folder: Path) -> None:
    api = supervisor.url("ingest-api")
    table = Table("what", "where", title="Bucketline is up", title_justify="left")
    table.add_row("HTTP API", f"{api}/v1")
    table.add_row("documentation", f"{api}/docs")
    table.add_row("admin API key", key)
    for what, where in addresses(stack):
        table.add_row(what, where)
    for name in supervisor.names():
        if name != "ingest-api":
            table.add_row(f"{name} probes", f"{supervisor.url(name)}/ready")
    table.add_row("data", str(folder))
    console.print(table)
    own_key = "" if key == AS_GIVEN else f"BUCKETLINE_API_KEY={key} "
    console.print(
        f"Try: [cyan]{own_key}BUCKETLINE_URL={api} bucketline push FILE…[/]   Stop: Ctrl-C",
        highlight=False,
        soft_wrap=True,
    )
