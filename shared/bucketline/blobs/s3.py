"""S3 through aioboto3: any S3 API that supports ``If-None-Match: *`` and SHA-256 checksums.

Multi-part transfers are in :mod:`bucketline.blobs.s3_multipart`, the fast conditional PUT and the signing of URLs in
:mod:`bucketline.blobs.s3_signing`, and the resuming of reads in :mod:`bucketline.blobs.s3_reading`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import aioboto3
from aiobotocore.config import AioConfig
from botocore import UNSIGNED
from tenacity import wait_random_exponential
from tenacity.wait import wait_base

from bucketline.blobs.s3_errors import s3_request
from bucketline.blobs.s3_multipart import S3Transfers, StreamedUpload, base64_checksum, streamed_upload
from bucketline.blobs.s3_reading import ObjectBody, object_info
from bucketline.blobs.s3_signing import SignedPutClient, UrlSigner, content_disposition, truncated_names
from bucketline.blobs.store import (
    PRESIGNED_URL_LIMIT,
    AccessRefused,
    BlobStoreError,
    ByteRange,
    Content,
    ExternalBucket,
    ObjectInfo,
    ObjectMissing,
    ObjectSummary,
    OpenUpload,
    split_s3_url,
)
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.settings import S3Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client


PAGE_SIZE = 1000
MAX_SINGLE_COPY = 1024**3
"""S3 allows 5 GiB, but a store that is silent while it copies would exceed the read timeout before that."""
COPY_PART_SIZE = 256 * 1024**2
DRIVER_ATTEMPTS = 3
RETRY_WAIT = wait_random_exponential(multiplier=0.1, max=2)


class S3BlobStore:
    """One bucket. Use as a context manager; safe for concurrent use by the tasks of one event loop.

    Content lives at a key made of its hash, so "already there" is success and nothing is ever overwritten. Every method
    is idempotent, so the caller may repeat the call. It raises a :class:`~bucketline.blobs.store.BlobStoreError`, or
    :class:`~bucketline.errors.DependencyUnavailable` once its own bounded retries are used up. A refusal by our own
    bucket is a fault of the installation and not of what a producer sent, so it raises ``DependencyUnavailable`` too.

    Without keys in the settings the driver's default chain supplies and refreshes them (environment, web identity,
    instance role). ``max_single_copy`` and ``copy_part_size`` are parameters so that tests can copy in parts without
    gigabytes.
    """

    def __init__(
        self,
        settings: S3Settings,
        *,
        external_buckets: Sequence[ExternalBucket] = (),
        retry_wait: wait_base = RETRY_WAIT,
        max_single_copy: int = MAX_SINGLE_COPY,
        copy_part_size: int = COPY_PART_SIZE,
    ) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._external_buckets = tuple(external_buckets)
        self._external_clients: dict[ExternalBucket, S3Client] = {}
        self._retry_wait = retry_wait
        self._max_single_copy = max_single_copy
        self._copy_part_size = copy_part_size
        self._stack = AsyncExitStack()
        secret = settings.secret_key.get_secret_value() if settings.secret_key else None
        self._session = aioboto3.Session(settings.access_key, secret, region_name=settings.region)

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with AsyncExitStack() as stack:
            self._client = await self._connect(
                self._session, settings.endpoint_url, settings.addressing_style, stack, cafile=settings.ssl_cafile
            )
            self._signer = UrlSigner(self._session, settings, self._client.meta.endpoint_url)
            self._signed_put = await stack.enter_async_context(
                SignedPutClient(settings, signer=self._signer, head=self.head, retry_wait=self._retry_wait)
            )
            self._transfers = S3Transfers(
                self,
                self._client,
                self._bucket,
                retry_wait=self._retry_wait,
                max_single_copy=self._max_single_copy,
                part_size=self._copy_part_size,
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._external_clients.clear()
        await self._stack.aclose()

    # Writing

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        """Store ``data`` unless the key exists; return whether this call stored it.

        Of any number of concurrent callers exactly one gets True, except after a lost response, where a caller cannot
        know whether the content is its own and gets False. The store verifies ``sha256``; :class:`ChecksumRefused` if
        it does not fit ``data``. Conflicts, throttling, timeouts and lost responses are retried with jitter without
        writing a second copy: after a lost response the size and checksum of the object are compared first. Content of
        other writers at the key is trusted, because keys are hashes.
        """
        return await self._signed_put.put_if_absent(key, data, sha256=sha256, content_type=content_type)

    def upload(self, staging_key: str) -> AbstractAsyncContextManager[StreamedUpload]:
        """Start content of unknown length. ``staging_key`` belongs to this attempt alone."""
        return streamed_upload(self._transfers, staging_key, self._settings.part_size_bytes)

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
        return await self._transfers.copy(
            source_key, key, size=size, content_type=content_type, sha256=sha256, source_etag=source_etag
        )

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; missing keys are ignored. Not atomic: after an error some may be deleted."""
        ordered = sorted(keys)
        if len(ordered) == 1:
            with s3_request("DeleteObject", self._bucket, ordered[0]):
                await self._client.delete_object(Bucket=self._bucket, Key=ordered[0])
            return
        for start in range(0, len(ordered), PAGE_SIZE):
            page = ordered[start : start + PAGE_SIZE]
            with s3_request("DeleteObjects", self._bucket):
                response = await self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in page], "Quiet": True}
                )
            if response.get("Errors"):
                raise DependencyUnavailable("S3 did not delete some objects")

    # Reading

    async def get(self, key: str, *, limit: int, range: ByteRange | None = None) -> AsyncGenerator[bytes, None]:  # noqa: A002
        """Yield the content, or its ``range``, in chunks of no promised size.

        Raises :class:`ContentTooLarge` before the first chunk if it is longer than ``limit`` bytes. A broken
        connection is resumed on the same content. Close the generator (``aclosing``) to stop early.
        """
        body = ObjectBody(self._client, self._bucket, key, retry_wait=self._retry_wait)
        async with body.opened(limit=limit, byte_range=range) as content:
            async for chunk in content.chunks:
                yield chunk

    async def read(self, key: str, *, limit: int) -> bytes:
        """Return the whole content; the same errors as :meth:`get`."""
        async with aclosing(self.get(key, limit=limit)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def head(self, key: str) -> ObjectInfo:
        """Describe the object; :class:`ObjectMissing` if there is none."""
        with s3_request("HeadObject", self._bucket, key):
            response = await self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        return object_info(cast("Mapping[str, Any]", response), response["ContentLength"])

    @asynccontextmanager
    async def open_external(self, url: str, *, limit: int) -> AsyncIterator[Content]:
        """Read ``s3://bucket/key`` of a configured external bucket, with its own endpoint and credentials.

        Raises :class:`AccessRefused` for every other bucket, including our own unless it is configured as external
        too, and :class:`ContentTooLarge` before the first chunk if the object is longer than ``limit``.
        """
        bucket, key = split_s3_url(url)
        access = next((access for access in self._external_buckets if access.covers(bucket)), None)
        if access is None or not key:
            raise AccessRefused("the bucket is not configured as a source")
        client = await self._external_client(access)
        body = ObjectBody(client, bucket, key, external=True, retry_wait=self._retry_wait)
        async with body.opened(limit=limit) as content:
            yield content

    async def list(self, prefix: str, *, limit: int, after: str | None = None) -> Sequence[ObjectSummary]:
        """List at most ``limit`` objects in key order, starting after ``after`` (the last key of the page before)."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=prefix,
            StartAfter=after or "",
            PaginationConfig={"MaxItems": limit, "PageSize": min(PAGE_SIZE, limit)},
        )
        with s3_request("ListObjectsV2", self._bucket):
            return [
                ObjectSummary(row["Key"], row["Size"], row["ETag"].strip('"'), row["LastModified"])
                async for page in pages
                for row in page.get("Contents", [])
            ]

    async def list_multipart(self, prefix: str, *, limit: int = PAGE_SIZE) -> Sequence[OpenUpload]:
        """List at most ``limit`` open uploads, whoever started them."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket,
            Prefix=prefix,
            PaginationConfig={"MaxItems": limit, "PageSize": min(PAGE_SIZE, limit)},
        )
        with s3_request("ListMultipartUploads", self._bucket):
            return [
                OpenUpload(row["Key"], row["UploadId"], row["Initiated"])
                async for page in pages
                for row in page.get("Uploads", [])
            ]

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Discard an open upload and its parts; an upload that is no longer open is ignored."""
        try:
            with s3_request("AbortMultipartUpload", self._bucket, key):
                await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except ObjectMissing:
            return

    # URLs and access

    async def presign_get(self, key: str, *, expires: int, filename: str | None = None, public: bool = True) -> str:
        """Return a URL that reads ``key`` for ``expires`` seconds, at most 2,083 characters long.

        It is signed for the public endpoint, or with ``public=False`` for the internal one. Browsers save the content
        as ``filename``. The object need not exist.
        """
        endpoint = self._settings.public_endpoint_url if public else None
        # A non-ASCII name grows ninefold in the URL: it is truncated, keeping its extension, until the URL fits.
        for name in truncated_names(filename):
            query = {"response-content-disposition": content_disposition(name)} if name else {}
            url = await self._signer.presign("GET", key, endpoint, expires, query=query)
            if len(url) <= PRESIGNED_URL_LIMIT:
                return url
        raise BlobStoreError("the presigned URL would be too long")

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
        query = {"x-amz-checksum-sha256": base64_checksum(sha256)} if sha256 else {}
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["content-type"] = content_type
        if size is not None:
            headers["content-length"] = str(size)
        endpoint = self._settings.public_endpoint_url
        url = await self._signer.presign("PUT", key, endpoint, expires, query=query, headers=headers)
        if len(url) > PRESIGNED_URL_LIMIT:
            raise BlobStoreError("the presigned URL would be too long")
        return url

    def url_of(self, key: str) -> str:
        """Return ``s3://bucket/key``."""
        return f"s3://{self._bucket}/{key}"

    def key_of(self, url: str) -> str | None:
        """Return the key of an ``s3://`` URL in our own bucket; None for other buckets.

        Whether a producer may read that key is the caller's decision.
        """
        bucket, key = split_s3_url(url)
        return key if bucket == self._bucket and key else None

    async def ensure_bucket(self) -> None:
        """Create the bucket if it is missing and the settings allow it, else raise ``DependencyUnavailable``."""
        if await self._bucket_exists():
            return
        if not self._settings.create_bucket:
            raise DependencyUnavailable(
                f"the bucket {self._bucket} does not exist, and BUCKETLINE_S3_CREATE_BUCKET is off: create it"
            )
        region = self._settings.region
        location: dict[str, Any] = (
            {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        try:
            with s3_request("CreateBucket", self._bucket):
                await self._client.create_bucket(Bucket=self._bucket, **location)
        except BucketlineError:
            # Another service may have created it at the same time.
            if not await self._bucket_exists():
                raise

    async def ping(self) -> None:
        """Return if the store answers for our bucket, else raise ``DependencyUnavailable``."""
        if not await self._bucket_exists():
            raise DependencyUnavailable(f"the bucket {self._bucket} does not exist")

    async def _bucket_exists(self) -> bool:
        try:
            with s3_request("HeadBucket", self._bucket):
                await self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing:
            return False
        return True

    async def _connect(
        self,
        session: aioboto3.Session,
        endpoint: str | None,
        addressing: Literal["path", "virtual"],
        stack: AsyncExitStack,
        *,
        anonymous: bool = False,
        cafile: str | None = None,
    ) -> "S3Client":
        config = AioConfig(
            signature_version=UNSIGNED if anonymous else "s3v4",
            # Parts carry a checksum that is signed; hashing their payload as well would block the event loop.
            s3={"addressing_style": addressing, "payload_signing_enabled": False},
            max_pool_connections=self._settings.max_pool_connections,
            connect_timeout=self._settings.connect_timeout_seconds,
            read_timeout=self._settings.read_timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": DRIVER_ATTEMPTS},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return await stack.enter_async_context(
            session.client("s3", endpoint_url=endpoint, config=config, verify=cafile or None)
        )

    async def _external_client(self, access: ExternalBucket) -> "S3Client":
        if access not in self._external_clients:
            secret = access.secret_key.get_secret_value() if access.secret_key else None
            session = aioboto3.Session(access.access_key, secret, region_name=access.region)
            client = await self._connect(
                session, access.endpoint, access.addressing, self._stack, anonymous=access.anonymous
            )
            # Two readers may have opened one each; both are closed at the end, the first is kept.
            self._external_clients.setdefault(access, client)
        return self._external_clients[access]
