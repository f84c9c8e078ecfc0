"""Input and output of commands: results go to standard output, everything else to standard error."""

import asyncio
import logging
import re
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from bucketline.cli.error_messages import explain

T = TypeVar("T")

ProgressReporter = Callable[[str], None]

REPORT_INTERVAL_SECONDS = 30.0

_DURATION = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def wide_console() -> Console:
    """Return a console for tables. Output that is not a terminal is wide enough for whole ids."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=160, highlight=False)


def print_note(text: str) -> None:
    """Print a remark to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="dim", markup=False)


def fail(message: str, *, advice: str | None = None) -> NoReturn:
    """Print an error and what to do about it, and exit with 1. ``advice`` may have markup."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    console.print(f"[red]{escape(message)}[/]")
    if advice:
        console.print(advice)
    raise typer.Exit(1)


@contextmanager
def report_errors() -> Iterator[None]:
    """Report wrong settings and unreachable dependencies in one line and exit with 1; let other errors through."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        explanation = explain(error)
        if explanation is None:
            raise
        fail(explanation.message, advice=explanation.advice)


@contextmanager
def report_progress(start: str, *, interval: float = REPORT_INTERVAL_SECONDS) -> Iterator[ProgressReporter]:
    """Show the progress of a long command on standard error.

    A terminal shows one changing line. Elsewhere at most one line per ``interval`` is printed.
    """
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(start) as status:
            yield status.update
        return
    console.print(start, soft_wrap=True)
    due = time.monotonic() + interval

    def report(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            console.print(text, soft_wrap=True)
            due = time.monotonic() + interval

    yield report


def run_quietly(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` and return its result, without the log lines of the clients that it uses."""
    silence_client_logs()
    return asyncio.run(work)


def silence_client_logs() -> None:
    """Keep log lines of the clients off the terminal: error messages contain what matters of them."""
    for name in ("aiokafka", "asyncio", "bucketline"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_until_signal(work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of ``work``, or None after SIGINT or SIGTERM, which cancels it so that it can clean up.

    Further signals are ignored.
    """

    async def run() -> T | None:
        task, stop = asyncio.ensure_future(work), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            print_note("stopping")
            task.cancel()
        stopping.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return None

    return asyncio.run(run())


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as ``90s``, ``15m``, ``24h``, ``7d`` or ``4w``."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration such as 15m, 24h or 7d")
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError as error:
        raise typer.BadParameter(f"the duration {text!r} is too long") from error


def parse_future_time(text: str, now: datetime) -> datetime:
    """Return the time that is a duration after ``now``."""
    try:
        return now + parse_duration(text)
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} from now is after the year 9999") from error


def parse_past_time(text: str, now: datetime) -> datetime:
    """Parse an ISO 8601 date or time (UTC unless it has an offset), or a duration before ``now``."""
    if _DURATION.fullmatch(text.strip()):
        try:
            return now - parse_duration(text)
        except OverflowError as error:
            raise typer.BadParameter(f"{text!r} ago is before the year 1") from error
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is neither a time such as 2026-03-01T12:00 nor a duration such as 24h"
        ) from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
