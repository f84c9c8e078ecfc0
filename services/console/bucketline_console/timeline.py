"""Places the steps of an object's timeline on a bar."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bucketline_console.api import Json
from bucketline_console.formats import parse_time

WIDTH = 200.0
MIN_WIDTH = 2.0
TITLES = {
    "accepted": "Accepted",
    "mirroring": "Mirroring",
    "mirrored": "Mirrored",
    "submitted": "Submitted with its batch",
    "batched": "Batched",
    "processing": "Processing",
}
_BUSY = ("mirroring", "processing")


@dataclass(frozen=True)
class Step:
    """A step, the seconds since the step before, and where they are on a bar that is ``WIDTH`` wide."""

    title: str
    at: str | None
    status: str
    seconds: float | None
    details: tuple[tuple[str, Any], ...]
    start: float
    width: float


def place_steps(steps: Sequence[Json]) -> tuple[list[Step], float]:
    """Return the steps of the API's answer with their durations, and the seconds from the first to the last."""
    times = [moment for step in steps if (moment := parse_time(step["at"]))]
    first, total = (times[0], (times[-1] - times[0]).total_seconds()) if times else (None, 0.0)
    previous = first
    placed: list[Step] = []
    for step in steps:
        at = parse_time(step["at"])
        seconds = start = width = 0.0
        if at and first and previous:
            seconds = (at - previous).total_seconds()
            if total:
                start, width = (previous - first).total_seconds() / total * WIDTH, seconds / total * WIDTH
            previous = at
        status = step["status"] or ("PROCESSING" if step["name"] in _BUSY else "")
        title = TITLES.get(step["name"]) or str(status).replace("_", " ").capitalize()
        if step["name"] == "mirrored" and status == "FAILED":
            title = "Mirroring failed"
        shown = {"attempts": step["attempts"], "documents": step["documents"], "next attempt": step["next_attempt_at"]}
        details = tuple((name, value) for name, value in shown.items() if value is not None)
        placed.append(
            Step(
                title=title,
                at=step["at"],
                status=status,
                seconds=seconds if at and placed else None,
                details=(*details, *((("error", step["error"]),) if step["error"] else ())),
                start=round(min(start, WIDTH - MIN_WIDTH), 1),
                width=round(max(MIN_WIDTH, width), 1) if at else 0.0,
            )
        )
    return placed, total
