"""Connection options that producers, consumers and the admin client share."""

import asyncio
import ssl
from pathlib import Path
from typing import TypedDict

from aiokafka.abc import AbstractTokenProvider
from faststream.security import BaseSecurity, SASLOAuthBearer, SASLPlaintext, SASLScram256, SASLScram512

from bucketline.errors import InvalidSetting
from bucketline.settings import KafkaSettings
from bucketline.tls import client_context


class ClientOptions(TypedDict, total=False):
    """Keyword arguments of aiokafka's clients."""

    bootstrap_servers: str
    client_id: str
    security_protocol: str
    sasl_mechanism: str
    sasl_plain_username: str
    sasl_plain_password: str
    sasl_oauth_token_provider: AbstractTokenProvider
    ssl_context: ssl.SSLContext


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """Reads the access token from a file for each connection."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    async def token(self) -> str:
        """Return the current token."""
        return (await asyncio.to_thread(self._path.read_text, encoding="ascii")).strip()


def client_options(settings: KafkaSettings) -> ClientOptions:
    """Return the options for aiokafka. Raises :class:`~bucketline.errors.InvalidSetting`."""
    options: ClientOptions = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": "bucketline",
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if provider := token_provider(settings):
        options |= {"sasl_mechanism": settings.sasl_mechanism, "sasl_oauth_token_provider": provider}
    elif settings.security_protocol.startswith("SASL"):
        username, password = _credentials(settings)
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return options


def security(settings: KafkaSettings) -> BaseSecurity:
    """Return the security options for FastStream, which takes the token provider separately.

    Raises :class:`~bucketline.errors.InvalidSetting`.
    """
    encrypted = settings.security_protocol.endswith("SSL")
    context = _ssl_context(settings) if encrypted else None
    if not settings.security_protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=context, use_ssl=encrypted)
    if settings.sasl_mechanism == "OAUTHBEARER":
        return SASLOAuthBearer(ssl_context=context, use_ssl=encrypted)
    username, password = _credentials(settings)
    kinds = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    return kinds[settings.sasl_mechanism](username=username, password=password, ssl_context=context, use_ssl=encrypted)


def token_provider(settings: KafkaSettings) -> TokenFile | None:
    """Return the source of access tokens with OAUTHBEARER. Raises :class:`~bucketline.errors.InvalidSetting`."""
    if settings.sasl_mechanism != "OAUTHBEARER" or not settings.security_protocol.startswith("SASL"):
        return None
    if settings.sasl_token_file is None:
        raise InvalidSetting("BUCKETLINE_KAFKA_SASL_MECHANISM=OAUTHBEARER needs BUCKETLINE_KAFKA_SASL_TOKEN_FILE")
    return TokenFile(settings.sasl_token_file)


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    return client_context("BUCKETLINE_KAFKA_SSL", settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile)


def _credentials(settings: KafkaSettings) -> tuple[str, str]:
    if settings.sasl_username is None or settings.sasl_password is None:
        protocol = f"BUCKETLINE_KAFKA_SECURITY_PROTOCOL={settings.security_protocol}"
        raise InvalidSetting(f"{protocol} needs BUCKETLINE_KAFKA_SASL_USERNAME and BUCKETLINE_KAFKA_SASL_PASSWORD")
    return settings.sasl_username, settings.sasl_password.get_secret_value()
