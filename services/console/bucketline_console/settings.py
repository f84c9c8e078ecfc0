"""Settings of the console. It is a client of the API, so it has no settings of MongoDB, Kafka or S3."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from bucketline.settings import HttpSettings, HttpUrl, ObservabilitySettings, ServerSettings, SettingsBase


class ConsoleHttpSettings(HttpSettings):
    """The HTTP server of the console."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8081


class ApiClientSettings(SettingsBase):
    """How the console reaches the API."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_CONSOLE_")

    api_url: HttpUrl = "http://127.0.0.1:8080"
    """URL of the API, without ``/v1``."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that the API may take to answer one request."""


class ConsoleSettings(ServerSettings):
    """All settings of the console. Read them with :func:`read_settings`."""

    api: ApiClientSettings


def read_settings() -> ConsoleSettings:
    """Read the settings from the environment. Raises pydantic's ``ValidationError`` for an invalid value."""
    return ConsoleSettings(
        service="console", http=ConsoleHttpSettings(), observability=ObservabilitySettings(), api=ApiClientSettings()
    )
