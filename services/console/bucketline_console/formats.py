"""Jinja filters: sizes, durations, times and the colors of statuses."""

import json
from datetime import UTC, datetime

_TONES = {
    "COMPLETED": "good",
    "delivered": "good",
    "active": "good",
    "FAILED": "bad",
    "failed": "bad",
    "COMPLETED_WITH_ERRORS": "warn",
    "incomplete": "bad",
    "paused": "bad",
    "PROCESSING": "busy",
    "IN_PROGRESS": "busy",
    "QUEUED": "busy",
    "PENDING": "busy",
    "pending": "busy",
    "to replay": "warn",
}


def format_tone(status: str) -> str:
    """Return the name of the color of a status."""
    return _TONES.get(status, "calm")


def format_bytes(size: float | None) -> str:
    """Return a size with its unit, in powers of 1,024."""
    if size is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def format_duration(seconds: float | None) -> str:
    """Return a duration with two significant units at most."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def parse_time(value: object) -> datetime | None:
    """Return a time of the API; None if there is none."""
    if not isinstance(value, str) or not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_time(value: object) -> str:
    """Return a time as UTC to the second."""
    moment = parse_time(value)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else "–"


def format_number(value: float | None) -> str:
    """Return a number with thousands separators."""
    return "–" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def format_json(value: object) -> str:
    """Return JSON, indented. Text that is JSON itself is parsed first."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            return value
        return json.dumps(parsed, indent=2, ensure_ascii=False)
    return json.dumps(value, indent=2, ensure_ascii=False)


FILTERS = {
    "tone": format_tone,
    "bytes": format_bytes,
    "duration": format_duration,
    "time": format_time,
    "number": format_number,
    "json": format_json,
}
