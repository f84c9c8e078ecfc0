"""S3: not only that it answers, but that it keeps what deduplication relies on.

A store that ignores ``If-None-Match`` overwrites content that others use; one that ignores checksums keeps corrupt
bytes under the hash of good ones. So both are tried, with a small object of our own that is removed afterwards.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator

import aiohttp

from bucketline.admin.diagnostics.result import CheckResult, clock_check
from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import ChecksumRefused, ObjectMissing
from bucketline.clock import Clock
from bucketline.errors import BucketlineError
from bucketline.settings import S3Settings

PART = "S3"
UNREACHABLE = (
    "Is BUCKETLINE_S3_ENDPOINT_URL right, does BUCKETLINE_S3_BUCKET exist, may the key use it? "
    "A clock that is 15 minutes off makes every signature invalid."
)
PREFIX = "staging/doctor/"
URL_SECONDS = 5.0


async def s3(settings: S3Settings, clock: Clock) -> AsyncIterator[CheckResult]:
    async with S3BlobStore(settings) as store:
        await store.ping()
        yield CheckResult(PART, "bucket", "ok", settings.bucket)
        data = secrets.token_bytes(64)
        sha256 = hashlib.sha256(data).hexdigest()
        key, wrong = f"{PREFIX}{sha256}", f"{PREFIX}{sha256}-wrong"
        try:
            before = clock.now()
            await store.put_if_absent(key, data, sha256=sha256, content_type="application/octet-stream")
            head = await store.head(key)
            yield CheckResult(PART, "write and read", "ok", "an object was written and looked at")
            # The store tells whole seconds; half a second is its middle.
            skew = (head.last_modified - before).total_seconds() + 0.5
            yield clock_check(PART, skew, warn=30, bad=600, why="signatures are refused from 15 minutes on")
            yield await _conditional(store, key)
            yield await _checksums(store, wrong)
            yield await _address(store, key, data)
            yield await _list_and_delete(store, key)
        finally:
            await store.delete([key, wrong])


async def _conditional(store: S3BlobStore, key: str) -> CheckResult:
    other = secrets.token_bytes(64)
    sha256 = hashlib.sha256(other).hexdigest()
    if await store.put_if_absent(key, other, sha256=sha256, content_type="application/octet-stream"):
        advice = (
            "This store cannot be used: writers would replace each other's content. AWS S3, SeaweedFS, MinIO and Ceph "
            "know conditional writes; a gateway in between may not."
        )
        return CheckResult(PART, "conditional writes", "bad", "If-None-Match was ignored", advice)
    return CheckResult(PART, "conditional writes", "ok", "a second write of a key is refused")


async def _checksums(store: S3BlobStore, key: str) -> CheckResult:
    announced = hashlib.sha256(b"other bytes").hexdigest()
    try:
        await store.put_if_absent(key, b"these bytes", sha256=announced, content_type="application/octet-stream")
    except ChecksumRefused:
        return CheckResult(PART, "checksums", "ok", "bytes that do not match their SHA-256 are refused")
    except BucketlineError as error:
        advice = "Look at the store's log: whether it verifies x-amz-checksum-sha256 could not be told."
        return CheckResult(PART, "checksums", "warning", f"refused for another reason: {error.message}", advice)
    advice = "This store does not verify x-amz-checksum-sha256: damage on the way would go unnoticed."
    return CheckResult(PART, "checksums", "bad", "wrong bytes were accepted", advice)


async def _list_and_delete(store: S3BlobStore, key: str) -> CheckResult:
    """What gc and the sweepers need beyond what the pipeline does; a policy may allow the one without the other."""
    what, done = "list and delete", "listed"
    try:
        if not await store.list(key, limit=1):
            return CheckResult(
                PART, what, "bad", "an object is not in the listing", "Is this an S3 that lists at once?"
            )
        done = "deleted"
        await store.delete([key])
        await store.head(key)
    except ObjectMissing:
        return CheckResult(PART, what, "ok", "an object was found in the listing and removed")
    except BucketlineError as error:
        advice = "Give the key s3:ListBucket on the bucket and s3:DeleteObject on what is in it: gc needs both."
        return CheckResult(PART, what, "bad", f"an object could not be {done}: {error.message}"[:300], advice)
    return CheckResult(PART, what, "bad", "an object is still there after it was deleted", "Are objects locked here?")


async def _address(store: S3BlobStore, key: str, data: bytes) -> CheckResult:
    """Fetches a presigned URL as a client of the API would; from here it may be out of reach, which is no fault."""
    url = await store.presign_get(key, expires=60)
    advice = "Clients get such URLs: set BUCKETLINE_S3_PUBLIC_ENDPOINT_URL to an address that they can reach."
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=URL_SECONDS)) as session,
            session.get(url) as answer,
        ):
            same = answer.status == 200 and await answer.read() == data
            found = "a presigned URL can be fetched" if same else f"a presigned URL answers {answer.status}"
            return CheckResult(PART, "presigned URLs", "ok" if same else "bad", found, "" if same else advice)
    except (aiohttp.ClientError, TimeoutError) as error:
        return CheckResult(
            PART, "presigned URLs", "warning", f"not reachable from here: {type(error).__name__}", advice
        )
