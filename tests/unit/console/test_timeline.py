"""The timeline of an object."""

from typing import Any

from bucketline_console.timeline import WIDTH, build_timeline

OBJECT: dict[str, Any] = {
    "created_at": "2026-03-01T09:00:00.000Z",
    "updated_at": "2026-03-01T09:00:04.000Z",
    "status": "FAILED",
    "error": "note: not found",
    "blobs": [{"details": {"size_bytes": 2048}}, {"details": None}],
}


def event(kind: str, second: int, **metadata: object) -> dict[str, Any]:
    return {
        "event_type": kind,
        "created_at": f"2026-03-01T09:00:0{second}.000Z",
        "payload": {"metadata": metadata},
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }


def test_timeline_without_events_shows_the_times_of_the_object() -> None:
    timeline = build_timeline(OBJECT, [])
    assert [(step.title, step.seconds) for step in timeline.steps] == [("Accepted", None), ("Failed", 4.0)]
    assert timeline.steps[0].details == (("blobs", "2, 2.0 KiB"),)
    assert timeline.steps[1].details == (("error", "note: not found"),)
    assert not timeline.is_complete


def test_timeline_of_events_has_each_step_with_its_duration_in_order() -> None:
    events = [
        event("object.status_changed", 3, status="PROCESSING", attempt=2),
        event("object.created", 0),
        event("object.updated", 4, status="COMPLETED"),
        event("object.mirrored", 1),
    ]
    timeline = build_timeline(OBJECT, events)
    titles = [(step.title, step.seconds) for step in timeline.steps]
    assert titles == [("Accepted", None), ("Mirrored", 1.0), ("Processing", 2.0), ("Completed", 1.0)]
    assert timeline.is_complete
    assert timeline.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert timeline.seconds == 4.0
    assert timeline.steps[2].details == (("attempt", "2"),)
    assert [(step.start, step.width) for step in timeline.steps[1:]] == [(0, 50), (50, 100), (150, WIDTH / 4)]
