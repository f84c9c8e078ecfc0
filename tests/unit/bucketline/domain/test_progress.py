import pytest

from bucketline.domain.progress import percent


@pytest.mark.parametrize(
    ("processed", "total", "expected"),
    [(0, 3, 0.0), (1, 3, 33.33), (49_999, 50_000, 99.99), (50_000, 50_000, 100.0), (0, 0, 100.0), (4, 3, 100.0)],
)
def test_it_is_100_only_when_nothing_is_left(processed: int, total: int, expected: float) -> None:
    assert percent(processed, total) == expected
