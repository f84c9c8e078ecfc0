"""Blob storage as the services see it: one bucket of an S3 API that knows conditional writes and SHA-256 checksums.

Content lives at a key made of its hash, so "already there" is success and nothing is ever overwritten. SHA-256 is
lower-case hex here, sizes are bytes, times are aware and in UTC. Every method may raise
:class:`~bucketline.errors.DependencyUnavailable` once its own bounded retries are used up; the caller may then try the
same call again, because each of them is idempotent. The other errors are permanent::

    BlobStoreError
    ├── ObjectMissing      no such key
    ├── ChecksumRefused    the bytes are not those that the checksum or the size promised; nothing was stored
    ├── ContentTooLarge    more bytes than the caller's limit
    └── AccessRefused      a foreign bucket that is not configured, or that refuses the credentials for it

Our own bucket refusing us is a fault of the installation, not of what a producer sent, hence StoreUnavailable too.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Literal, Protocol, Self

from bucketline.errors import BucketlineError

ByteRange = tuple[int, int]
"""First and last byte, both included, as HTTP counts them."""

PRESIGNED_URL_LIMIT = 2083
"""The longest URL that a response may carry."""


class BlobStoreError(BucketlineError):
    """The store answered, and another try would get the same answer."""

    retryable = False


class ObjectMissing(BlobStoreError):
    """There is nothing at ``key``."""

    def __init__(self, key: str) -> None:
        super().__init__("there is no such object in the store")
        self.key = key


class ChecksumRefused(BlobStoreError):
    """The bytes do not have the checksum or the size that they were announced with. Nothing was stored."""


class ContentTooLarge(BlobStoreError):
    """The content is longer than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the content is larger than {limit} bytes")
        self.limit = limit


class AccessRefused(BlobStoreError):
    """A foreign bucket that the configuration does not cover, or that refuses the credentials given for it."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store knows of an object.

    ``sha256`` is there only if the store itself verified it over the whole content; it may be trusted without reading.
    ``etag`` has no quotes; it changes with the content and says nothing else.
    """

    size: int
    etag: str
    sha256: str | None
    content_type: str | None
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class ObjectSummary:
    """A row of a listing."""

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
    """An object being read. ``chunks`` may be read once; ``head.size`` is the size of the whole object."""

    head: ObjectInfo
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True)
class ExternalBucket:
    """How buckets that are not ours are read. ``buckets`` are names or shell patterns; the first match decides.

    Without keys the default credential chain is used, or none at all if ``anonymous``.
    """

    buckets: Sequence[str]
    endpoint: str | None = None
    region: str = "us-east-1"
    addressing: Literal["path", "virtual"] = "path"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    anonymous: bool = False

    def covers(self, bucket: str) -> bool:
        return any(fnmatchcase(bucket, pattern) for pattern in self.buckets)


