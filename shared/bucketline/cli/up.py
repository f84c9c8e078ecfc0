"""``bucketline up``: the whole pipeline on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from bucketline.cli.environment import DATA_VARIABLE, DEFAULT_DATA_DIR, MARKER, write_env_file
from bucketline.cli.terminal import run_until_signal
from bucketline.errors import LocalStackError

if TYPE_CHECKING:
    from bucketline.devstack.reservations import PortReservation
    from bucketline.devstack.stack import LocalStack
    from bucketline.devstack.supervisor import Event, Supervisor

HIDDEN = "<as given>"
"""Shown instead of a secret that the user gave."""

_COLORS = {"ingest-api": "cyan", "dedup": "magenta", "batcher": "yellow", "processor": "green", "console": "blue"}
_LOG_FORMAT = "BUCKETLINE_LOG_FORMAT"


def up(
    port: Annotated[int, typer.Option(envvar="BUCKETLINE_PORT", help="Port of the HTTP API.", min=1, max=65535)] = 8080,
    key: Annotated[
        str | None,
        typer.Option(envvar="BUCKETLINE_API_KEY", help="Admin API key; if not given, one is created and kept."),
    ] = None,
    data: Annotated[
        Path, typer.Option(envvar=DATA_VARIABLE, help="Folder for the data, with one subfolder per port.")
    ] = DEFAULT_DATA_DIR,
    processors: Annotated[int, typer.Option(help="Number of processor instances.", min=1, max=16)] = 1,
) -> None:
    """Start MongoDB, a Kafka broker, S3, the four services and the console. Keep them running until Ctrl-C.

    A part whose address is set (BUCKETLINE_MONGODB_URL, BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS, BUCKETLINE_S3_ENDPOINT_URL)
    is used and not started. Everything that ends unexpectedly is restarted, without a limit. Other commands use this
    stack while it runs; its variables are in `env` in the data folder, and `bucketline env` prints them.

    Example: [cyan]bucketline up --port 9000 --processors 2[/]
    """
    console = Console()
    folder = data / str(port)
    reserved = _reserve_api_port(port)
    run_until_signal(_run(console, folder, reserved, key, processors))
    console.print(f"stopped; the data is kept in {folder}", markup=False, soft_wrap=True)


def create_local_stack(
    data_dir: Path, progress: Callable[[str], None], on_event: Callable[[Event], None] | None = None
) -> LocalStack:
    """Return a stack of the parts for which no ``BUCKETLINE_*`` variable gives an address."""
    from bucketline.devstack.servers import S3Endpoint
    from bucketline.devstack.stack import LocalStack
    from bucketline.settings import KafkaSettings, MongoSettings, S3Settings

    if (folder := os.environ.get(MARKER)) is not None:
        raise LocalStackError(
            f"the environment contains the variables of the local stack in {folder} ({MARKER} is set), so its servers "
            "would be used instead of being started. Use a shell that has not read an env file."
        )
    mongo, kafka, s3 = MongoSettings(), KafkaSettings(), S3Settings()
    endpoint = None
    if s3.endpoint_url is not None:
        secret_key = s3.secret_key.get_secret_value() if s3.secret_key else ""
        endpoint = S3Endpoint(s3.endpoint_url, s3.access_key or "", secret_key)
    return LocalStack(
        data_dir,
        mongodb_url=mongo.url.get_secret_value() if "url" in mongo.model_fields_set else None,
        kafka_bootstrap=kafka.bootstrap_servers if "bootstrap_servers" in kafka.model_fields_set else None,
        s3=endpoint,
        bucket=s3.bucket,
        progress=progress,
        on_event=on_event,
    )


def build_service_environment(stack: LocalStack, key: str) -> dict[str, str]:
    """Return the variables of the services: the stack's addresses, overridden by those that the user has set."""
    # Not configuration of this process: the services read the user's variables.
    own = {name: value for name, value in os.environ.items() if name.startswith("BUCKETLINE_")}
    return {**stack.environment(), **own, "BUCKETLINE_API_KEY": key}


def describe_addresses(stack: LocalStack) -> list[tuple[str, str]]:
    """Return the name and the address of each part. Secrets that the user gave are not shown."""
    mongodb = stack.mongodb_url
    s3 = f"{stack.s3.endpoint} (key {stack.s3.access_key}, secret {stack.s3.secret_key})"
    if not stack.runs("mongodb"):
        # Up to the last @, because a password may contain one. Options may be secret as well.
        mongodb = re.sub(r"//.*@", f"//{HIDDEN}@", mongodb).partition("?")[0]
    if not stack.runs("s3"):
        s3 = f"{stack.s3.endpoint} (key and secret {HIDDEN})"
    return [("MongoDB", mongodb), ("Kafka", stack.kafka_bootstrap), ("S3", s3)]


