"""Settings that only the batcher has."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from bucketline.settings import Count, Seconds, SettingsBase


class BatcherSettings(SettingsBase):
    """Limits of work units, limits on their failures, and the default batching window."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_BATCHER_")

    unit_max_objects: Count = 100
    """Maximum number of objects per work unit."""
    unit_max_bytes: Count = 256 * 1024 * 1024
    """Maximum bytes per work unit; a larger object is a unit of its own."""
    max_active_units: Count = 16
    """Maximum number of units of one batch that are ready or leased at the same time, so that large batches leave room
    for small ones."""
    unit_max_crashes: Count = 5
    """Fail a unit after its processor has crashed this many times."""
    unit_max_isolated_crashes: Count = 20
    """Fail a unit after this many crashes of processors that processed one of its objects alone."""
    unit_max_releases: Count = 100
    """Fail a unit after it has been released this many times without finishing."""
    plan_page_size: Count = 1000
    """Number of objects that are read at once while a batch is planned."""
    progress_refresh_seconds: Seconds = 1.0
    """Seconds between two updates of a batch's progress."""
    max_failed_objects: Count = 1000
    """Maximum number of rows in a batch's ``failed_objects``."""
    window_enabled: bool = False
    """Group drafts also in buckets without a batching policy, with the three limits below. The first limit that is
    reached closes the window."""
    window_max_objects: Annotated[int, Field(ge=1, le=50_000)] = 1000
    """Number of objects that closes a window."""
    window_max_bytes: Count = 1024 * 1024 * 1024
    """Number of bytes that closes a window."""
    window_max_seconds: Seconds = 30.0
    """Age in seconds that closes a window."""
    window_check_interval_seconds: Seconds = 0.5
    """Seconds between two checks for windows that are due."""
    webhook_timeout_seconds: Seconds = 10.0
    """Seconds that a webhook call may take."""
