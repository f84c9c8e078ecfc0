"""Errors of sources: why the bytes of a blob could not be read.

::

    BucketlineError
    ├── AddressRefused          the URL or address is not allowed (:mod:`bucketline.http.ssrf`)
    └── SourceError
        ├── SourceNotFound      404, 410, no such key
        ├── SourceTooLarge      above the limit, as declared or counted
        ├── ChecksumMismatch    not the bytes that the producer announced
        ├── SourceUnreadable    any other refusal, unsupported encodings, broken redirects
        └── SourceUnavailable   retryable: 5xx, 429, timeouts, broken connections

``message`` is stored on the object and read by the producer: it contains only what the producer sent and what the
source answered in public (a status code). ``detail`` is for our own logs: host names, resolved addresses, reasons of
the URL check. Never copy one into the other.
"""

from bucketline.errors import BucketlineError

MAX_RETRY_AFTER_SECONDS = 300.0
MAX_DETAIL_CHARACTERS = 500
"""A client's exception may quote what the source sent, which may be long."""


class SourceError(BucketlineError):
    """The source cannot be read. Unless it is retryable, only the producer can change that."""

    retryable = False

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail[:MAX_DETAIL_CHARACTERS]


class SourceNotFound(SourceError):
    """The source does not exist."""

    def __init__(self, message: str = "the source does not exist", *, detail: str = "") -> None:
        super().__init__(message, detail=detail)


class SourceTooLarge(SourceError):
    """The source is larger than the limit."""

    def __init__(self, limit_bytes: int, *, detail: str = "") -> None:
        super().__init__(f"the source is larger than the limit of {limit_bytes} bytes", detail=detail)
        self.limit_bytes = limit_bytes


class ChecksumMismatch(SourceError):
    """The bytes do not have the announced checksum. The producer may know both values."""

    def __init__(self, *, expected: str, actual: str) -> None:
        super().__init__(f"the checksum does not match: expected {expected}, the source has {actual}")
        self.expected = expected
        self.actual = actual


class SourceUnreadable(SourceError):
    """The source answered with something that cannot be used."""


class SourceUnavailable(SourceError):
    """Another attempt may succeed. ``retry_after_seconds`` is what the source asked for, at most five minutes."""

    retryable = True

    def __init__(self, message: str, *, detail: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, detail=detail)
        if retry_after_seconds is not None:
            retry_after_seconds = min(max(retry_after_seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
        self.retry_after_seconds = retry_after_seconds
