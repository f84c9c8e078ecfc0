"""Status events may come late, twice and in any order: what they lead to is always the same."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.status import (
    FINAL,
    RANK_FINAL,
    RANK_PROCESSING,
    RANK_QUEUED,
    Status,
    batch_outcome,
    percent,
    supersedes,
)

FINALS = [*sorted(FINAL - {Status.CANCELED}), Status.DRAFT]
State = tuple[tuple[int, int], Status]
NEW: State = ((0, 0), Status.DRAFT)


@st.composite
def runs(draw: st.DrawFn) -> list[State]:
    """The events of some runs of one object, each with one final status at most; some never got far."""
    events: list[State] = []
    for run in draw(st.lists(st.integers(1, 2**62), unique=True, max_size=4)):
        events += [((run, RANK_QUEUED), Status.QUEUED), ((run, RANK_PROCESSING), Status.PROCESSING)]
        if draw(st.booleans()):
            events.append(((run, RANK_FINAL), draw(st.sampled_from(FINALS))))
    return events


def applied(events: list[State]) -> State:
    state = NEW
    for place, status in events:
        if supersedes(place, state[0]):
            state = (place, status)
    return state


@given(runs(), st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(events: list[State], chance: random.Random) -> None:
    shuffled = events + [chance.choice(events) for _ in range(len(events))] if events else []
    chance.shuffle(shuffled)
    assert applied(shuffled) == applied(events) == max(events, default=NEW)


@given(st.lists(st.sampled_from(FINALS), min_size=1))
def test_the_first_final_status_of_a_run_stays(statuses: list[Status]) -> None:
    assert applied([((5, RANK_FINAL), status) for status in statuses])[1] is statuses[0]


@given(runs())
def test_object_status_never_moves_backwards(events: list[State]) -> None:
    state = NEW
    for place, status in events:
        before = state[0]
        if supersedes(place, before):
            state = (place, status)
        assert state[0] >= before


@pytest.mark.parametrize(
    ("total", "failed", "outcome"),
    [
        (3, 0, Status.COMPLETED),
        (3, 1, Status.COMPLETED_WITH_ERRORS),
        (3, 3, Status.FAILED),
        (0, 0, Status.COMPLETED),
        (1, 1, Status.FAILED),
    ],
)
def test_the_outcome_of_a_batch(total: int, failed: int, outcome: Status) -> None:
    assert batch_outcome(total, failed) is outcome


@pytest.mark.parametrize(
    ("processed", "total", "expected"),
    [(0, 3, 0.0), (1, 3, 33.33), (49_999, 50_000, 99.99), (50_000, 50_000, 100.0), (0, 0, 100.0), (4, 3, 100.0)],
)
def test_percent_is_100_only_when_complete(processed: int, total: int, expected: float) -> None:
    assert percent(processed, total) == expected
