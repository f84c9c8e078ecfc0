"""The timeline of an object on its bar."""

from typing import Any

from bucketline_console.timeline import WIDTH, place_steps


def step(name: str, second: int | None, **fields: object) -> dict[str, Any]:
    empty = dict.fromkeys(("status", "attempts", "error", "next_attempt_at", "documents"))
    at = None if second is None else f"2026-03-01T09:00:0{second}.000Z"
    return {**empty, "name": name, "at": at, **fields}


def test_steps_have_their_durations_and_places() -> None:
    placed, total = place_steps(
        [
            step("accepted", 0),
            step("mirrored", 1, attempts=1),
            step("batched", 3),
            step("finished", 4, status="COMPLETED_WITH_ERRORS", error="note: too long", documents=2),
        ]
    )
    assert total == 4.0
    assert [(one.title, one.seconds) for one in placed] == [
        ("Accepted", None),
        ("Mirrored", 1.0),
        ("Batched", 2.0),
        ("Completed with errors", 1.0),
    ]
    assert [(one.start, one.width) for one in placed[1:]] == [(0, 50), (50, 100), (150, WIDTH / 4)]
    assert placed[1].details == (("attempts", 1),)
    assert placed[3].details == (("documents", 2), ("error", "note: too long"))


def test_failed_mirroring_is_not_called_mirrored() -> None:
    placed, _ = place_steps([step("accepted", 0), step("mirrored", 1, status="FAILED", error="not found")])
    assert placed[1].title == "Mirroring failed"


def test_step_that_goes_on_has_no_duration() -> None:
    placed, total = place_steps([step("accepted", 0), step("mirroring", None, attempts=2, error="timeout")])
    assert total == 0.0
    assert (placed[1].title, placed[1].status, placed[1].seconds, placed[1].width) == (
        "Mirroring",
        "PROCESSING",
        None,
        0,
    )
