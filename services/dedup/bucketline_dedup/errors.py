"""Why the bytes of a blob could not be had.

::

    BucketlineError
    └── SourceError
        ├── AddressRefused      permanent   the guard said no, or there is no such host
        ├── SourceNotFound      permanent   404, 410, no such key
        ├── SourceTooLarge      permanent   above the limit, declared or counted
        ├── ChecksumMismatch    permanent   not the bytes that the producer announced
        ├── SourceUnreadable    permanent   any other refusal, encodings we do not undo, broken redirects
        └── SourceUnavailable   transient   5xx, 429, time-outs, connections that break

``message`` is written on the object and read by the producer: it names nothing but what the producer sent
and what the source answered in public (a status code). ``detail`` is for our own logs: host names, resolved
addresses, reasons of the guard. Never copy one into the other.
"""

from bucketline.errors import BucketlineError

MAX_RETRY_AFTER_SECONDS = 300.0
# a client's exception may quote what the source sent, and that may be long
MAX_DETAIL_CHARACTERS = 500


class SourceError(BucketlineError):
    """Unless it is one to ``retry``, the same source can never succeed without the producer changing something."""

    retryable = False

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail[:MAX_DETAIL_CHARACTERS]


class AddressRefused(SourceError):
    """One wording for every reason: which part was refused would map the private network for a stranger.

    A host that does not exist is refused in the same words, or names could be guessed one by one.
    """

    def __init__(self, *, detail: str) -> None:
        super().__init__("the address is not allowed", detail=detail)


class SourceNotFound(SourceError):
    def __init__(self, message: str = "the source does not exist", *, detail: str = "") -> None:
        super().__init__(message, detail=detail)


class SourceTooLarge(SourceError):
    def __init__(self, limit_bytes: int, *, detail: str = "") -> None:
        super().__init__(f"the source is larger than the limit of {limit_bytes} bytes", detail=detail)
        self.limit_bytes = limit_bytes


class ChecksumMismatch(SourceError):
    """Both values are the producer's own business: the announced one and that of the bytes it pointed at."""

    def __init__(self, *, expected: str, actual: str) -> None:
        super().__init__(f"the checksum does not match: expected {expected}, the source has {actual}")
        self.expected = expected
        self.actual = actual


class SourceUnreadable(SourceError):
    """The source answered, and what it answered will not do."""


class SourceUnavailable(SourceError):
    """Trying again may help. ``retry_after_seconds`` is the source's own wish, at most five minutes."""

    retryable = True

    def __init__(self, message: str, *, detail: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, detail=detail)
        if retry_after_seconds is not None:
            retry_after_seconds = min(max(retry_after_seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
        self.retry_after_seconds = retry_after_seconds
