"""Settings that all services share, read once from ``BUCKETLINE_*`` variables in ``app.py`` and then frozen.

Each group of settings is read from the environment or a ``.env`` file; the defaults fit the local stack. The text below
a field is its description. Only settings classes read configuration from the environment.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

ServiceName = Literal["ingest-api", "dedup", "batcher", "processor"]
SERVICES: tuple[ServiceName, ...] = ("ingest-api", "dedup", "batcher", "processor")

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _check_bootstrap_servers(value: str) -> str:
    for server in value.split(","):
        port = re.fullmatch(r"(?:\[[^\]]+\]|[^:\s]+)(?::([0-9]{1,5}))?", server.strip())
        if port is None or not 0 < int(port[1] or 9092) < 65536:
            raise ValueError(f"{server.strip()!r} is not of the form host:port")
    return value


def _check_http_url(value: str) -> str:
    if value and not re.match(r"https?://[^/\s]", value):
        raise ValueError("it must start with http:// or https:// and a host")
    return value


BootstrapServers = Annotated[str, AfterValidator(_check_bootstrap_servers)]
HttpUrl = Annotated[str, AfterValidator(_check_http_url)]


class SettingsBase(BaseSettings):
    """A group of settings with its own prefix. The text below each field is its description.

    Unknown variables are ignored, because all groups read the same environment and ``.env`` file. An unknown keyword
    argument is an error: it is a misspelt setting in code.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_file=".env", env_file_encoding="utf-8", use_attribute_docstrings=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep the default sources and their order, and refuse unknown keyword arguments."""
        if isinstance(init_settings, InitSettingsSource):
            fields = settings_cls.model_fields
            names = fields.keys() | {str(field.validation_alias) for field in fields.values() if field.validation_alias}
            if unknown := init_settings.init_kwargs.keys() - names:
                raise TypeError(f"{settings_cls.__name__} has no settings named {', '.join(sorted(unknown))}")
        return init_settings, env_settings, dotenv_settings, file_secret_settings


class MongoSettings(SettingsBase):
    """Connection to MongoDB, which must be a replica set."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_MONGODB_")

    url: SecretStr = SecretStr("mongodb://127.0.0.1:27017/?directConnection=true")
    """Connection string of the replica set. Writes are acknowledged by a majority of its members."""
    database: str = "bucketline"
    """Name of the database of this deployment."""
    max_pool_size: Count = 64
    """Maximum number of connections per process."""
    server_selection_timeout_seconds: Seconds = 5.0
    """Seconds to look for a primary before MongoDB counts as unavailable."""
    timeout_seconds: Seconds = 20.0
    """Seconds that one call may take, including the driver's retries."""


class KafkaSettings(SettingsBase):
    """Connection to Kafka, topic names and consumer behaviour."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_KAFKA_")

    bootstrap_servers: BootstrapServers = "127.0.0.1:9092"
    """``host:port`` of one or more brokers, separated by commas."""
    topic_prefix: str = "bucketline."
    """Prefix of all topic names."""
    group_prefix: str = "bucketline."
    """Prefix of all consumer group names."""
    enable_idempotence: bool = True
    """Use the idempotent producer. Turn it off for brokers that lack it, such as the local one."""
    fetch_max_wait_ms: Count = 500
    """Milliseconds that the broker may hold a fetch without data. Kafka answers a waiting fetch as soon as there is
    data; the local broker does not, so the local stack sets a much lower value."""
    session_timeout_ms: Count = 30_000
    """Milliseconds without a heartbeat after which a consumer counts as dead and its partitions are reassigned."""
    heartbeat_interval_ms: Count = 3_000
    """Milliseconds between the heartbeats of a consumer."""
    request_timeout_ms: Count = 15_000
    """Milliseconds that a request to a broker may take."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Whether the connection is encrypted (SSL) and authenticated (SASL)."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    """Mechanism of the authentication; only used with SASL."""
    sasl_username: str | None = None
    """User name; required with PLAIN and SCRAM."""
    sasl_password: SecretStr | None = None
    """Password; required with PLAIN and SCRAM."""
    sasl_token_file: str | None = None
    """Path of a file with an access token; required with OAUTHBEARER. Each connection reads it, so a token can be
    renewed."""
    ssl_cafile: str | None = None
    """Path of a PEM file with trusted certificate authorities; unset or empty uses those of the system."""
    ssl_certfile: str | None = None
    """Path of a PEM file with the certificate of this client, for brokers that ask for one."""
    ssl_keyfile: str | None = None
    """Path of a PEM file with the private key of ``ssl_certfile``; unset: that file contains the key."""
    create_topics: bool = False
    """Create missing topics at startup. Meant for the local stack; elsewhere the operator creates topics."""
    replication_factor: Count = 1
    """Replicas of each topic that is created at startup."""
    max_batch_size: Count = 500
    """Maximum number of records that a subscriber handles together."""
    retry_max_attempts: Count = 5
    """Attempts to handle records whose failure is retryable, before they go to the dead-letter topic."""
    retry_timeout_seconds: Seconds = 20.0
    """Seconds that all these attempts may take together, including the waits between them."""


