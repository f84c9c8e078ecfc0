"""Exponential backoff: how long to wait before the next attempt."""

import random
from collections.abc import Callable

MAX_DOUBLINGS = 30
"""Keeps the exponent small enough for a float, however many attempts have failed."""


def backoff_seconds(
    failures: int,
    *,
    initial: float,
    maximum: float,
    jitter: float = 0.0,
    draw: Callable[[], float] = random.random,
) -> float:
    """Return the pause after so many failed attempts in a row: ``initial`` after the first, doubling to ``maximum``.

    ``jitter`` is the share of the pause that is random, from 0 (none) to 1 (full jitter); ``draw`` returns a number in
    [0, 1).
    """
    pause = min(maximum, initial * 2.0 ** min(max(failures, 1) - 1, MAX_DOUBLINGS))
    return pause * (1.0 - jitter + jitter * draw())
