"""Settings that only dedup has."""

from pydantic_settings import SettingsConfigDict

from bucketline.settings import Block, Count, Seconds


class DedupSettings(Block):
    """``small_bytes`` is the limit up to which content is hashed in memory and put in one request."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_DEDUP_")

    small_bytes: Count = 8 * 1024 * 1024
    max_bytes: Count = 5 * 1024 * 1024 * 1024
    concurrency: Count = 32
    attempts: Count = 5
    longest_backoff: Seconds = 300.0
