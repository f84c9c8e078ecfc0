"""What can go wrong inside an extractor.

::

    ExtractionError
    ├── TransientError     transient: the same object may succeed in a moment (a model server is away)
    ├── PermanentError     permanent: it never will, the file or its parameters have to change
    └── ResourceError      resource: it needs more memory, time or space than this deployment allows

The message becomes the object's ``error`` and is read by the producer: say what is wrong with *their* file,
and name no host, path or class of the service.
"""

from typing import ClassVar, Literal

from bucketline.errors import BucketlineError

ErrorKind = Literal["transient", "permanent", "resource"]


class ExtractionError(BucketlineError):
    """Raise one of the three subclasses; anything else an extractor raises counts as permanent."""

    retryable = False
    kind: ClassVar[ErrorKind] = "permanent"

    @staticmethod
    def of(kind: ErrorKind, message: str) -> "ExtractionError":
        """The subclass for ``kind``: how an error comes back from another process."""
        return _BY_KIND[kind](message)


class TransientError(ExtractionError):
    """Trying again later may help."""

    retryable = True
    kind = "transient"


class PermanentError(ExtractionError):
    """Trying again cannot help."""

    kind = "permanent"


class ResourceError(ExtractionError):
    """A limit of this deployment was reached; only a larger limit or a smaller file helps."""

    kind = "resource"


_BY_KIND: dict[ErrorKind, type[ExtractionError]] = {
    "transient": TransientError,
    "permanent": PermanentError,
    "resource": ResourceError,
}
