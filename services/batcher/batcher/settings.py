"""Settings that only the batcher has."""

from pydantic_settings import SettingsConfigDict

from bucketline.settings import Block, Count, Seconds


class BatcherSettings(Block):
    """``unit_window`` bounds how many units of one batch are in the works at once: a batch of 50,000 objects leaves
    room for a batch of one."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_BATCHER_")

    unit_objects: Count = 100
    unit_bytes: Count = 256 * 1024 * 1024
    unit_window: Count = 16
    unit_attempts: Count = 5
    plan_page: Count = 1000
    refresh_seconds: Seconds = 1.0
    failed_objects_shown: Count = 1000
