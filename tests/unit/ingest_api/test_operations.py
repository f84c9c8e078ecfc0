"""Percentiles of the overview."""

from collections import Counter

import pytest

from bucketline_ingest_api.operations.service import BINS_PER_DOUBLING, percentile


def test_percentile_of_no_values_is_none() -> None:
    assert percentile(Counter(), 0.5) is None


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 0.1), (0.9, 0.1), (0.95, 4.0)])
def test_percentile_is_at_most_nine_percent_above_the_value(share: float, seconds: float) -> None:
    fast, slow = (int(BINS_PER_DOUBLING * exponent) for exponent in (6.6438, 11.9657))  # log2 of 100 and 4,000 ms
    found = percentile(Counter({fast: 90, slow: 10}), share)
    assert found is not None
    assert seconds <= found <= seconds * 1.1
