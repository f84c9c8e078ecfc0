import pytest

from bucketline.blobs.s3_errors import Backoff, KeyTaken, WriteConflict, error_for
from bucketline.blobs.store import AccessRefused, BlobStoreError, ChecksumRefused, ObjectMissing
from bucketline.errors import DependencyUnavailable


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (412, "PreconditionFailed", KeyTaken),
        (400, "BadDigest", ChecksumRefused),
        (400, "XAmzContentSHA256Mismatch", ChecksumRefused),
        (404, "NoSuchKey", ObjectMissing),
        (404, "", ObjectMissing),
        (404, "NoSuchBucket", DependencyUnavailable),
        (403, "SignatureDoesNotMatch", DependencyUnavailable),
        (409, "ConditionalRequestConflict", WriteConflict),
        (400, "RequestTimeout", DependencyUnavailable),
        (429, "", DependencyUnavailable),
        (500, "InternalError", DependencyUnavailable),
        (503, "SlowDown", DependencyUnavailable),
        (400, "InvalidArgument", BlobStoreError),
        (416, "InvalidRange", BlobStoreError),
    ],
)
def test_an_answer_of_our_own_bucket(status: int, code: str, expected: type[Exception]) -> None:
    assert type(error_for(status, code, "key")) is expected


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", AccessRefused),
        (301, "PermanentRedirect", AccessRefused),
        (404, "NoSuchBucket", ObjectMissing),
        (503, "SlowDown", DependencyUnavailable),
    ],
)
def test_a_foreign_bucket_that_refuses_is_the_producers_matter(
    status: int, code: str, expected: type[Exception]
) -> None:
    assert type(error_for(status, code, "key", foreign=True)) is expected


async def test_tries_end() -> None:
    backoff = Backoff(attempts=3, base=0, draw=lambda: 1.0)
    assert [attempt async for attempt in backoff.tries()] == [0, 1, 2]
