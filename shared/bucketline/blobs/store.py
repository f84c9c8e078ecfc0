"""Blob storage as the services see it: one bucket of an S3 API with conditional writes and SHA-256 checksums.

Content lives at a key made of its hash, so "already there" is success and nothing is ever overwritten. SHA-256 is
lower-case hex, sizes are bytes, times are aware and in UTC. Every method may raise
:class:`~bucketline.errors.DependencyUnavailable` once its own bounded retries are used up. Each method is idempotent,
so the caller may repeat the call. The other errors are permanent::

    BlobStoreError
    ├── ObjectMissing      the key does not exist
    ├── ChecksumRefused    the bytes do not have the announced checksum or size; nothing was stored
    ├── ContentTooLarge    the content exceeds the caller's limit
    └── AccessRefused      an external bucket is not configured, or refuses its credentials

A refusal by our own bucket is a fault of the installation, not of what a producer sent, and therefore raises
``DependencyUnavailable`` too.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Literal, Protocol

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


@dataclass(frozen=True)
class ExternalBucket:
    """How to read buckets of others. ``buckets`` are names or shell patterns; the first match decides.

    Without keys the default credential chain is used, or no credentials at all if ``anonymous``.
    """

    buckets: Sequence[str]
    endpoint: str | None = None
    region: str = "us-east-1"
    addressing: Literal["path", "virtual"] = "path"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    anonymous: bool = False

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


class MultipartUpload(Protocol):
    """Content of unknown length on its way to the store; created by :meth:`BlobStore.upload`.

    Left without :meth:`finish_to` (an error, a cancellation) it is aborted: neither parts nor a staging object remain,
    unless the store was unreachable; a reconciler then finds them with :meth:`BlobStore.list_multipart` and
    :meth:`BlobStore.list`.
    """

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Append the next bytes; not safe for concurrent callers.

        Waits while the allowed number of parts is in flight, so memory stays at (parts in flight + 1) parts whatever
        the size. Raises the error of an earlier part.
        """
        ...

    async def finish_to(self, final_key: str, *, sha256: str, size: int, content_type: str) -> bool:
        """Store the content at ``final_key`` unless the key exists; return whether this call stored it.

        ``sha256`` is the caller's hash of everything written. The store has verified each part with a checksum of its
        own, and ``size`` must agree with what was written, otherwise :class:`ChecksumRefused`. The staging object is
        deleted in any case. Content of at most one part never becomes a multipart upload.
        """
        ...


class BlobStore(Protocol):
    """One bucket. Safe for concurrent use by the tasks of one event loop."""

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        """Store ``data`` unless the key exists; return whether this call stored it.

        Of any number of concurrent callers exactly one gets True, except after a lost response, where a caller cannot
        know whether the content is its own and gets False. The store verifies ``sha256``; :class:`ChecksumRefused` if
        it does not fit ``data``. Conflicts, throttling, timeouts and lost responses are retried with jitter without
        writing a second copy: after a lost response the size and checksum of the object are compared first. Content of
        other writers at the key is trusted, because keys are hashes.
        """
        ...

    def upload(self, staging_key: str) -> AbstractAsyncContextManager[MultipartUpload]:
        """Start content of unknown length. ``staging_key`` belongs to this attempt alone."""
        ...

    async def copy_if_absent(
        self,
        source_key: str,
        key: str,
        *,
        size: int,
        content_type: str,
        sha256: str | None = None,
        source_etag: str | None = None,
    ) -> bool:
        """Copy within the bucket, on the server, unless the key exists; return whether this call stored it.

        With ``source_etag`` only that very content is copied, so that it cannot be swapped between a check and the
        copy. A changed source, a wrong ``size``, or a ``sha256`` that disagrees with the one the store computed raises
        :class:`ChecksumRefused`. The source stays. Of concurrent callers one gets True; for content so large that it
        is copied in parts several may, on stores that do not complete uploads atomically.
        """
        ...

    def get(self, key: str, *, limit: int, range: ByteRange | None = None) -> AsyncGenerator[bytes, None]:  # noqa: A002
        """Yield the content, or its ``range``, in chunks of no promised size.

        Raises :class:`ContentTooLarge` before the first chunk if it is longer than ``limit`` bytes. A broken
        connection is resumed on the same content. Close the generator (``aclosing``) to stop early.
        """
        ...

    async def read(self, key: str, *, limit: int) -> bytes:
        """Return the whole content; the same errors as :meth:`get`."""
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Describe the object; :class:`ObjectMissing` if there is none."""
        ...

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; missing keys are ignored. Not atomic: after an error some may be deleted."""
        ...

    async def list(self, prefix: str, *, limit: int, after: str | None = None) -> Sequence[ObjectSummary]:
        """List at most ``limit`` objects in key order, starting after ``after`` (the last key of the page before)."""
        ...

    async def list_multipart(self, prefix: str, *, limit: int = 1000) -> Sequence[OpenUpload]:
        """List at most ``limit`` open uploads, whoever started them."""
        ...

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Discard an open upload and its parts; an upload that is no longer open is ignored."""
        ...

    async def presign_get(self, key: str, *, expires: int, filename: str | None = None, public: bool = True) -> str:
        """Return a URL that reads ``key`` for ``expires`` seconds, at most 2,083 characters long.

        It is signed for the public endpoint, or with ``public=False`` for the internal one. Browsers save the content
        as ``filename``. The object need not exist.
        """
        ...

    async def presign_put(
        self,
        key: str,
        *,
        expires: int,
        content_type: str | None = None,
        size: int | None = None,
        sha256: str | None = None,
    ) -> str:
        """Return a URL that writes ``key`` with one PUT for ``expires`` seconds, at most 2,083 characters long.

        The signature binds the given values: the store refuses another ``Content-Type`` or length, and content with
        another ``sha256``. The checksum is part of the URL; the client sends no header for it (the store refuses
        ``x-amz-*`` headers that were not signed). The URL can be used repeatedly until it expires.
        """
        ...

    async def ensure_bucket(self) -> None:
        """Create the bucket if it is missing and the settings allow it, else raise ``DependencyUnavailable``."""
        ...

    async def ping(self) -> None:
        """Return if the store answers for our bucket, else raise ``DependencyUnavailable``."""
        ...

    def url_of(self, key: str) -> str:
        """Return ``s3://bucket/key``."""
        ...

    def key_of(self, url: str) -> str | None:
        """Return the key of an ``s3://`` URL in our own bucket; None for other buckets.

        Whether a producer may read that key is the caller's decision.
        """
        ...

    def open_external(self, url: str, *, limit: int) -> AbstractAsyncContextManager[Content]:
        """Read ``s3://bucket/key`` of a configured external bucket, with its own endpoint and credentials.

        Raises :class:`AccessRefused` for every other bucket, including our own unless it is configured as external
        too, and :class:`ContentTooLarge` before the first chunk if the object is longer than ``limit``.
        """
        ...
