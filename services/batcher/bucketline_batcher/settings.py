"""Settings that only the batcher has."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from bucketline.settings import Count, Seconds, SettingsBase


class BatcherSettings(SettingsBase):
    """How batches are cut into units, when a unit is given up, and when drafts become a batch by themselves."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_BATCHER_")

    unit_max_objects: Count = 100
    """Most objects of a unit."""
    unit_max_bytes: Count = 256 * 1024 * 1024
    """Most bytes of a unit; a larger object is a unit of its own."""
    max_active_units: Count = 16
    """Most units of one batch in the works at once: a batch of 50,000 objects leaves room for a batch of one."""
    unit_max_crashes: Count = 5
    """A unit that took so many processors with it is given up."""
    unit_max_isolated_crashes: Count = 20
    """The same for processors that tried one of its objects alone."""
    unit_max_releases: Count = 100
    """A unit that came back unfinished so many times is given up."""
    plan_page_size: Count = 1000
    """Objects that are read at once while a batch is planned."""
    progress_refresh_seconds: Seconds = 1.0
    """How old the progress of a batch may be that is shown."""
    max_failed_objects: Count = 1000
    """Most rows of a batch's ``failed_objects``."""
    window_enabled: bool = False
    """Group drafts also in buckets that have no policy of their own, by the next three: whichever is reached first."""
    window_max_objects: Annotated[int, Field(ge=1, le=50_000)] = 1000
    """Objects that close a window."""
    window_max_bytes: Count = 1024 * 1024 * 1024
    """Bytes that close a window."""
    window_max_seconds: Seconds = 30.0
    """Seconds that close a window."""
    window_check_interval_seconds: Seconds = 0.5
    """Between two looks for windows whose time is over."""
    webhook_timeout_seconds: Seconds = 10.0
    """How long the receiver of a webhook may take."""
