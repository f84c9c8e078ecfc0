"""The tree of errors. Those that several layers need are defined here, the others in the module that raises them.

::

    BucketlineError                       500 InternalServerError                  retryable
    ├── ApiError                          the response to a request                not retryable
    │   ├── BadRequest                    400 BadRequestError
    │   ├── Unauthorized                  401 UnauthorizedError
    │   ├── Forbidden                     403 ForbiddenError
    │   ├── NotFound                      404 NotFoundError
    │   ├── MethodNotAllowed              405 MethodNotAllowedError
    │   ├── AlreadyExists                 409 AlreadyExistsError
    │   ├── PayloadTooLarge               413 PayloadTooLargeError
    │   ├── ValidationFailed              422 ValidationError
    │   │   └── UnknownExtractor          extractors.registry
    │   ├── TooManyRequests               429 TooManyRequestsError
    │   ├── HeadersTooLarge               431 RequestHeaderFieldsTooLargeError
    │   ├── SearchTooSlow                 503 SearchTooSlowError
    │   └── ServiceUnavailable            503 ServiceUnavailableError
    ├── DependencyUnavailable             503 ServiceUnavailableError              retryable
    │   ├── NotPublished                  kafka.publisher; also a RetryableError
    │   ├── QueryTimeout                  db.mongo
    │   ├── WriteConflict                 blobs.s3_errors
    │   └── QueueFull                     bucketline_processor; not retryable
    ├── ProcessingError                   handling a Kafka record
    │   ├── RetryableError                retryable
    │   ├── NonRetryableError             not retryable
    │   └── UnknownEventType              events.cloudevents; not retryable
    ├── DuplicateKey, ResultTooLarge      db.mongo; not retryable
    ├── BlobStoreError                    blobs.store; not retryable
    │   └── ObjectMissing, ChecksumRefused, ContentTooLarge, AccessRefused, KeyTaken
    ├── ExtractionError                   extractors.errors; why an object fails
    │   └── TransientError (retryable), PermanentError, ResourceError
    ├── SourceError                       bucketline_dedup.errors; why a blob fails; not retryable
    │   └── SourceUnavailable (retryable), SourceNotFound, SourceTooLarge, ChecksumMismatch, SourceUnreadable, …
    ├── AddressRefused, PostFailed        http.errors; not retryable
    ├── InvalidSetting, LocalStackError   not retryable
    ├── ForeignBucketError                admin.deployment_id; not retryable
    └── ApiFailure                        cli.client; an error response that the command line received

Every error knows its HTTP status and the ``type`` of its envelope (contract, section 2), and whether it is
``retryable``: a Kafka subscriber handles a record again, with backoff, after a retryable error, and writes it to the
dead-letter topic when the attempts are used up or the error is not retryable.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

Json = str | int | float | bool | None | Mapping[str, "Json"] | Sequence["Json"]
"""A JSON value as it may appear in ``error.details``."""


class BucketlineError(Exception):
    """Base of every error that is raised on purpose."""

    status: int = 500
    type: str = "InternalServerError"
    retryable: ClassVar[bool] = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ApiError(BucketlineError):
    """A response other than 2xx.

    ``message`` and ``details`` reach the client unchanged: they must not name hosts, collections or stack traces.
    """

    retryable = False

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
        """Return the body of the response (contract, section 2)."""
        error: dict[str, object] = {"message": self.message, "type": self.type}
        if self.code is not None:
            error["code"] = self.code
        if self.details is not None:
            error["details"] = dict(self.details)
        return {"success": False, "status": self.status, "error": error}


class BadRequest(ApiError):
    """A parameter is invalid, or the state of the resource does not allow the change."""

    status = 400
    type = "BadRequestError"


class Unauthorized(ApiError):
    """The API key is missing or invalid."""

    status = 401
    type = "UnauthorizedError"

    def __init__(self, message: str = "missing or invalid API key") -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ApiError):
    """The API key does not permit the request."""

    status = 403
    type = "ForbiddenError"


class NotFound(ApiError):
    """The resource or route does not exist, or the caller may not know that it does."""

    status = 404
    type = "NotFoundError"

    @classmethod
    def of(cls, resource: str, identifier: str) -> "NotFound":
        """Return the 404 of one resource in the contract's words."""
        return cls(f"{resource} not found", details={"resource": resource, "id": identifier})


class MethodNotAllowed(ApiError):
    """The route exists, but not for this method."""

    status = 405
    type = "MethodNotAllowedError"


class AlreadyExists(ApiError):
    """A name or unique key is taken, or the resource is in use."""

    status = 409
    type = "AlreadyExistsError"


class PayloadTooLarge(ApiError):
    """The body is larger than the limit."""

    status = 413
    type = "PayloadTooLargeError"


class ValidationIssue(dict[str, Json]):
    """One row of ``validation_errors``: ``type``, ``location`` and ``message``."""

    def __init__(self, kind: str, location: Sequence[str | int], message: str) -> None:
        super().__init__(type=kind, location=list(location), message=message)


class ValidationFailed(ApiError):
    """The request has values that cannot be accepted; ``issues`` has one row for each mistake."""

    status = 422
    type = "ValidationError"

    def __init__(self, issues: Sequence[ValidationIssue], *, code: str | None = None) -> None:
        super().__init__("Validation error", code=code, details={"validation_errors": list(issues)})
        self.issues = list(issues)


class TooManyRequests(ApiError):
    """The rate limit of the API key is exhausted."""

    status = 429
    type = "TooManyRequestsError"


class ServiceUnavailable(ApiError):
    """A dependency is unavailable. Nothing of the request was stored, unless the connection broke during a write."""

    status = 503
    type = "ServiceUnavailableError"

    def __init__(
        self, message: str = "storage is unavailable: try again later", *, retry_after_seconds: int = 5
    ) -> None:
        super().__init__(
            message,
            details={"retryable": True, "retry_after_seconds": retry_after_seconds},
            headers={"Retry-After": str(retry_after_seconds)},
        )


class RequestTimeout(ApiError):
    """The client did not send its request in time."""

    status = 408
    type = "RequestTimeoutError"


class HeadersTooLarge(ApiError):
    """The headers of the request are larger than the limit."""

    status = 431
    type = "RequestHeaderFieldsTooLargeError"


class SearchTooSlow(ApiError):
    """A search exceeded its time limit. It would do so again, so the response tells clients not to repeat it."""

    status = 503
    type = "SearchTooSlowError"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the search was stopped after {seconds:g} seconds: narrow it by created_at, updated_at or status, ask for "
            "fewer rows, and leave out include_total",
            details={"retryable": False, "limit_seconds": seconds},
        )


class ProcessingError(BucketlineError):
    """Base of errors that are raised while a Kafka record is handled."""


class RetryableError(ProcessingError):
    """Handling the same record again may succeed."""


class NonRetryableError(ProcessingError):
    """The record can never be handled. It goes to the dead-letter topic and can be replayed after a fix."""

    retryable = False


class DependencyUnavailable(BucketlineError):
    """MongoDB, Kafka or S3 did not answer in time. The operation may or may not have taken effect."""

    status = 503
    type = "ServiceUnavailableError"


class InvalidSetting(BucketlineError):
    """A setting turned out to be invalid when it was used. The message names the variable and shows no secrets."""

    retryable = False


class LocalStackError(BucketlineError):
    """A part of the local stack is not available or did not start; the message says what to do."""

    retryable = False
