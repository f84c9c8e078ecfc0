"""The tree of errors. Those that every layer needs are here, the others beside what raises them.

::

    BucketlineError
    ├── ApiError                      has a place in the HTTP envelope
    │   ├── BadRequest            400 BadRequestError
    │   ├── Unauthorized          401 UnauthorizedError
    │   ├── Forbidden             403 ForbiddenError
    │   ├── NotFound              404 NotFoundError
    │   ├── MethodNotAllowed      405 MethodNotAllowedError
    │   ├── AlreadyExists         409 AlreadyExistsError
    │   ├── PayloadTooLarge       413 PayloadTooLargeError
    │   ├── ValidationFailed      422 ValidationError
    │   │   └── UnknownExtractor          in ``extraction.registry``
    │   ├── TooManyRequests       429 TooManyRequestsError
    │   ├── HeadersTooLarge       431 RequestHeaderFieldsTooLargeError
    │   ├── SearchTooSlow         503 SearchTooSlowError
    │   └── ServiceUnavailable    503 ServiceUnavailableError
    ├── RecordError                   decides what happens to a record on the bus
    │   ├── Transient                 retry: the same record may succeed in a moment
    │   ├── Poison                    park: it never will
    │   └── UnknownType               an event of a newer release, in ``events.envelope``
    ├── InvalidSetting                a setting turned out to be wrong when it was used; the message names it
    ├── StoreUnavailable              MongoDB or S3 did not answer; 503 over HTTP, retry on the bus
    │   ├── NotPublished              Kafka did not; also Transient, in ``messaging.publisher``
    │   ├── TimeIsUp                  in ``storage.deadline``
    │   └── WriteConflict             in ``storage.s3_faults``
    ├── LocalStackError               a part of the local stack cannot be had or did not start
    ├── DuplicateKey, TooMuch         what MongoDB refused, in ``storage.mongo``
    ├── BlobStoreError                what S3 refused, in ``storage.blobstore`` and ``storage.s3_faults``
    ├── ExtractionError               why an object fails, in ``extraction.errors``
    ├── AddressRefused, PostFailed    in ``outbound.errors``
    ├── Stuck                         a consumer, in ``messaging.watchdog``
    ├── NotOurs                       a bucket, in ``maintenance.ownership``
    └── ApiFailure                    what the command line was answered, in ``cli.client``

Errors of one service are in that service: those of sources in ``bucketline_dedup.errors``.

``retry_class`` of an error says what a consumer does with the record that raised it: ``retry`` with
back-off and then park, ``park`` at once, or ``reject`` (answer the caller, nothing to keep).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

RetryClass = Literal["retry", "park", "reject"]

Json = str | int | float | bool | None | Mapping[str, "Json"] | Sequence["Json"]
"""A JSON value as it may appear in ``error.details``."""


class BucketlineError(Exception):
    """Base of every error raised on purpose."""

    retry_class: ClassVar[RetryClass] = "retry"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ApiError(BucketlineError):
    """An answer that is not a 2xx.

    ``message`` and ``details`` reach the client as they are: name no host, no collection, no stack in them.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "InternalServerError"
    retry_class: ClassVar[RetryClass] = "reject"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, Json] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details
        self.headers = dict(headers or {})

    def envelope(self) -> dict[str, object]:
        """The body of the answer, section 2 of the contract."""
        error: dict[str, object] = {"message": self.message, "type": self.type}
        if self.code is not None:
            error["code"] = self.code
        if self.details is not None:
            error["details"] = dict(self.details)
        return {"success": False, "status": self.status, "error": error}


class BadRequest(ApiError):
    status = 400
    type = "BadRequestError"


class Unauthorized(ApiError):
    status = 401
    type = "UnauthorizedError"

    def __init__(self, message: str = "missing or invalid API key") -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ApiError):
    status = 403
    type = "ForbiddenError"


class NotFound(ApiError):
    status = 404
    type = "NotFoundError"

    @classmethod
    def of(cls, resource: str, identifier: str) -> "NotFound":
        """The 404 of one resource, as the contract words it."""
        return cls(f"{resource} not found", details={"resource": resource, "id": identifier})


class MethodNotAllowed(ApiError):
    status = 405
    type = "MethodNotAllowedError"


class AlreadyExists(ApiError):
    status = 409
    type = "AlreadyExistsError"


class PayloadTooLarge(ApiError):
    status = 413
    type = "PayloadTooLargeError"


class ValidationIssue(dict[str, Json]):
    """One row of ``validation_errors``: ``type``, ``location`` and ``message``."""

    def __init__(self, kind: str, location: Sequence[str | int], message: str) -> None:
        super().__init__(type=kind, location=list(location), message=message)


class ValidationFailed(ApiError):
    """The request is well-formed HTTP but says something we cannot accept; one row a fault."""

    status = 422
    type = "ValidationError"

    def __init__(self, faults: Sequence[ValidationIssue], *, code: str | None = None) -> None:
        super().__init__("Validation error", code=code, details={"validation_errors": list(faults)})
        self.faults = list(faults)


class TooManyRequests(ApiError):
    status = 429
    type = "TooManyRequestsError"


class ServiceUnavailable(ApiError):
    """Something we depend on is away. Nothing of the request was kept, unless it went away while it was asked."""

    status = 503
    type = "ServiceUnavailableError"

    def __init__(self, message: str = "storage is away, try again", *, retry_after_seconds: int = 5) -> None:
        super().__init__(
            message,
            details={"retryable": True, "retry_after_seconds": retry_after_seconds},
            headers={"Retry-After": str(retry_after_seconds)},
        )


class HeadersTooLarge(ApiError):
    status = 431
    type = "RequestHeaderFieldsTooLargeError"


class SearchTooSlow(ApiError):
    """What was looked for was not found in time. It would not be the next time either: no client should repeat it."""

    status = 503
    type = "SearchTooSlowError"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the search was stopped after {seconds:g} seconds: narrow it by created_at, updated_at or status, ask for "
            "fewer rows, and leave out include_total",
            details={"retryable": False, "limit_seconds": seconds},
        )


class ProcessingError(BucketlineError):
    """Raised while a record of the bus is handled."""


class RetryableError(ProcessingError):
    """The same record may succeed in a moment."""

    retry_class = "retry"


class NonRetryableError(ProcessingError):
    """The record can never be handled: it is parked with its context, and may be replayed after a fix."""

    retry_class = "park"


class DependencyUnavailable(BucketlineError):
    """MongoDB or S3 did not answer in time. What was asked may or may not have happened."""

    retry_class = "retry"


class InvalidSetting(BucketlineError):
    """A setting turned out to be wrong when it was used. The message names the variable, and shows nothing secret."""

    retry_class = "reject"


class LocalStackError(BucketlineError):
    """A part of the local stack cannot be had or did not start; the message says what to do."""

    retry_class = "reject"
