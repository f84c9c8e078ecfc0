"""Moments and spans of time as people type them."""

import re
from datetime import UTC, datetime, timedelta

import typer

_SPAN = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span(text: str) -> timedelta:
    """``90s``, ``15m``, ``24h``, ``7d``, ``4w``."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a span of time such as 15m, 24h or 7d")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is too long") from error


def later(text: str, now: datetime) -> datetime:
    """A span of time after ``now``."""
    try:
        return now + span(text)
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is after the calendar ends") from error


def moment(text: str, now: datetime) -> datetime:
    """An ISO 8601 date or time (UTC where it does not say), or a span of time before ``now``."""
    if _SPAN.fullmatch(text.strip()):
        try:
            return now - span(text)
        except OverflowError as error:
            raise typer.BadParameter(f"{text!r} is before the calendar begins") from error
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is neither a time such as 2026-03-01T12:00 nor a span such as 24h"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
