"""Maps the responses of S3, from whichever client, to errors and metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ParamValidationError,
)
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_base

from bucketline.blobs.store import AccessRefused, BlobStoreError, ChecksumRefused, ObjectMissing
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.observability.metrics import RETRIES, S3_SECONDS
from bucketline.observability.tracing import start_s3_span

MAX_ATTEMPTS = 4
CHECKSUM_CODES = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
)
ACCESS_STATUSES = frozenset({301, 307, 401, 403})
NOT_WRITTEN_STATUSES = frozenset({409, 429, 503})
"""Statuses after which nothing was written and another attempt may succeed. Other 5xx leave it open."""


class ConditionFailed(BlobStoreError):
    """A condition of the request did not hold: the key exists, or the source has changed."""


class ObjectChanged(DependencyUnavailable):
    """The object was replaced while it was read. Reading it from the start may succeed."""


class NotWritten(DependencyUnavailable):
    """The store refused a write for now. Nothing was written; another attempt may succeed."""


class WriteConflict(NotWritten):
    """Another request is writing the same key."""


def error_for(status: int, code: str, key: str, *, external: bool = False) -> BucketlineError:
    """Return the error for a response. ``code`` is S3's error code, empty if the response has no body."""
    if status == 412:
        return ConditionFailed("a condition of the request did not hold")
    if code in CHECKSUM_CODES:
        return ChecksumRefused("the bytes do not have the announced checksum")
    if status == 404 and (external or code != "NoSuchBucket"):
        return ObjectMissing(key)
    if status == 409:
        return WriteConflict(f"S3 reported a conflict: {code or status}")
    if external and status in ACCESS_STATUSES:
        return AccessRefused("the bucket refuses our credentials")
    if status in NOT_WRITTEN_STATUSES or code == "RequestTimeout":
        return NotWritten(f"S3 refused the request for now: {code or status}")
    if status >= 500 or status in ACCESS_STATUSES or code == "NoSuchBucket":
        return DependencyUnavailable(f"S3 did not serve the request: {code or status}")
    return BlobStoreError(f"S3 refused the request: {code or status}")


def retrying(wait: wait_base, *errors: type[BucketlineError]) -> AsyncRetrying:
    """Return the retry loop of S3: up to :data:`MAX_ATTEMPTS`, on exactly these errors."""
    return AsyncRetrying(
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait,
        retry=retry_if_exception(lambda error: isinstance(error, errors) and not isinstance(error, ObjectChanged)),
        before_sleep=lambda _: RETRIES.labels("s3").inc(),
        reraise=True,
    )


def metric_outcome(status: int) -> str:
    """Return the metrics' label for a status.

    ``ok``, ``exists`` (a condition did not hold), ``missing``, ``busy`` (nothing was written, try again), ``failed``
    (a server error) or ``refused`` (a client error). Without a response the label is ``unreachable`` if the request was
    never sent, else ``lost``.
    """
    if 200 <= status < 300:
        return "ok"
    if status in NOT_WRITTEN_STATUSES:
        return "busy"
    return {404: "missing", 412: "exists"}.get(status, "failed" if status >= 500 or status == 0 else "refused")


@contextmanager
def s3_request(operation: str, bucket: str, key: str = "", *, external: bool = False) -> Iterator[None]:
    """Trace and time one call of the driver and map its errors. ``operation`` is the name in S3's API."""
    started, outcome = perf_counter(), "ok"
    try:
        with start_s3_span(operation, bucket, key), map_driver_errors(key, external=external):
            yield
    except BucketlineError as error:
        outcome = _driver_outcome(error.__cause__)
        raise
    finally:
        S3_SECONDS.labels(operation, outcome).observe(perf_counter() - started)


@contextmanager
def map_driver_errors(key: str = "", *, external: bool = False) -> Iterator[None]:
    """Raise the errors of :mod:`bucketline.blobs.store` for those of the driver."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise error_for(_status(error), code, key, external=external) from error
    except ParamValidationError:
        raise
    except (BotoCoreError, HTTPClientError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise DependencyUnavailable(f"S3 did not answer: {type(error).__name__}") from error


def _driver_outcome(cause: BaseException | None) -> str:
    if isinstance(cause, ClientError):
        return metric_outcome(_status(cause))
    never_sent = (EndpointConnectionError, ConnectTimeoutError, aiohttp.ClientConnectorError)
    return "unreachable" if isinstance(cause, never_sent) else "lost"


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
