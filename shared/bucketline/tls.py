"""TLS contexts for connections whose certificates are configured."""

import ssl

from bucketline.errors import InvalidSetting


def client_context(
    prefix: str, cafile: str | None, certfile: str | None = None, keyfile: str | None = None
) -> ssl.SSLContext:
    """Return a context that trusts ``cafile``, or the system's authorities, and presents ``certfile`` if there is one.

    ``prefix`` is that of the settings, for example ``BUCKETLINE_KAFKA_SSL``. Raises
    :class:`~bucketline.errors.InvalidSetting` for a file that cannot be read.
    """
    name, path = f"{prefix}_CAFILE", cafile
    try:
        context = ssl.create_default_context(cafile=cafile)
        if certfile:
            name, path = f"{prefix}_CERTFILE", certfile
            # with a password, even an empty one, OpenSSL does not ask for one on the terminal
            context.load_cert_chain(certfile, keyfile, password="")
    except OSError as error:
        reason = "is not a valid PEM file" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidSetting(f"{name}={path}: {reason}") from error
    return context
