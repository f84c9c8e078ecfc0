"""How long pauses between attempts are."""

import pytest

from bucketline.backoff import backoff_seconds


@pytest.mark.parametrize(
    ("failures", "expected"), [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (5, 16.0), (6, 20.0), (10_000, 20.0)]
)
def test_backoff_doubles_up_to_the_maximum(failures: int, expected: float) -> None:
    assert backoff_seconds(failures, initial=1.0, maximum=20.0) == expected


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, 2.0), (0.5, 3.0), (1.0, 4.0)])
def test_backoff_with_jitter_varies_by_its_share(drawn: float, expected: float) -> None:
    assert backoff_seconds(3, initial=1.0, maximum=20.0, jitter=0.5, draw=lambda: drawn) == expected


def test_backoff_above_the_maximum_is_cut_before_jitter() -> None:
    assert backoff_seconds(9, initial=1.0, maximum=8.0, jitter=1.0, draw=lambda: 0.5) == 4.0
