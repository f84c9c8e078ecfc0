"""Settings that only the batcher has."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from bucketline.settings import Block, Count, Seconds


class BatcherSettings(Block):
    """``unit_window`` bounds how many units of one batch are in the works at once: a batch of 50,000 objects leaves
    room for a batch of one.

    A unit that took ``unit_attempts`` processors with it, or ``unit_trials`` that tried one of its objects alone, or
    came back unfinished ``unit_returns`` times, is given up.
    ``window`` switches on batching for buckets that have no policy of their own: after ``window_objects``,
    ``window_bytes`` or ``window_seconds``, whichever comes first.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_BATCHER_")

    unit_objects: Count = 100
    unit_bytes: Count = 256 * 1024 * 1024
    unit_window: Count = 16
    unit_attempts: Count = 5
    unit_trials: Count = 20
    unit_returns: Count = 100
    plan_page: Count = 1000
    refresh_seconds: Seconds = 1.0
    failed_objects_shown: Count = 1000
    window: bool = False
    window_objects: Annotated[int, Field(ge=1, le=50_000)] = 1000
    window_bytes: Count = 1024 * 1024 * 1024
    window_seconds: Seconds = 30.0
    window_interval: Seconds = 0.5
    webhook_seconds: Seconds = 10.0
