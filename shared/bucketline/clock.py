"""The clock, which is injected so that tests can control the time."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time in UTC. Not monotonic: the operating system may step it."""

    def now(self) -> datetime:
        """Return the current time in UTC, truncated to milliseconds as MongoDB stores it."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the current time."""
        return from_millis(time.time_ns() // 1_000_000)


class ManualClock:
    """A clock that tests advance."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        """Return the time that was set."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._now += timedelta(seconds=seconds)


def millis(moment: datetime) -> int:
    """Return the milliseconds since the epoch."""
    return round(moment.timestamp() * 1000)


def from_millis(value: int) -> datetime:
    """Return the time ``value`` milliseconds after the epoch, in UTC."""
    return datetime.fromtimestamp(value // 1000, UTC).replace(microsecond=value % 1000 * 1000)


def wire_time(moment: datetime) -> str:
    """Return ISO 8601 in UTC with milliseconds and ``Z``, the format of responses and events."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
