"""Settings that only dedup has."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from bucketline.outbound.settings import Networks, Ports, Words, words
from bucketline.settings import Block, Count, Seconds
from bucketline.storage.blobstore import ForeignAccess
from dedup.guard import GuardPolicy
from dedup.transfer import FetchLimits

MEBIBYTE = 1024 * 1024

Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(words)]


class ForeignBuckets(BaseModel):
    """Buckets that are not ours and may be read as sources: names or shell patterns, and how to get at them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    buckets: tuple[str, ...] = Field(min_length=1)
    endpoint: str | None = None
    region: str = "us-east-1"
    addressing: Literal["path", "virtual"] = "path"
    access_key: str | None = None
    secret_key: SecretStr | None = None
    anonymous: bool = False


class DedupSettings(Block):
    """Bytes and seconds. The table in this service's README says what each one is for."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_DEDUP_")

    # sizes and lanes
    small_bytes: Count = 8 * MEBIBYTE
    max_bytes: Count = 5 * 1024 * MEBIBYTE
    concurrency: Count = 32
    large_concurrency: Count = 2
    memory_bytes: Count = 32 * MEBIBYTE
    # turns
    attempts: Count = 6
    first_backoff: Seconds = 1.0
    longest_backoff: Seconds = 300.0
    lease: Seconds = 60.0
    stop_grace: Seconds = 5.0
    tidy_interval: Seconds = 60.0
    tidy_after: Seconds = 30.0
    staging_age: Seconds = 3600.0
    # what may be fetched
    allow_hosts: Words = ()
    allow_networks: Networks = ()
    only_hosts: Words = ()
    allowed_ports: Ports = frozenset({80, 443})
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    connect_timeout: Seconds = 5.0
    read_timeout: Seconds = 15.0
    total_timeout: Seconds = 120.0
    min_rate: Annotated[int, Field(ge=0)] = 10_000
    min_rate_window: Seconds = 20.0
    sustained_rate: Count = 256_000
    max_resumes: Annotated[int, Field(ge=0)] = 3
    file_roots: Paths = ()
    own_prefixes: Words = ()
    foreign: tuple[ForeignBuckets, ...] = ()
    sniff_uploads: bool = False

    def policy(self) -> GuardPolicy:
        """What the guard allows."""
        return GuardPolicy(
            allowed_ports=self.allowed_ports,
            allow_hosts=self.allow_hosts,
            allow_networks=tuple(ip_network(str(network)) for network in self.allow_networks),
            only_hosts=self.only_hosts,
            max_redirects=self.max_redirects,
        )

    def limits(self) -> FetchLimits:
        """How long a source may take."""
        return FetchLimits(
            connect=self.connect_timeout,
            read=self.read_timeout,
            total=self.total_timeout,
            sustained_rate=self.sustained_rate,
            min_rate=self.min_rate,
            min_rate_window=self.min_rate_window,
            max_resumes=self.max_resumes,
        )

    def access(self) -> tuple[ForeignAccess, ...]:
        """The foreign buckets as the store takes them; the first match decides."""
        return tuple(
            ForeignAccess(
                buckets=row.buckets,
                endpoint=row.endpoint,
                region=row.region,
                addressing=row.addressing,
                access_key=row.access_key,
                secret_key=row.secret_key.get_secret_value() if row.secret_key else None,
                anonymous=row.anonymous,
            )
            for row in self.foreign
        )
