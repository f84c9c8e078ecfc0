"""Errors for the responses of S3."""

import pytest

from bucketline.blobs.s3_errors import ConditionFailed, NotWritten, WriteConflict, error_for
from bucketline.blobs.store import AccessRefused, BlobStoreError, ChecksumRefused, ObjectMissing
from bucketline.errors import DependencyUnavailable


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (412, "PreconditionFailed", ConditionFailed),
        (400, "BadDigest", ChecksumRefused),
        (400, "XAmzContentSHA256Mismatch", ChecksumRefused),
        (404, "NoSuchKey", ObjectMissing),
        (404, "", ObjectMissing),
        (404, "NoSuchBucket", DependencyUnavailable),
        (403, "SignatureDoesNotMatch", DependencyUnavailable),
        (409, "ConditionalRequestConflict", WriteConflict),
        (400, "RequestTimeout", NotWritten),
        (429, "", NotWritten),
        (500, "InternalError", DependencyUnavailable),
        (503, "SlowDown", NotWritten),
        (400, "InvalidArgument", BlobStoreError),
        (416, "InvalidRange", BlobStoreError),
    ],
)
def test_error_for_our_bucket_has_the_expected_class(status: int, code: str, expected: type[Exception]) -> None:
    assert type(error_for(status, code, "key")) is expected


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", AccessRefused),
        (301, "PermanentRedirect", AccessRefused),
        (404, "NoSuchBucket", ObjectMissing),
        (503, "SlowDown", NotWritten),
    ],
)
def test_error_for_an_external_bucket_has_the_expected_class(status: int, code: str, expected: type[Exception]) -> None:
    assert type(error_for(status, code, "key", external=True)) is expected
