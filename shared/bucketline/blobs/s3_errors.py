"""What an answer of S3 that is not a success means, whichever client received it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from bucketline.blobs.store import AccessRefused, BlobStoreError, ChecksumRefused, ObjectMissing
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.observability.metrics import RETRIES

CHECKSUM_CODES = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
)
ACCESS_STATUSES = frozenset({301, 307, 401, 403})
NOT_STORED = frozenset({409, 429, 503})
"""Statuses after which nothing was written and another try may succeed. Other 5xx leave it open."""


class KeyTaken(BlobStoreError):
    """A condition of the request did not hold: there is something at the key, or the source has changed."""


class WriteConflict(DependencyUnavailable):
    """Somebody else is writing the same key right now; the store wants us to try again."""


def error_for(status: int, code: str, key: str, *, foreign: bool = False) -> BucketlineError:
    """The error for an answer. ``code`` is S3's own name for it, empty where the answer has no body."""
    if status == 412:
        return KeyTaken("a condition of the request did not hold")
    if code in CHECKSUM_CODES:
        return ChecksumRefused("the bytes do not have the announced checksum")
    if status == 404 and (foreign or code != "NoSuchBucket"):
        return ObjectMissing(key)
    if status == 409:
        return WriteConflict(f"S3 reports a conflict: {code or status}")
    if foreign and status in ACCESS_STATUSES:
        return AccessRefused("the bucket refuses our credentials")
    if status >= 500 or status in ACCESS_STATUSES or status in NOT_STORED or code in {"RequestTimeout", "NoSuchBucket"}:
        return DependencyUnavailable(f"S3 did not serve us: {code or status}")
    return BlobStoreError(f"S3 refused the request: {code or status}")


def metric_outcome(status: int) -> str:
    """What the metrics call an answer.

    ``ok``, ``exists`` (a condition did not hold), ``missing``, ``busy`` (nothing was done, try again), ``failed`` (the
    server's fault), ``refused`` (ours). Without an answer: ``unreachable`` if it was never sent, else ``lost``.
    """
    if 200 <= status < 300:
        return "ok"
    if status in NOT_STORED:
        return "busy"
    return {404: "missing", 412: "exists"}.get(status, "failed" if status >= 500 or status == 0 else "refused")


@dataclass(frozen=True)
class Backoff:
    """Bounded tries with exponential back-off and full jitter; times in seconds."""

    attempts: int = 4
    base: float = 0.1
    cap: float = 2.0
    draw: Callable[[], float] = random.random

    async def tries(self) -> AsyncIterator[int]:
        """Counts attempts from 0 and waits before each but the first."""
        for attempt in range(self.attempts):
            if attempt:
                RETRIES.labels("s3").inc()
                await asyncio.sleep(self.draw() * min(self.cap, self.base * 2 ** (attempt - 1)))
            yield attempt
