"""Settings of the dedup service."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from bucketline.blobs.store import ExternalBucket
from bucketline.http.settings import GuardFields, StringList, split_list
from bucketline.settings import Count, Seconds, SettingsBase
from bucketline_dedup.http_stream import FetchLimits

MEBIBYTE = 1024 * 1024

Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_list)]


class DedupSettings(GuardFields, SettingsBase):
    """Concurrency, retries, and what may be fetched from where."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_DEDUP_")

    small_bytes: Count = 8 * MEBIBYTE
    """Content up to this size is collected in memory and stored with one request; larger content is streamed and uses
    the queue for large content."""
    max_bytes: Count = 5 * 1024 * MEBIBYTE
    """Maximum size of a source."""
    max_concurrency: Count = 32
    """Objects that are mirrored concurrently."""
    max_large_transfers: Count = 2
    """Large transfers that run concurrently."""
    memory_bytes: Count = 32 * MEBIBYTE
    """Memory for small content in transfer; more waits."""
    max_attempts: Count = 6
    """Failed attempts after which an object is dead-lettered."""
    initial_backoff_seconds: Seconds = 1.0
    """Wait before the second attempt; doubles with each attempt."""
    max_backoff_seconds: Seconds = 300.0
    """Maximum wait between two attempts."""
    lease_seconds: Seconds = 60.0
    """Time after which the objects of a dead replica are taken over."""
    shutdown_grace_seconds: Seconds = 5.0
    """Time for running attempts to finish when the service stops."""
    staging_cleanup_interval_seconds: Seconds = 60.0
    """Time between two searches for orphaned staging objects."""
    staging_cleanup_min_age_seconds: Seconds = 30.0
    """Minimum age of an orphaned staging object before it is deleted."""
    staging_ttl_seconds: Seconds = 3600.0
    """Maximum time that staged inline content waits for its object."""
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    """Redirects that are followed, each checked like the first URL."""
    connect_timeout_seconds: Seconds = 5.0
    """Timeout for opening a connection."""
    read_timeout_seconds: Seconds = 15.0
    """Maximum time without a byte from the source."""
    total_timeout_seconds: Seconds = 120.0
    """Maximum duration of a transfer, plus one second for each ``sustained_rate_bytes_per_second`` received."""
    min_rate_bytes_per_second: Annotated[int, Field(ge=0)] = 10_000
    """A transfer that is slower over ``min_rate_window_seconds`` is aborted."""
    min_rate_window_seconds: Seconds = 20.0
    """Time over which the rate is measured."""
    sustained_rate_bytes_per_second: Count = 256_000
    """Rate that a large source is expected to sustain."""
    max_resumes: Annotated[int, Field(ge=0)] = 3
    """Broken connections of one transfer that are resumed."""
    decode_content: bool = True
    """Undo a ``Content-Encoding`` that was not requested; if off, the body is stored as sent."""
    file_roots: Paths = ()
    """Directories that ``file://`` sources may be read from."""
    allowed_key_prefixes: StringList = ()
    """Prefixes of keys in our own bucket that producers may name as sources."""
    external_buckets: tuple[ExternalBucket, ...] = ()
    """Other buckets that may be read, as JSON; the first match decides."""
    sniff_uploads: bool = False
    """Read the first 64 KiB of an upload that S3 has verified, to detect its media type from its bytes."""

    def limits(self) -> FetchLimits:
        """Return the limits of HTTP transfers."""
        return FetchLimits(
            connect=self.connect_timeout_seconds,
            read=self.read_timeout_seconds,
            total=self.total_timeout_seconds,
            sustained_rate=self.sustained_rate_bytes_per_second,
            min_rate=self.min_rate_bytes_per_second,
            min_rate_window=self.min_rate_window_seconds,
            max_redirects=self.max_redirects,
            max_resumes=self.max_resumes,
        )
