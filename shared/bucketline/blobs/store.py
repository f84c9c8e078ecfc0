"""Records and errors of blob storage; the store itself is :class:`bucketline.blobs.s3.S3BlobStore`.

SHA-256 is lower-case hex, sizes are bytes, times are aware and in UTC. These errors are permanent::

    BlobStoreError
    ├── ObjectMissing      the key does not exist
    ├── ChecksumRefused    the bytes do not have the announced checksum or size; nothing was stored
    ├── ContentTooLarge    the content exceeds the caller's limit
    └── AccessRefused      an external bucket is not configured, or refuses its credentials
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from bucketline.errors import BucketlineError

ByteRange = tuple[int, int]
"""First and last byte, both included, as HTTP counts them."""

PRESIGNED_URL_LIMIT = 2083
"""Maximum length of a URL in a response."""


class BlobStoreError(BucketlineError):
    """The store answered, and would give the same answer again."""

    retryable = False


class ObjectMissing(BlobStoreError):
    """The store has no object at ``key``."""

    def __init__(self, key: str) -> None:
        super().__init__("there is no such object in the store")
        self.key = key


class ChecksumRefused(BlobStoreError):
    """The bytes do not have the announced checksum or size. Nothing was stored."""


class ContentTooLarge(BlobStoreError):
    """The content is longer than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the content is larger than {limit} bytes")
        self.limit = limit


class AccessRefused(BlobStoreError):
    """The external bucket is not configured, or refuses the credentials that are configured for it."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Describes a stored object.

    ``sha256`` is set only if the store itself verified it over the whole content, so it can be trusted without
    reading. ``etag`` has no quotes; it changes with the content and means nothing else.
    """

    size: int
    etag: str
    sha256: str | None
    content_type: str | None
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class ObjectSummary:
    """One row of a listing."""

    key: str
    size: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that was started and neither completed nor aborted."""

    key: str
    upload_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Content:
    """An object being read. ``chunks`` can be iterated once; ``info.size`` is the size of the whole object."""

    info: ObjectInfo
    chunks: AsyncIterator[bytes]


class ExternalBucket(BaseModel):
    """How to read buckets of others; the first that covers a bucket decides."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    buckets: tuple[str, ...] = Field(min_length=1)
    """Names or shell patterns."""
    endpoint: str | None = None
    """URL of the S3 API; AWS if unset."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    addressing: Literal["path", "virtual"] = "path"
    """Whether the bucket is in the path or in the host name of a URL."""
    access_key: str | None = None
    """Access key; the default credential chain if unset."""
    secret_key: SecretStr | None = None
    """Secret of ``access_key``."""
    anonymous: bool = False
    """Send requests without credentials."""

    def covers(self, bucket: str) -> bool:
        """Return whether this entry applies to the bucket."""
        return any(fnmatchcase(bucket, pattern) for pattern in self.buckets)


def split_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://bucket/key``; the key is taken literally and may be empty."""
    scheme, separator, rest = url.partition("://")
    if scheme.lower() != "s3" or not separator:
        raise BlobStoreError("not an s3:// URL")
    bucket, _, key = rest.partition("/")
    return bucket, key