class S3Settings(SettingsBase):
    """Connection to S3 and the bucket that holds blobs."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_S3_")

    endpoint_url: HttpUrl | None = None
    """URL of the S3 API; unset uses AWS."""
    public_endpoint_url: HttpUrl | None = None
    """URL of the S3 API as clients reach it, used in presigned URLs; unset uses ``endpoint_url``."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    bucket: str = "bucketline"
    """Name of the bucket of this deployment."""
    access_key: str | None = None
    """Access key. Unset, with ``secret_key``: the driver looks for credentials itself (instance role, profile)."""
    secret_key: SecretStr | None = None
    """Secret key that belongs to ``access_key``."""
    ssl_cafile: str | None = None
    """Path of a PEM file with trusted certificate authorities; unset uses public ones."""
    addressing_style: Literal["path", "virtual"] = "path"
    """Whether URLs have the bucket in their path or in their host name."""
    create_bucket: bool = True
    """Create the bucket at startup if it is missing."""
    max_pool_connections: Count = 64
    """Maximum number of connections per process."""
    connect_timeout_seconds: Seconds = 5.0
    """Seconds to wait for a connection."""
    read_timeout_seconds: Seconds = 60.0
    """Seconds to wait for the next data of a response."""
    part_size_bytes: Annotated[int, Field(ge=5 * 1024 * 1024)] = 8 * 1024 * 1024
    """Bytes per part of a multipart upload. S3 accepts no less than 5 MiB, except for the last part."""


class HttpSettings(SettingsBase):
    """The HTTP server of a service: the API of ingest-api, and probes and metrics of the others."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_HTTP_")

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 selects a free one."""
    max_body_bytes: Count = 64 * 1024 * 1024
    """Maximum bytes of a request body; a larger one gets a 413 response."""
    max_inflight_body_bytes: Count = 128 * 1024 * 1024
    """Maximum total bytes of request bodies above 1 MiB that are processed at the same time; further requests wait.
    Each byte takes about five bytes of memory until its request is answered."""
    max_header_bytes: Count = 64 * 1024
    """Maximum bytes of the headers of a request; larger ones get a 431 response."""
    max_connections: Count = 2000
    """Maximum number of open connections; a further one gets a 503 response."""
    header_timeout_seconds: Seconds = 10.0
    """Seconds from the first to the last byte of a request's headers, and until a new connection sends its first byte.
    Later headers get a 408 response; a connection without a byte is closed."""
    body_timeout_seconds: Seconds = 30.0
    """Seconds without a byte of an unfinished request body after which the request gets a 408 response."""
    keep_alive_timeout_seconds: Annotated[float, Field(ge=1)] = 30.0
    """Seconds without a request after which a connection is closed."""
    shutdown_timeout_seconds: Seconds = 10.0
    """Seconds that running requests may take after the service was asked to stop."""


class ObservabilitySettings(SettingsBase):
    """Logs and traces."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_", populate_by_name=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """``auto`` writes aligned lines to a terminal and JSON otherwise."""
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """URL of the OTLP/HTTP collector that receives spans. Unset: spans are not exported, but logs and events still
    carry trace ids."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(default=1.0, validation_alias="OTEL_TRACES_SAMPLER_ARG")
    """Share of the traces started in this process that are exported, from 0 to 1."""


class ReconcileSettings(SettingsBase):
    """The reconciler, which repairs work whose event was lost."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_RECONCILE_")

    interval_seconds: Seconds = 2.0
    """Seconds between two runs of the reconciler."""
    outbox_delay_seconds: Seconds = 3.0
    """Age in seconds after which the reconciler publishes an outbox entry that is still unpublished."""
    stale_after_seconds: Seconds = 15.0
    """Seconds without progress after which the reconciler drives stored work again."""
    batch_size: Count = 500
    """Maximum number of documents that one run handles."""


class ServerSettings(BaseModel):
    """The settings that every HTTP server has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    http: HttpSettings
    observability: ObservabilitySettings


class ServiceSettings(ServerSettings):
    """The settings that every service of the pipeline has. Read them with :func:`read_settings`."""

    service: ServiceName
    mongo: MongoSettings
    kafka: KafkaSettings
    s3: S3Settings
    reconcile: ReconcileSettings


def read_settings(service: ServiceName) -> ServiceSettings:
    """Read the shared settings from the environment. Raises pydantic's ``ValidationError`` for an invalid value."""
    return ServiceSettings(
        service=service,
        mongo=MongoSettings(),
        kafka=KafkaSettings(),
        s3=S3Settings(),
        http=HttpSettings(),
        observability=ObservabilitySettings(),
        reconcile=ReconcileSettings(),
    )
