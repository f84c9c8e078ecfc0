"""Connection options that producers, consumers and the admin client share."""

import ssl
from typing import TypedDict

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from bucketline.errors import InvalidSetting
from bucketline.settings import KafkaSettings


class ClientOptions(TypedDict, total=False):
    """Keyword arguments of aiokafka's clients."""

    bootstrap_servers: str
    client_id: str
    security_protocol: str
    sasl_mechanism: str
    sasl_plain_username: str
    sasl_plain_password: str
    ssl_context: ssl.SSLContext


def client_options(settings: KafkaSettings) -> ClientOptions:
    """Return the options for aiokafka. Raises :class:`~bucketline.errors.InvalidSetting`."""
    options: ClientOptions = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": "bucketline",
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        username, password = _credentials(settings)
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return options


def security(settings: KafkaSettings) -> BaseSecurity:
    """Return the security options for FastStream. Raises :class:`~bucketline.errors.InvalidSetting`."""
    encrypted = settings.security_protocol.endswith("SSL")
    context = _ssl_context(settings) if encrypted else None
    if not settings.security_protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=context, use_ssl=encrypted)
    username, password = _credentials(settings)
    kinds = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    return kinds[settings.sasl_mechanism](username=username, password=password, ssl_context=context, use_ssl=encrypted)


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:
        reason = "is not a PEM file with certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidSetting(f"BUCKETLINE_KAFKA_SSL_CAFILE={settings.ssl_cafile}: {reason}") from error


def _credentials(settings: KafkaSettings) -> tuple[str, str]:
    if settings.sasl_username is None or settings.sasl_password is None:
        protocol = f"BUCKETLINE_KAFKA_SECURITY_PROTOCOL={settings.security_protocol}"
        raise InvalidSetting(f"{protocol} needs BUCKETLINE_KAFKA_SASL_USERNAME and BUCKETLINE_KAFKA_SASL_PASSWORD")
    return settings.sasl_username, settings.sasl_password.get_secret_value()
