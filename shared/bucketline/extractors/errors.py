"""Errors that an extractor raises.

::

    ExtractionError
    ├── TransientError     transient: a retry may succeed (a model server is unavailable)
    ├── PermanentError     permanent: a retry cannot succeed; the file or the parameters have to change
    └── ResourceError      resource: more memory, time or space is needed than this deployment allows

The message becomes the ``error`` of the object and is read by the producer: describe what is wrong with the file, and
do not mention hosts, paths or classes of the service.
"""

from typing import ClassVar, Literal

from bucketline.errors import BucketlineError

ErrorKind = Literal["transient", "permanent", "resource"]


class ExtractionError(BucketlineError):
    """Base of the three errors. Any other exception of an extractor counts as permanent."""

    retryable = False
    kind: ClassVar[ErrorKind] = "permanent"

    @staticmethod
    def of(kind: ErrorKind, message: str) -> "ExtractionError":
        """Return the subclass for ``kind``, to rebuild an error from another process."""
        return _BY_KIND[kind](message)


class TransientError(ExtractionError):
    """A retry may succeed."""

    retryable = True
    kind = "transient"


class PermanentError(ExtractionError):
    """A retry cannot succeed."""

    kind = "permanent"


class ResourceError(ExtractionError):
    """A limit of this deployment was exceeded: the limit must be raised or the file be smaller."""

    kind = "resource"


_BY_KIND: dict[ErrorKind, type[ExtractionError]] = {
    "transient": TransientError,
    "permanent": PermanentError,
    "resource": ResourceError,
}
