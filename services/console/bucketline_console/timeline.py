"""The timeline of an object, from the events of the feed and the object's own times."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bucketline_console.api import Json
from bucketline_console.formats import format_bytes, parse_time

WIDTH = 200
_TITLES = {
    "object.created": "Accepted",
    "object.updated": "Changed",
    "object.deleted": "Deleted",
    "object.mirrored": "Mirrored",
    "object.status_changed": "Status changed",
}
_STATUS_TITLES = {"QUEUED": "Batched", "PROCESSING": "Processing", "DRAFT": "Returned to draft"}


@dataclass(frozen=True)
class Step:
    """A point in the life of an object. ``start`` and ``width`` place the time since the step before on a bar."""

    title: str
    at: datetime
    status: str = ""
    seconds: float | None = None
    details: tuple[tuple[str, str], ...] = ()
    trace_id: str | None = None
    start: float = 0.0
    width: float = 0.0


@dataclass(frozen=True)
class Timeline:
    """The steps, oldest first. ``is_complete`` is false if only the object's own times are known."""

    steps: tuple[Step, ...]
    is_complete: bool
    trace_id: str | None
    seconds: float


def build_timeline(obj: Json, events: Sequence[Json]) -> Timeline:
    """Return the timeline of an object. ``events`` are the object's events in the feed; it may have none (yet)."""
    steps = [_from_event(event) for event in events if parse_time(event.get("created_at"))]
    is_complete = any(step.title == "Accepted" for step in steps)
    if not is_complete:
        steps = [*_from_object(obj), *steps]
    steps.sort(key=lambda step: step.at)
    if not steps:
        return Timeline((), is_complete, None, 0.0)
    total = (steps[-1].at - steps[0].at).total_seconds()
    placed: list[Step] = []
    previous = steps[0].at
    for step in steps:
        seconds = (step.at - previous).total_seconds()
        start = (previous - steps[0].at).total_seconds() / total * WIDTH if total else 0.0
        width = seconds / total * WIDTH if total else 0.0
        placed.append(
            Step(
                step.title,
                step.at,
                step.status,
                seconds if placed else None,
                step.details,
                step.trace_id,
                round(start, 1),
                max(2.0, round(width, 1)),
            )
        )
        previous = step.at
    trace_id = next((step.trace_id for step in steps if step.trace_id), None)
    return Timeline(tuple(placed), is_complete, trace_id, total)


def _from_event(event: Json) -> Step:
    payload: dict[str, Any] = event.get("payload") or {}
    metadata: dict[str, Any] = payload.get("metadata") or payload
    status = str(metadata.get("status") or "")
    kind = str(event["event_type"])
    title = _TITLES.get(kind, kind)
    if status and kind in ("object.status_changed", "object.updated"):
        title = _STATUS_TITLES.get(status, status.replace("_", " ").capitalize())
    shown = ("batch_id", "attempt", "attempts", "documents_written", "documents_total", "error", "error_type")
    details = tuple((name.replace("_", " "), str(metadata[name])) for name in shown if metadata.get(name) is not None)
    at = parse_time(event["created_at"])
    assert at is not None  # noqa: S101 - the caller has filtered
    return Step(title, at, status, details=details, trace_id=event.get("trace_id"))


def _from_object(obj: Json) -> list[Step]:
    created, updated = parse_time(obj["created_at"]), parse_time(obj["updated_at"])
    steps = []
    if created:
        sizes = [
            blob["details"]["size_bytes"] for blob in obj["blobs"] if (blob.get("details") or {}).get("size_bytes")
        ]
        content = (("blobs", f"{len(obj['blobs'])}, {format_bytes(sum(sizes))}"),)
        steps.append(Step("Accepted", created, details=content))
    if updated and updated != created:
        status = str(obj["status"])
        title = _STATUS_TITLES.get(status, status.replace("_", " ").capitalize())
        details = (("error", str(obj["error"])),) if obj.get("error") else ()
        steps.append(Step(title, updated, status, details=details))
    return steps
