"""Time as a dependency: passed in, so that tests move it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time in UTC. Not monotonic: the operating system may step it."""

    def now(self) -> datetime:
        """The current instant, timezone-aware, cut to milliseconds as MongoDB stores it."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return from_millis(time.time_ns() // 1_000_000)


class ManualClock:
    """A clock that a test moves by hand."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


def millis(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return round(moment.timestamp() * 1000)


def from_millis(value: int) -> datetime:
    """The instant ``value`` milliseconds after the epoch, in UTC."""
    return datetime.fromtimestamp(value // 1000, UTC).replace(microsecond=value % 1000 * 1000)


def wire_time(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and ``Z``, as every answer and event of ours writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
