"""Settings of every service, read once from ``BUCKETLINE_*`` in ``app.py`` and frozen.

Each block may be set by environment variables or a ``.env`` file; the defaults start the local stack.
No other module reads the environment.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ServiceName = Literal["ingest-api", "dedup", "batcher", "processor"]
SERVICES: tuple[ServiceName, ...] = ("ingest-api", "dedup", "batcher", "processor")

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _servers(value: str) -> str:
    for server in value.split(","):
        port = re.fullmatch(r"(?:\[[^\]]+\]|[^:\s]+)(?::([0-9]{1,5}))?", server.strip())
        if port is None or not 0 < int(port[1] or 9092) < 65536:
            raise ValueError(f"{server.strip()!r} is not host:port")
    return value


def _address(value: str) -> str:
    if value and not re.match(r"https?://[^/\s]", value):
        raise ValueError("it has to begin with http:// or https:// and a host")
    return value


Servers = Annotated[str, AfterValidator(_servers)]
Address = Annotated[str, AfterValidator(_address)]


class Block(BaseSettings):
    """A group of settings with its own prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_file=".env", env_file_encoding="utf-8")


class MongoSettings(Block):
    """Where objects live. ``url`` should name a replica set: majority writes are what makes a 200 durable."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_MONGODB_")

    url: SecretStr = SecretStr("mongodb://127.0.0.1:27017/?directConnection=true")
    database: str = "bucketline"
    pool_size: Count = 64
    server_selection_timeout: Seconds = 5.0
    timeout: Seconds = 20.0


class KafkaSettings(Block):
    """The bus.

    ``idempotent`` must be off for brokers without InitProducerId (the local one). ``fetch_max_wait_ms`` is how
    long the broker may hold a fetch: Kafka wakes a waiting fetch at once, so 500 costs nothing there;
    the local broker does not, so the local stack asks for far less.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_KAFKA_")

    bootstrap: Servers = "127.0.0.1:9092"
    topic_prefix: str = "bucketline."
    group_prefix: str = "bucketline."
    idempotent: bool = True
    fetch_max_wait_ms: Count = 500
    session_timeout_ms: Count = 30_000
    heartbeat_interval_ms: Count = 3_000
    request_timeout_ms: Count = 15_000
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: str | None = None
    create_topics: bool = False
    replication_factor: Count = 1
    max_records: Count = 500
    retry_attempts: Count = 5
    retry_budget: Seconds = 20.0


class S3Settings(Block):
    """Where blobs live. ``public_endpoint`` is the address that presigned URLs are signed for."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_S3_")

    endpoint: Address | None = None
    public_endpoint: Address | None = None
    region: str = "us-east-1"
    bucket: str = "bucketline"
    access_key: str | None = None
    secret_key: SecretStr | None = None
    addressing: Literal["path", "virtual"] = "path"
    create_bucket: bool = True
    connections: Count = 64
    connect_timeout: Seconds = 5.0
    read_timeout: Seconds = 60.0
    part_size: Annotated[int, Field(ge=5 * 1024 * 1024)] = 8 * 1024 * 1024


class HttpSettings(Block):
    """The service's own HTTP port: the API for ingest-api, probes and metrics for the others.

    A body of more than a mebibyte waits until those that are being dealt with leave it room in ``bodies_bytes``. Each
    of its bytes costs five of memory until it is answered.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_HTTP_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    max_body_bytes: Count = 64 * 1024 * 1024
    bodies_bytes: Count = 128 * 1024 * 1024
    graceful_timeout: Seconds = 10.0


class TelemetrySettings(Block):
    """Logs and traces. ``otlp_endpoint`` unset: spans are made (ids appear in logs and events), not exported."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_TELEMETRY_")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"
    otlp_endpoint: str | None = None
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0


class SweepSettings(Block):
    """When state that should have moved is looked at again."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_SWEEP_")

    interval: Seconds = 2.0
    outbox_after: Seconds = 3.0
    stalled_after: Seconds = 15.0
    limit: Count = 500


class ServiceSettings(BaseModel):
    """What every service is made of. Read with :func:`read_settings`."""

    model_config = ConfigDict(frozen=True)

    service: ServiceName
    mongo: MongoSettings
    kafka: KafkaSettings
    s3: S3Settings
    http: HttpSettings
    telemetry: TelemetrySettings
    sweep: SweepSettings


def read_settings(service: ServiceName) -> ServiceSettings:
    """The shared blocks from the environment. Raises pydantic's ``ValidationError`` naming what is off."""
    return ServiceSettings(
        service=service,
        mongo=MongoSettings(),
        kafka=KafkaSettings(),
        s3=S3Settings(),
        http=HttpSettings(),
        telemetry=TelemetrySettings(),
        sweep=SweepSettings(),
    )
