"""Settings of every service, read once from ``BUCKETLINE_*`` in ``app.py`` and frozen.

Each block may be set by environment variables or a ``.env`` file; the defaults start the local stack. What is below a
field is its description. Only settings classes read configuration from the environment. Elsewhere it is touched for
what is handed on to child processes (``cli.local``, ``local.process``, ``bucketline_processor.worker_process``), for
the
variables of the running local stack (``cli.environment``) and for ``XDG_CACHE_HOME`` (``local.cache``).
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ServiceName = Literal["ingest-api", "dedup", "batcher", "processor"]
SERVICES: tuple[ServiceName, ...] = ("ingest-api", "dedup", "batcher", "processor")

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _check_bootstrap_servers(value: str) -> str:
    for server in value.split(","):
        port = re.fullmatch(r"(?:\[[^\]]+\]|[^:\s]+)(?::([0-9]{1,5}))?", server.strip())
        if port is None or not 0 < int(port[1] or 9092) < 65536:
            raise ValueError(f"{server.strip()!r} is not host:port")
    return value


def _check_http_url(value: str) -> str:
    if value and not re.match(r"https?://[^/\s]", value):
        raise ValueError("it has to begin with http:// or https:// and a host")
    return value


BootstrapServers = Annotated[str, AfterValidator(_check_bootstrap_servers)]
HttpUrl = Annotated[str, AfterValidator(_check_http_url)]


class SettingsBase(BaseSettings):
    """A group of settings with its own prefix. The text below each field is its description."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_file=".env", env_file_encoding="utf-8", use_attribute_docstrings=True
    )


class MongoSettings(SettingsBase):
    """Where objects live."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_MONGODB_")

    url: SecretStr = SecretStr("mongodb://127.0.0.1:27017/?directConnection=true")
    """A replica set: majority writes are what makes a 200 durable."""
    database: str = "bucketline"
    """The database of this deployment."""
    max_pool_size: Count = 64
    """Most connections of a process."""
    server_selection_timeout_seconds: Seconds = 5.0
    """How long a primary is looked for before MongoDB counts as away."""
    timeout_seconds: Seconds = 20.0
    """The time of one call, retries of the driver included."""


class KafkaSettings(SettingsBase):
    """The bus."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_KAFKA_")

    bootstrap_servers: BootstrapServers = "127.0.0.1:9092"
    """``host:port`` of one or several brokers, separated by commas."""
    topic_prefix: str = "bucketline."
    """In front of the name of every topic."""
    group_prefix: str = "bucketline."
    """In front of the name of every consumer group."""
    enable_idempotence: bool = True
    """Idempotent producing. Off for brokers without InitProducerId, as the local one."""
    fetch_max_wait_ms: Count = 500
    """How long the broker may hold a fetch. Kafka wakes a waiting fetch at once, so 500 costs nothing there; the local
    broker does not, so the local stack asks for far less."""
    session_timeout_ms: Count = 30_000
    """After so long without a heartbeat a consumer is dead and others take its partitions."""
    heartbeat_interval_ms: Count = 3_000
    """How often a consumer tells the broker that it is alive."""
    request_timeout_ms: Count = 15_000
    """How long a request to a broker may take."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Whether the connection is encrypted (SSL) and authenticated (SASL)."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the password is proven; only with SASL."""
    sasl_username: str | None = None
    """Required with SASL."""
    sasl_password: SecretStr | None = None
    """Required with SASL."""
    ssl_cafile: str | None = None
    """PEM file with the authorities to trust; unset, those of the system."""
    create_topics: bool = False
    """Make missing topics at the start. For the local stack; elsewhere topics are the operator's."""
    replication_factor: Count = 1
    """Of topics that are made here."""
    max_batch_size: Count = 500
    """Most records that are handled together."""
    retry_max_attempts: Count = 5
    """Attempts for records whose failure is transient, before they are parked."""
    retry_timeout_seconds: Seconds = 20.0
    """How long those attempts may take together, waits included."""


class S3Settings(SettingsBase):
    """Where blobs live."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_S3_")

    endpoint_url: HttpUrl | None = None
    """The S3 API; unset, that of AWS."""
    public_endpoint_url: HttpUrl | None = None
    """The address that presigned URLs are signed for; unset, the endpoint."""
    region: str = "us-east-1"
    """What requests are signed for."""
    bucket: str = "bucketline"
    """The one bucket of this deployment."""
    access_key: str | None = None
    """Unset, with ``secret_key``: the driver's own search (instance role, profile)."""
    secret_key: SecretStr | None = None
    """Belongs to ``access_key``."""
    addressing_style: Literal["path", "virtual"] = "path"
    """Whether the bucket stands in the path or in the host name of a URL."""
    create_bucket: bool = True
    """Make the bucket at the start when it is missing."""
    max_pool_connections: Count = 64
    """Most connections of a process."""
    connect_timeout_seconds: Seconds = 5.0
    """How long a connection may take to open."""
    read_timeout_seconds: Seconds = 60.0
    """How long the store may be silent."""
    part_size_bytes: Annotated[int, Field(ge=5 * 1024 * 1024)] = 8 * 1024 * 1024
    """Bytes of a part of a multipart upload. S3 takes none below 5 MiB, except the last."""


class HttpSettings(SettingsBase):
    """The service's own HTTP port: the API for ingest-api, probes and metrics for the others."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_HTTP_")

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port to listen on; 0 for any that is free."""
    max_body_bytes: Count = 64 * 1024 * 1024
    """A larger body is refused with a 413."""
    max_inflight_body_bytes: Count = 128 * 1024 * 1024
    """Most bytes of bodies above 1 MiB that are handled at once; further ones wait for room. Each byte costs five of
    memory until its request is answered."""
    shutdown_timeout_seconds: Seconds = 10.0
    """How long running requests may take when the service stops."""


class ObservabilitySettings(SettingsBase):
    """Logs and traces."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_", populate_by_name=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The lowest level that is logged."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """``auto``: aligned lines on a terminal, JSON otherwise."""
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """The OTLP/HTTP collector that receives spans. Unset: spans are not exported; logs and events still carry trace
    ids."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(default=1.0, validation_alias="OTEL_TRACES_SAMPLER_ARG")
    """The share of the traces that begin in this process and are exported."""


class ReconcileSettings(SettingsBase):
    """When state that should have moved is looked at again."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_RECONCILE_")

    interval_seconds: Seconds = 2.0
    """Between two looks."""
    outbox_delay_seconds: Seconds = 3.0
    """An event that is still owed after so long is published by a sweeper."""
    stale_after_seconds: Seconds = 15.0
    """State that has not moved for so long is driven again."""
    batch_size: Count = 500
    """Most rows of one look."""


class ServiceSettings(BaseModel):
    """What every service is made of. Read with :func:`read_settings`."""

    model_config = ConfigDict(frozen=True)

    service: ServiceName
    mongo: MongoSettings
    kafka: KafkaSettings
    s3: S3Settings
    http: HttpSettings
    observability: ObservabilitySettings
    reconcile: ReconcileSettings


def read_settings(service: ServiceName) -> ServiceSettings:
    """The shared blocks from the environment. Raises pydantic's ``ValidationError`` naming what is off."""
    return ServiceSettings(
        service=service,
        mongo=MongoSettings(),
        kafka=KafkaSettings(),
        s3=S3Settings(),
        http=HttpSettings(),
        observability=ObservabilitySettings(),
        reconcile=ReconcileSettings(),
    )
