"""How commands talk: results to standard output, what went wrong to standard error, with an exit code."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from bucketline.cli.error_messages import explanation

T = TypeVar("T")

Tell = Callable[[str], None]

TELL_EVERY_SECONDS = 30.0


def wide_console() -> Console:
    """Room for whole ids where nobody's terminal sets the width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=160, highlight=False)


def dim(text: str) -> None:
    """Print a remark to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="dim", markup=False)


def fail(message: str, *, advice: str | None = None) -> NoReturn:
    """Says what is wrong and what to do about it, and ends the command with 1."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[red]{escape(message)}[/]")
    if advice:
        console.print(advice)
    raise typer.Exit(1)


@contextmanager
def user_errors() -> Iterator[None]:
    """A setting that is off or a store that is away ends the command with a line and 1, and not with a traceback.

    Around every command. What is a fault of our own comes through as it is.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        found = explanation(error)
        if found is None:
            raise
        fail(found.message, advice=found.advice)


@contextmanager
def progress_reporter(beginning: str, *, every: float = TELL_EVERY_SECONDS) -> Iterator[Tell]:
    """Show what a long command does, on standard error: a line that changes on a terminal, elsewhere at most a line
    ``every`` so many seconds."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(beginning) as status:
            yield status.update
        return
    console.print(beginning, soft_wrap=True)
    due = time.monotonic() + every

    def tell(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            console.print(text, soft_wrap=True)
            due = time.monotonic() + every

    yield tell


def run_until_signal(work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of ``work``; SIGINT and SIGTERM cancel it, so that it can clean up, and None is returned.

    Further signals are ignored: what has been started is being stopped already.
    """

    async def run() -> T | None:
        task, stop = asyncio.ensure_future(work), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            dim("stopping")
            task.cancel()
        stopping.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return None

    return asyncio.run(run())


def silence_client_logs() -> None:
    """Keeps the clients' own log lines off the terminal: what matters of them is in our messages."""
    for name in ("aiokafka", "asyncio", "bucketline"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def running(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, without a word of the clients that it uses."""
    silence_client_logs()
    return asyncio.run(work)
