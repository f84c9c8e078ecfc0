"""Settings that only dedup has."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from bucketline.blobs.store import ExternalBucket
from bucketline.http.settings import Networks, Ports, StringList, split_list
from bucketline.settings import Count, Seconds, SettingsBase
from bucketline_dedup.http_stream import FetchLimits
from bucketline_dedup.url_guard import GuardPolicy

MEBIBYTE = 1024 * 1024

Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_list)]


class ExternalBucketSettings(BaseModel):
    """Buckets that are not ours and may be read as sources: names or shell patterns, and how to get at them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    buckets: tuple[str, ...] = Field(min_length=1)
    """Names or shell patterns."""
    endpoint: str | None = None
    """The S3 API; unset, that of AWS."""
    region: str = "us-east-1"
    """What requests are signed for."""
    addressing: Literal["path", "virtual"] = "path"
    """Whether the bucket stands in the path or in the host name of a URL."""
    access_key: str | None = None
    """Who asks."""
    secret_key: SecretStr | None = None
    """Belongs to ``access_key``."""
    anonymous: bool = False
    """Ask without credentials."""


class DedupSettings(SettingsBase):
    """What is taken on at once, how often a source is tried, and what may be fetched."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_DEDUP_")

    # sizes and lanes
    small_bytes: Count = 8 * MEBIBYTE
    """Up to this, content is collected in memory and put in one request; above, it streams in the lane of its own."""
    max_bytes: Count = 5 * 1024 * MEBIBYTE
    """Larger sources are refused."""
    max_concurrency: Count = 32
    """Objects that are fetched for at the same time."""
    max_large_transfers: Count = 2
    """Large transfers at the same time."""
    memory_bytes: Count = 32 * MEBIBYTE
    """Shared by small content on its way; more has to wait."""
    # turns
    max_attempts: Count = 6
    """Attempts after which an object whose source is unavailable becomes a dead letter."""
    initial_backoff_seconds: Seconds = 1.0
    """Before the second turn; doubles with each turn."""
    max_backoff_seconds: Seconds = 300.0
    """Between two turns at most."""
    lease_seconds: Seconds = 60.0
    """After so long a dead replica's objects are taken over."""
    shutdown_grace_seconds: Seconds = 5.0
    """For running turns when the service stops."""
    staging_cleanup_interval_seconds: Seconds = 60.0
    """Between two looks for leftovers."""
    staging_cleanup_min_age_seconds: Seconds = 30.0
    """How old a leftover has to be."""
    staging_ttl_seconds: Seconds = 3600.0
    """How long staged inline content may wait for its object."""
    # what may be fetched
    allow_hosts: StringList = ()
    """Names or patterns (``*.example``) that may resolve to private addresses, never to link-local or metadata ones."""
    allow_networks: Networks = ()
    """Networks that may be reached although they are not public."""
    host_allowlist: StringList = ()
    """If set, no other host may be named."""
    allowed_ports: Ports = frozenset({80, 443})
    """Ports, ranges (``8000-8999``), or ``*``."""
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    """Redirects that are followed, each checked like the first address."""
    connect_timeout_seconds: Seconds = 5.0
    """How long a connection may take to open."""
    read_timeout_seconds: Seconds = 15.0
    """How long a source may be silent."""
    total_timeout_seconds: Seconds = 120.0
    """How long a source may take; a large one earns a second more for each ``sustained_rate`` bytes."""
    min_rate_bytes_per_second: Annotated[int, Field(ge=0)] = 10_000
    """Bytes a second; a transfer that is slower over ``min_rate_window`` is ended."""
    min_rate_window_seconds: Seconds = 20.0
    """What the rate is taken over."""
    sustained_rate_bytes_per_second: Count = 256_000
    """Bytes a second that a large source is expected to keep up."""
    max_resumes: Annotated[int, Field(ge=0)] = 3
    """Connections that a transfer may lose."""
    decode_content: bool = True
    """Undo a ``Content-Encoding`` that was not asked for; off, the body is stored as sent."""
    file_roots: Paths = ()
    """The only directories that ``file://`` may read."""
    allowed_key_prefixes: StringList = ()
    """Keys of our own bucket that producers may name, by their beginning."""
    external_buckets: tuple[ExternalBucketSettings, ...] = ()
    """JSON: other buckets that may be read; the first that matches decides."""
    sniff_uploads: bool = False
    """Read the first 64 KiB of an upload that S3 verified, to tell its media type from its bytes."""

    def policy(self) -> GuardPolicy:
        """What the guard allows."""
        return GuardPolicy(
            allowed_ports=self.allowed_ports,
            allow_hosts=self.allow_hosts,
            allow_networks=tuple(ip_network(str(network)) for network in self.allow_networks),
            only_hosts=self.host_allowlist,
            max_redirects=self.max_redirects,
        )

    def limits(self) -> FetchLimits:
        """How long a source may take."""
        return FetchLimits(
            connect=self.connect_timeout_seconds,
            read=self.read_timeout_seconds,
            total=self.total_timeout_seconds,
            sustained_rate=self.sustained_rate_bytes_per_second,
            min_rate=self.min_rate_bytes_per_second,
            min_rate_window=self.min_rate_window_seconds,
            max_resumes=self.max_resumes,
        )

    def access(self) -> tuple[ExternalBucket, ...]:
        """The foreign buckets as the store takes them; the first match decides."""
        return tuple(
            ExternalBucket(
                buckets=row.buckets,
                endpoint=row.endpoint,
                region=row.region,
                addressing=row.addressing,
                access_key=row.access_key,
                secret_key=row.secret_key.get_secret_value() if row.secret_key else None,
                anonymous=row.anonymous,
            )
            for row in self.external_buckets
        )
