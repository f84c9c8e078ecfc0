"""S3 through aioboto3: any S3 API that supports ``If-None-Match: *`` and SHA-256 checksums.

Multi-part transfers are in :mod:`bucketline.blobs.s3_multipart`, the fast conditional PUT in
:mod:`bucketline.blobs.s3_signed_put`.
"""

import inspect
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import quote, urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from tenacity import wait_random_exponential
from tenacity.wait import wait_base

from bucketline.blobs.s3_errors import ConditionFailed, ObjectChanged, map_driver_errors, retrying, s3_request
from bucketline.blobs.s3_multipart import S3Transfers, base64_checksum, streamed_upload
from bucketline.blobs.s3_signed_put import SignedPutClient
from bucketline.blobs.store import (
    PRESIGNED_URL_LIMIT,
    AccessRefused,
    BlobStoreError,
    ByteRange,
    Content,
    ContentTooLarge,
    ExternalBucket,
    MultipartUpload,
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

    from bucketline.blobs.store import BlobStore

    def _conforms(store: "S3BlobStore") -> BlobStore:
        return store


PAGE_SIZE = 1000
CHUNK_BYTES = 256 * 1024
MAX_SINGLE_COPY = 1024**3
"""S3 allows 5 GiB, but a store that is silent while it copies would exceed the read timeout before that."""
COPY_PART_SIZE = 256 * 1024**2
DRIVER_ATTEMPTS = 3
RETRY_WAIT = wait_random_exponential(multiplier=0.1, max=2)


class _KnownPayloadHash(S3SigV4Auth):
    """Signs with a given payload hash instead of hashing the body again."""

    def payload(self, request: AWSRequest) -> str:
        return cast("str", request.context["payload_sha256"])


class S3BlobStore:
    """Implements :class:`~bucketline.blobs.store.BlobStore`. Use as a context manager.

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
            self._endpoint = self._client.meta.endpoint_url
            self._signed_put = await stack.enter_async_context(
                SignedPutClient(settings, sign=self._sign_put, head=self.head, retry_wait=self._retry_wait)
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
        """Store ``data`` unless the key exists."""
        return await self._signed_put.put_if_absent(key, data, sha256=sha256, content_type=content_type)

    def upload(self, staging_key: str) -> AbstractAsyncContextManager[MultipartUpload]:
        """Start content of unknown length."""
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
        """Copy within the bucket unless the key exists."""
        return await self._transfers.copy(
            source_key, key, size=size, content_type=content_type, sha256=sha256, source_etag=source_etag
        )

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; a single one without DeleteObjects, which some stores and policies do not allow."""
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
        """Yield the content or its range."""
        body = _ObjectBody(self._client, self._bucket, key, retry_wait=self._retry_wait)
        async with body.opened(limit=limit, byte_range=range) as content:
            async for chunk in content.chunks:
                yield chunk

    async def read(self, key: str, *, limit: int) -> bytes:
        """Return the whole content."""
        async with aclosing(self.get(key, limit=limit)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def head(self, key: str) -> ObjectInfo:
        """Describe the object."""
        with s3_request("HeadObject", self._bucket, key):
            response = await self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        return _object_info(cast("Mapping[str, Any]", response), response["ContentLength"])

    @asynccontextmanager
    async def open_external(self, url: str, *, limit: int) -> AsyncIterator[Content]:
        """Read an object of a configured external bucket."""
        bucket, key = split_s3_url(url)
        access = next((access for access in self._external_buckets if access.covers(bucket)), None)
        if access is None or not key:
            raise AccessRefused("the bucket is not configured as a source")
        client = await self._external_client(access)
        body = _ObjectBody(client, bucket, key, external=True, retry_wait=self._retry_wait)
        async with body.opened(limit=limit) as content:
            yield content

    async def list(self, prefix: str, *, limit: int, after: str | None = None) -> Sequence[ObjectSummary]:
        """List objects in key order."""
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
        """List open uploads."""
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
        """Discard an open upload."""
        try:
            with s3_request("AbortMultipartUpload", self._bucket, key):
                await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except ObjectMissing:
            return

    # URLs and access

    async def presign_get(self, key: str, *, expires: int, filename: str | None = None, public: bool = True) -> str:
        """Return a URL that reads ``key``."""
        endpoint = self._settings.public_endpoint_url if public else None
        # A non-ASCII name grows ninefold in the URL: it is truncated, keeping its extension, until the URL fits.
        for name in truncated_names(filename):
            query = {"response-content-disposition": content_disposition(name)} if name else {}
            url = await self._presign("GET", self._http_url(key, endpoint), expires, query, {})
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
        """Return a URL that writes ``key``."""
        query = {"x-amz-checksum-sha256": base64_checksum(sha256)} if sha256 else {}
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["content-type"] = content_type
        if size is not None:
            headers["content-length"] = str(size)
        url = self._http_url(key, self._settings.public_endpoint_url)
        url = await self._presign("PUT", url, expires, query, headers)
        if len(url) > PRESIGNED_URL_LIMIT:
            raise BlobStoreError("the presigned URL would be too long")
        return url

    def url_of(self, key: str) -> str:
        """Return ``s3://bucket/key``."""
        return f"s3://{self._bucket}/{key}"

    def key_of(self, url: str) -> str | None:
        """Return the key of an ``s3://`` URL in our own bucket."""
        bucket, key = split_s3_url(url)
        return key if bucket == self._bucket and key else None

    async def ensure_bucket(self) -> None:
        """Create the bucket if it is missing and the settings allow it."""
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
        """Return if the store answers for our bucket."""
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
            session = aioboto3.Session(access.access_key, access.secret_key, region_name=access.region)
            client = await self._connect(
                session, access.endpoint, access.addressing, self._stack, anonymous=access.anonymous
            )
            # Two readers may have opened one each; both are closed at the end, the first is kept.
            self._external_clients.setdefault(access, client)
        return self._external_clients[access]

    def _http_url(self, key: str, endpoint: str | None = None) -> str:
        """Return the URL of a key, percent-encoded once, exactly as the signature covers it."""
        parts = urlsplit(endpoint or self._endpoint)
        base, path = parts.path.rstrip("/"), quote(key, safe="/~-._")
        if self._settings.addressing_style == "virtual":
            return f"{parts.scheme}://{self._bucket}.{parts.netloc}{base}/{path}"
        return f"{parts.scheme}://{parts.netloc}{base}/{self._bucket}/{path}"

    async def _credentials(self) -> Any:
        credentials = self._session.get_credentials()
        # The stubs miss that the driver's asynchronous session returns an awaitable here.
        if inspect.isawaitable(credentials):
            credentials = await credentials
        if credentials is None:
            raise DependencyUnavailable("there are no credentials for S3: set BUCKETLINE_S3_ACCESS_KEY or a role")
        with map_driver_errors():
            return await credentials.get_frozen_credentials()

    async def _sign_put(
        self, key: str, headers: Mapping[str, str], payload_sha256: str
    ) -> tuple[str, Mapping[str, str]]:
        url = self._http_url(key)
        request = AWSRequest("PUT", url, headers=dict(headers))
        request.context["payload_sha256"] = payload_sha256
        _KnownPayloadHash(await self._credentials(), "s3", self._settings.region).add_auth(request)
        return url, dict(request.headers.items())

    async def _presign(
        self, method: str, url: str, expires: int, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> str:
        """Sign a URL; the driver's own ``generate_presigned_url`` would demand the checksum as a header."""
        request = AWSRequest(method, url, headers=dict(headers), params=dict(query))
        S3SigV4QueryAuth(await self._credentials(), "s3", self._settings.region, expires=expires).add_auth(request)
        return str(request.url)


class _ObjectBody:
    """The bytes of one object; continues on the same content (``If-Match``) where a connection broke."""

    def __init__(
        self, client: "S3Client", bucket: str, key: str, *, retry_wait: wait_base, external: bool = False
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._external = external
        self._retry_wait = retry_wait
        self._stream: Any = None

    @asynccontextmanager
    async def opened(self, *, limit: int, byte_range: ByteRange | None = None) -> AsyncIterator[Content]:
        """Send the first request; :class:`ContentTooLarge` if more than ``limit`` bytes would come."""
        options = {} if byte_range is None else {"Range": f"bytes={byte_range[0]}-{byte_range[1]}"}
        try:
            response = await self._get(options)
            length, first, size = response["ContentLength"], 0, response["ContentLength"]
            if "ContentRange" in response:
                bounds, _, total = response["ContentRange"].removeprefix("bytes ").partition("/")
                first, size = int(bounds.partition("-")[0]), int(total)
            if length > limit:
                raise ContentTooLarge(limit)
            info = _object_info(response, size)
            async with aclosing(self._chunks(first, first + length, info.etag)) as chunks:
                yield Content(info, chunks)
        finally:
            self._close()

    async def _chunks(self, position: int, end: int, etag: str) -> AsyncGenerator[bytes, None]:
        while position < end:
            async for attempt in retrying(self._retry_wait, DependencyUnavailable):
                with attempt:
                    chunk = await self._read(position, end, etag)
            position += len(chunk)
            yield chunk

    async def _read(self, position: int, end: int, etag: str) -> bytes:
        try:
            if self._stream is None:
                await self._get({"Range": f"bytes={position}-{end - 1}", "IfMatch": f'"{etag}"'})
            with map_driver_errors():
                chunk = await self._stream.read(min(CHUNK_BYTES, end - position))
            if not chunk:
                raise DependencyUnavailable("S3 ended the content early")
        except ConditionFailed as error:
            raise ObjectChanged("the object changed while it was read") from error
        except DependencyUnavailable:
            self._close()
            raise
        return cast("bytes", chunk)

    async def _get(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        with s3_request("GetObject", self._bucket, self._key, external=self._external):
            response = await self._client.get_object(Bucket=self._bucket, Key=self._key, **options)
        self._stream = response["Body"]
        return cast("Mapping[str, Any]", response)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def content_disposition(filename: str) -> str:
    """Return a ``Content-Disposition`` for a name in any script, with a plain spelling for old clients."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename)
    if plain == filename:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def truncated_names(filename: str | None) -> Iterator[str | None]:
    """Yield the name, shorter and shorter versions of it that keep the extension, then None."""
    if filename:
        stem, dot, extension = filename.rpartition(".")
        if not dot or len(extension) > 16:
            stem, dot, extension = filename, "", ""
        for length in (255, 128, 64, 32, 16):
            yield f"{stem[:length]}{dot}{extension}"
    yield None


def _object_info(response: Mapping[str, Any], size: int) -> ObjectInfo:
    return ObjectInfo(
        size=size,
        etag=str(response["ETag"]).strip('"'),
        sha256=_whole_checksum(response.get("ChecksumSHA256"), response.get("ChecksumType")),
        content_type=response.get("ContentType"),
        last_modified=response["LastModified"],
    )


def _whole_checksum(encoded: str | None, kind: str | None) -> str | None:
    """Return the hex of a checksum over the whole content; None for a checksum of part checksums (``…-<parts>``)."""
    if encoded is None or kind == "COMPOSITE" or "-" in encoded:
        return None
    return b64decode(encoded).hex()