def _reserve_api_port(port: int) -> PortReservation:
    """Reserve the port of the API before anything is started."""
    from bucketline.devstack.reservations import reserve_port

    try:
        return reserve_port(port)
    except LocalStackError as error:
        raise LocalStackError(f"{error}; choose another port for the API with --port or BUCKETLINE_PORT") from None


def _load_or_create_key(path: Path) -> str:
    """Return the admin key of this deployment. Only its user may read the file."""
    if path.exists():
        return path.read_text().strip()
    key = f"sk_local_{secrets.token_urlsafe(24)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(key)
    return key


async def _run(
    console: Console, folder: Path, reserved: PortReservation, given_key: str | None, processors: int
) -> None:
    """Run everything until the task is canceled."""
    from bucketline.devstack.reservations import LOOPBACK, reserve_preferred_port
    from bucketline.devstack.supervisor import Supervisor, bucketline_services, console_service

    (port,) = reserved.ports
    with reserved, reserve_preferred_port(port + 1) as reserved_for_console:
        (console_port,) = reserved_for_console.ports
        key = given_key or _load_or_create_key(folder / "api-key")
        async with create_local_stack(
            folder,
            lambda message: console.print(f"[dim]{escape(message)}[/]", highlight=False, soft_wrap=True),
            on_event=lambda event: _print_event(console, event),
        ) as stack:
            environment = build_service_environment(stack, key)
            logs, address = {_LOG_FORMAT: "console"}, f"http://{LOOPBACK}:{console_port}"
            services = bucketline_services(
                {"BUCKETLINE_API_CONSOLE_URL": address, **logs, **environment},
                replicas={"processor": processors},
                ports={"ingest-api": port},
            )
            async with Supervisor(
                [*services, console_service(logs, api_port=port, port=console_port)],
                on_line=lambda name, line: _print_line(console, name, line),
                on_event=lambda event: _print_event(console, event),
                stop_timeout=10.0,
                reserved_ports=(port, console_port),
            ) as supervisor:
                variables = {**environment, "BUCKETLINE_URL": supervisor.url("ingest-api"), MARKER: str(folder)}
                with write_env_file(folder, variables) as env_file:
                    _print_welcome(console, stack, supervisor, HIDDEN if given_key else key, folder, env_file)
                    await asyncio.Event().wait()


def _print_line(console: Console, name: str, line: str) -> None:
    prefix = Text(f"{name:<12}│ ", style=_COLORS.get(name.partition(".")[0], "white"))
    console.print(prefix + Text.from_ansi(line), soft_wrap=True)


def _print_event(console: Console, event: Event) -> None:
    from bucketline.devstack.supervisor import Exited, Ready, Restarting, RestartsExhausted, Waiting

    match event:
        case Waiting(instances, seconds):
            console.print(f"[dim]waiting for {', '.join(instances)} ({seconds:.0f} s)[/]", highlight=False)
        case Ready(instance, seconds):
            console.print(f"[green]{instance} is ready[/] after {seconds:.1f} s")
        case Exited(instance, code, details) if code not in (0, -SIGTERM) or details:
            console.print(f"[red]{instance} ended with {code}{escape(details)}[/]", soft_wrap=True)
        case Restarting(instance, delay):
            console.print(f"[yellow]{instance} starts again in {delay:.1f} s[/]")
        case RestartsExhausted(instance, reason):
            console.print(f"[red]{instance} {escape(reason)}[/]", soft_wrap=True)
        case _:
            pass


def _print_welcome(
    console: Console, stack: LocalStack, supervisor: Supervisor, key: str, folder: Path, env_file: Path
) -> None:
    api = supervisor.url("ingest-api")
    rows = [("Console", supervisor.url("console")), ("HTTP API", f"{api}/v1"), ("API docs", f"{api}/docs")]
    rows += [("Admin API key", key), *describe_addresses(stack)]
    pipeline = [name for name in supervisor.names() if name not in ("ingest-api", "console")]
    rows += [(f"{name} probe", f"{supervisor.url(name)}/ready") for name in pipeline]
    rows += [("Data", str(folder)), ("Env file", str(env_file))]
    width = max(len(title) for title, _ in rows)
    console.print("\n[bold]Bucketline is up[/]")
    for title, value in rows:
        # Values are copied from the terminal: they are not wrapped.
        console.print(Text(f"  {title:<{width}}  {value}"), soft_wrap=True)
    console.print(
        "Try: [cyan]bucketline upload FILE…[/], [cyan]bucketline doctor[/]   "
        f"For a shell: [cyan]. {escape(str(env_file))}[/]   Stop: Ctrl-C",
        highlight=False,
        soft_wrap=True,
    )