class MultipartUpload(Protocol):
    """Content of unknown length on its way to the store; made by :meth:`BlobStore.upload`.

    Left without :meth:`finish_to` (an error, a cancellation) it is aborted: neither parts nor a staging object remain,
    unless the store was away, which :meth:`BlobStore.list_multipart` and :meth:`BlobStore.list` then show to a sweeper.
    """

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Takes the next bytes, in order; not safe for concurrent callers.

        Waits while as many parts as allowed are on the wire, so memory stays at (parts in flight + 1) parts whatever
        the size. Raises what went wrong with an earlier part.
        """
        ...

    async def finish_to(self, final_key: str, *, sha256: str, size: int, content_type: str) -> bool:
        """Puts the content at ``final_key`` if nothing is there. True: by us. False: it was there already.

        ``sha256`` is the caller's hash of everything written. Each part was verified by the store on its own checksum,
        and ``size`` must agree with what was written, otherwise :class:`ChecksumRefused`. The staging object is gone
        afterwards in any case. Content of at most one part never becomes a multipart upload.
        """
        ...


class BlobStore(Protocol):
    """One bucket. Safe for concurrent use by the tasks of one event loop."""

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        """Stores ``data`` unless the key is taken. True: written by us. False: it was already there.

        Of any number of concurrent callers exactly one gets True, except after a reply that never came, where a caller
        cannot know whether the content it finds is its own: it is told False. The store verifies ``sha256``;
        :class:`ChecksumRefused` if it does not fit ``data``. A conflict, a refusal for load, a timeout or a lost reply
        is tried again with jitter, never writing a second copy: after a reply that never came the object is looked at,
        and its size and checksum compared. What other writers put at the key is trusted, for keys are hashes.
        """
        ...

    def upload(self, staging_key: str) -> AbstractAsyncContextManager[MultipartUpload]:
        """Starts content of unknown length. ``staging_key`` belongs to this attempt alone."""
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
        """Server-side copy within the bucket, unless the key is taken. True: written by us. False: it was there.

        The bytes are not read by us, whatever their size. With ``source_etag`` only that very content is copied, so
        that nobody swaps it between a check and the copy; a changed source, a wrong ``size``, or a ``sha256`` that
        disagrees with what the store computed is :class:`ChecksumRefused`. The source stays. Of concurrent callers one
        gets True; for content so large that it is copied in parts several may, on stores that do not complete uploads
        atomically, and the content is the same whoever was last.
        """
        ...

    def get(self, key: str, *, limit: int, range: ByteRange | None = None) -> AsyncGenerator[bytes, None]:  # noqa: A002
        """The content in chunks of no promised size, or the part of it that ``range`` names.

        :class:`ContentTooLarge` before the first chunk if more than ``limit`` bytes would come. A connection that
        breaks midway is resumed where it stopped, on the same content. Who stops early closes the generator
        (``aclosing``).
        """
        ...

    async def read(self, key: str, *, limit: int) -> bytes:
        """The whole content at once; the same errors as :meth:`get`."""
        ...

    async def head(self, key: str) -> ObjectInfo:
        """What is at ``key``; :class:`ObjectMissing` if nothing."""
        ...

    async def delete(self, keys: Collection[str]) -> None:
        """Removes the objects; keys with nothing at them are fine. Not atomic: on an error some may be gone."""
        ...

    async def list(self, prefix: str, *, limit: int, after: str | None = None) -> Sequence[ObjectSummary]:
        """At most ``limit`` objects in key order, beginning behind ``after`` (pass the last key for the next page)."""
        ...

    async def list_multipart(self, prefix: str, *, limit: int = 1000) -> Sequence[OpenUpload]:
        """At most ``limit`` uploads that are open, ours or anybody's."""
        ...

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Drops an open upload and its parts; one that is not open any more is fine."""
        ...

    async def presign_get(self, key: str, *, expires: int, filename: str | None = None, public: bool = True) -> str:
        """A URL that reads ``key`` for ``expires`` seconds, at most 2,083 characters.

        Signed for the public endpoint, or with ``public=False`` for the one that we use. ``filename`` is what a browser
        saves it as. Says nothing about whether the object exists.
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
        """A URL that writes ``key`` with one PUT, for ``expires`` seconds, at most 2,083 characters.

        What is given is bound by the signature: a PUT with another ``Content-Type`` or length is refused by the store,
        and other content than ``sha256`` as well. The checksum is part of the URL; the client sends no header for it
        (the store refuses ``x-amz-*`` headers that were not signed). It may be used more than once until it expires.
        """
        ...

    async def ensure_bucket(self) -> None:
        """Makes the bucket if it is missing and the settings allow it; ``StoreUnavailable`` if it is missing still."""
        ...

    async def ping(self) -> None:
        """Returns when the store answered for our bucket."""
        ...

    def url_of(self, key: str) -> str:
        """``s3://bucket/key``."""
        ...

    def key_of(self, url: str) -> str | None:
        """The key that an ``s3://`` URL names in our own bucket; None if it names another bucket.

        Whether a producer may read that key is the caller's decision.
        """
        ...

    def open_foreign(self, url: str, *, limit: int) -> AbstractAsyncContextManager[Content]:
        """Reads ``s3://bucket/key`` of a bucket that the configuration covers, with the endpoint and credentials there.

        :class:`AccessRefused` for every other bucket, our own included unless it is configured as foreign too;
        :class:`ContentTooLarge` before the first chunk if the object is longer than ``limit``.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
