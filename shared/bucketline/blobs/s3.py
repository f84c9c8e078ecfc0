"""S3 through its driver, wrapped once.

This is the only module that imports aioboto3 and what is under it, which is why it is longer than others. How an
upload, a copy, a read or a plain PUT works is in ``s3_multipart``, ``s3_read`` and ``s3_wire``, which know no driver.
Any S3 API will do that knows ``If-None-Match: *`` and SHA-256 checksums.
"""

import inspect
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import quote, urlencode

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ParamValidationError,
)

from bucketline.blobs.s3_errors import Backoff, error_for, metric_outcome
from bucketline.blobs.s3_fast_put import SignedPutClient
from bucketline.blobs.s3_multipart import Part, ServerSideCopy, StreamedUpload, streamed_upload
from bucketline.blobs.s3_read import Reply, reading
from bucketline.blobs.s3_urls import S3UrlBuilder, content_disposition, split_s3_url, truncated_names
from bucketline.blobs.store import (
    PRESIGNED_URL_LIMIT,
    AccessRefused,
    BlobStoreError,
    ByteRange,
    Content,
    ExternalBucket,
    MultipartUpload,
    ObjectInfo,
    ObjectMissing,
    ObjectSummary,
    OpenUpload,
)
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.observability.metrics import S3_SECONDS
from bucketline.observability.tracing import start_s3_span
from bucketline.settings import S3Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

    from bucketline.blobs.store import BlobStore

    def _conforms(store: "S3BlobStore") -> BlobStore:
        return store


PAGE = 1000
COPY_AT_ONCE = 1024**3
"""S3 allows 5 GiB; a store that is silent while it copies would run into the read timeout before that."""
COPY_PART = 256 * 1024**2
DRIVER_ATTEMPTS = 3


class _HashedPayload(S3SigV4Auth):
    """Signs with a payload hash that is known, rather than reading the body again."""

    def payload(self, request: AWSRequest) -> str:
        return cast("str", request.context["payload_sha256"])


class S3BlobStore:
    """Implements :class:`~bucketline.blobs.store.BlobStore`. Made in ``app.py``, entered there.

    Without keys in the settings the driver's default chain supplies and refreshes them (environment, web identity,
    instance role). ``copy_at_once`` and ``copy_part`` are parameters so that tests can copy in parts without gigabytes.
    """

    def __init__(
        self,
        settings: S3Settings,
        *,
        foreign: Sequence[ExternalBucket] = (),
        backoff: Backoff | None = None,
        copy_at_once: int = COPY_AT_ONCE,
        copy_part: int = COPY_PART,
    ) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._foreign = tuple(foreign)
        self._foreign_clients: dict[ExternalBucket, S3Client] = {}
        self._backoff = backoff or Backoff()
        self._copier = ServerSideCopy(self, self._backoff, at_once=copy_at_once, part_size=copy_part)
        self._stack = AsyncExitStack()
        secret = settings.secret_key.get_secret_value() if settings.secret_key else None
        self._session = aioboto3.Session(settings.access_key, secret, region_name=settings.region)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._client = await self._open(
                self._session, self._settings.endpoint_url, self._settings.addressing_style, stack
            )
            virtual = self._settings.addressing_style == "virtual"
            inside = self._client.meta.endpoint_url
            self._inside = S3UrlBuilder(inside, self._bucket, virtual)
            self._public = S3UrlBuilder(self._settings.public_endpoint_url or inside, self._bucket, virtual)
            self._wire = await stack.enter_async_context(
                SignedPutClient(self._settings, self._sign_put, self.head, self._backoff),
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._foreign_clients.clear()
        await self._stack.aclose()

    # Writing

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        return await self._wire.put_if_absent(key, data, sha256=sha256, content_type=content_type)

    def upload(self, staging_key: str) -> AbstractAsyncContextManager[MultipartUpload]:
        return streamed_upload(lambda: StreamedUpload(self, self._copier, staging_key, self._settings.part_size_bytes))

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
        return await self._copier.copy(
            source_key, key, size=size, content_type=content_type, sha256=sha256, source_etag=source_etag
        )

    async def delete(self, keys: Collection[str]) -> None:
        rows = sorted(keys)
        for start in range(0, len(rows), PAGE):
            page = rows[start : start + PAGE]
            if len(page) == 1:
                await self.delete_one(page[0])
                continue
            with _call("DeleteObjects", self._bucket):
                answer = await self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in page], "Quiet": True}
                )
            if answer.get("Errors"):
                raise DependencyUnavailable("S3 did not delete some objects")

    async def delete_one(self, key: str) -> None:
        with _call("DeleteObject", self._bucket, key):
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    # Reading

    async def get(self, key: str, *, limit: int, range: ByteRange | None = None) -> AsyncGenerator[bytes, None]:  # noqa: A002
        fetch = _Fetch(self._client, self._bucket, key)
        async with reading(fetch, span=range, limit=limit, backoff=self._backoff) as content:
            async for chunk in content.chunks:
                yield chunk

    async def read(self, key: str, *, limit: int) -> bytes:
        async with aclosing(self.get(key, limit=limit)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def head(self, key: str) -> ObjectInfo:
        with _call("HeadObject", self._bucket, key):
            answer = await self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        return _head(cast("Mapping[str, Any]", answer), answer["ContentLength"])

    @asynccontextmanager
    async def open_foreign(self, url: str, *, limit: int) -> AsyncIterator[Content]:
        bucket, key = split_s3_url(url)
        access = next((access for access in self._foreign if access.covers(bucket)), None)
        if access is None or not key:
            raise AccessRefused("the bucket is not configured as a source")
        fetch = _Fetch(await self._foreign_client(access), bucket, key, foreign=True)
        async with reading(fetch, span=None, limit=limit, backoff=self._backoff) as content:
            yield content

    async def list(self, prefix: str, *, limit: int, after: str | None = None) -> Sequence[ObjectSummary]:
        rows: list[ObjectSummary] = []
        last = after or ""
        while len(rows) < limit:
            with _call("ListObjectsV2", self._bucket):
                answer = await self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=prefix, MaxKeys=min(PAGE, limit - len(rows)), StartAfter=last
                )
            found = answer.get("Contents", [])
            rows += [
                ObjectSummary(row["Key"], row["Size"], row["ETag"].strip('"'), row["LastModified"]) for row in found
            ]
            if not answer.get("IsTruncated") or not found:
                break
            last = rows[-1].key
        return rows

    # Multipart uploads, one call each

    async def put_part(self, key: str, upload_id: str, number: int, data: bytes, *, sha256: str) -> str:
        return await self._wire.put_part(key, upload_id, number, data, sha256=sha256)

    async def start_multipart(self, key: str, *, content_type: str, checksums: bool) -> str:
        with _call("CreateMultipartUpload", self._bucket, key):
            if checksums:
                answer = await self._client.create_multipart_upload(
                    Bucket=self._bucket, Key=key, ContentType=content_type, ChecksumAlgorithm="SHA256"
                )
            else:
                answer = await self._client.create_multipart_upload(
                    Bucket=self._bucket, Key=key, ContentType=content_type
                )
            return answer["UploadId"]

    async def copy_part(
        self, source_key: str, key: str, upload_id: str, number: int, *, first: int, last: int, source_etag: str
    ) -> str:
        with _call("UploadPartCopy", self._bucket, key):
            answer = await self._client.upload_part_copy(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                CopySource={"Bucket": self._bucket, "Key": source_key},
                CopySourceRange=f"bytes={first}-{last}",
                CopySourceIfMatch=f'"{source_etag}"',
            )
            return answer["CopyPartResult"]["ETag"]

    async def copy_object(self, source_key: str, key: str, *, source_etag: str, content_type: str) -> None:
        with _call("CopyObject", self._bucket, key):
            await self._client.copy_object(
                Bucket=self._bucket,
                Key=key,
                CopySource={"Bucket": self._bucket, "Key": source_key},
                CopySourceIfMatch=f'"{source_etag}"',
                IfNoneMatch="*",
                MetadataDirective="REPLACE",
                ContentType=content_type,
                ChecksumAlgorithm="SHA256",
            )

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part], *, if_absent: bool) -> None:
        rows: list[Any] = [
            {"PartNumber": part.number, "ETag": part.etag}
            | ({"ChecksumSHA256": b64encode(bytes.fromhex(part.sha256)).decode()} if part.sha256 else {})
            for part in parts
        ]
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        with _call("CompleteMultipartUpload", self._bucket, key):
            await self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": rows}, **condition
            )

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        try:
            with _call("AbortMultipartUpload", self._bucket, key):
                await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except ObjectMissing:
            return

    async def list_multipart(self, prefix: str, *, limit: int = PAGE) -> Sequence[OpenUpload]:
        rows: list[OpenUpload] = []
        marker: dict[str, Any] = {}
        while len(rows) < limit:
            with _call("ListMultipartUploads", self._bucket):
                answer = await self._client.list_multipart_uploads(
                    Bucket=self._bucket, Prefix=prefix, MaxUploads=min(PAGE, limit - len(rows)), **marker
                )
            found = answer.get("Uploads", [])
            rows += [OpenUpload(row["Key"], row["UploadId"], row["Initiated"]) for row in found]
            if not answer.get("IsTruncated") or not found:
                break
            marker = {"KeyMarker": rows[-1].key, "UploadIdMarker": rows[-1].upload_id}
        return rows[:limit]

    # Addresses and access

    async def presign_get(self, key: str, *, expires: int, filename: str | None = None, public: bool = True) -> str:
        address = self._public if public else self._inside
        # A name in another script grows ninefold in the URL: it is cut, keeping its extension, until the URL fits.
        for name in truncated_names(filename):
            query = {"response-content-disposition": content_disposition(name)} if name else {}
            url = await self._presign("GET", address, key, expires, query, {})
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
        query = {"x-amz-checksum-sha256": b64encode(bytes.fromhex(sha256)).decode()} if sha256 else {}
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["content-type"] = content_type
        if size is not None:
            headers["content-length"] = str(size)
        url = await self._presign("PUT", self._public, key, expires, query, headers)
        if len(url) > PRESIGNED_URL_LIMIT:
            raise BlobStoreError("the presigned URL would be too long")
        return url

    def url_of(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def key_of(self, url: str) -> str | None:
        bucket, key = split_s3_url(url)
        return key if bucket == self._bucket and key else None

    async def ensure_bucket(self) -> None:
        if await self._bucket_exists():
            return
        if not self._settings.create_bucket:
            raise DependencyUnavailable(f"there is no bucket {self._bucket}, and the settings do not allow making it")
        region = self._settings.region
        where: dict[str, Any] = (
            {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        try:
            with _call("CreateBucket", self._bucket):
                await self._client.create_bucket(Bucket=self._bucket, **where)
        except BucketlineError:
            # Two services that start together both try.
            if not await self._bucket_exists():
                raise

    async def ping(self) -> None:
        if not await self._bucket_exists():
            raise DependencyUnavailable(f"there is no bucket {self._bucket}")

    async def _bucket_exists(self) -> bool:
        try:
            with _call("HeadBucket", self._bucket):
                await self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing:
            return False
        return True

    async def _open(
        self,
        session: aioboto3.Session,
        endpoint: str | None,
        addressing: Literal["path", "virtual"],
        stack: AsyncExitStack,
        *,
        anonymous: bool = False,
    ) -> "S3Client":
        config = AioConfig(
            signature_version=UNSIGNED if anonymous else "s3v4",
            s3={"addressing_style": addressing},
            max_pool_connections=self._settings.max_pool_connections,
            connect_timeout=self._settings.connect_timeout_seconds,
            read_timeout=self._settings.read_timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": DRIVER_ATTEMPTS},
            # Checksums of ours are given where they matter; the driver's own would hash each body once more.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return await stack.enter_async_context(session.client("s3", endpoint_url=endpoint, config=config))

    async def _foreign_client(self, access: ExternalBucket) -> "S3Client":
        if access not in self._foreign_clients:
            session = aioboto3.Session(access.access_key, access.secret_key, region_name=access.region)
            client = await self._open(
                session, access.endpoint, access.addressing, self._stack, anonymous=access.anonymous
            )
            # Two readers may have opened one each; both are closed at the end, the first is kept.
            self._foreign_clients.setdefault(access, client)
        return self._foreign_clients[access]

    async def _credentials(self) -> Any:
        found = self._session.get_credentials()
        # The stubs miss that the driver's asynchronous session returns an awaitable here.
        resolved = await found if inspect.isawaitable(found) else found
        if resolved is None:
            raise DependencyUnavailable("there are no credentials for S3")
        with _translated("", foreign=False):
            return await resolved.get_frozen_credentials()

    async def _sign_put(
        self, key: str, query: Mapping[str, str], headers: Mapping[str, str], payload_sha256: str
    ) -> tuple[str, Mapping[str, str]]:
        url = self._inside.url(key)
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        request = AWSRequest("PUT", url, headers=dict(headers))
        request.context["payload_sha256"] = payload_sha256
        _HashedPayload(await self._credentials(), "s3", self._settings.region).add_auth(request)
        return url, dict(request.headers.items())

    async def _presign(
        self,
        method: str,
        address: S3UrlBuilder,
        key: str,
        expires: int,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> str:
        request = AWSRequest(method, address.url(key), headers=dict(headers), params=dict(query))
        S3SigV4QueryAuth(await self._credentials(), "s3", self._settings.region, expires=expires).add_auth(request)
        return str(request.url)


class _Fetch:
    """GETs of one object."""

    def __init__(self, client: "S3Client", bucket: str, key: str, *, foreign: bool = False) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._foreign = foreign

    async def __call__(self, span: str | None, etag: str | None) -> Reply:
        options: dict[str, Any] = {}
        if span is not None:
            options["ByteRange"] = span
        if etag is not None:
            options["IfMatch"] = f'"{etag}"'
        with _call("GetObject", self._bucket, self._key, foreign=self._foreign):
            answer = await self._client.get_object(Bucket=self._bucket, Key=self._key, **options)
        length, first, size = answer["ContentLength"], 0, answer["ContentLength"]
        if "ContentRange" in answer:
            bounds, _, total = answer["ContentRange"].removeprefix("bytes ").partition("/")
            first, size = int(bounds.partition("-")[0]), int(total)
        head = _head(cast("Mapping[str, Any]", answer), size)
        return Reply(head, first, length, _Body(answer["Body"]))


class _Body:
    """The driver's stream with our errors."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def read(self, most: int) -> bytes:
        with _translated("", foreign=False):
            return cast("bytes", await self._raw.read(most))

    def close(self) -> None:
        self._raw.close()


@contextmanager
def _call(operation: str, bucket: str, key: str = "", *, foreign: bool = False) -> Iterator[None]:
    """Times one call of the driver and translates its errors. ``operation`` is the S3 API's name for it."""
    started, outcome = perf_counter(), "ok"
    try:
        with start_s3_span(operation, bucket, key), _translated(key, foreign=foreign):
            yield
    except BucketlineError as error:
        outcome = _outcome(error.__cause__)
        raise
    finally:
        S3_SECONDS.labels(operation, outcome).observe(perf_counter() - started)


def _outcome(cause: BaseException | None) -> str:
    if isinstance(cause, ClientError):
        return metric_outcome(int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)))
    never_sent = (EndpointConnectionError, ConnectTimeoutError, aiohttp.ClientConnectorError)
    return "unreachable" if isinstance(cause, never_sent) else "lost"


@contextmanager
def _translated(key: str, *, foreign: bool) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        raise error_for(status, str(error.response.get("Error", {}).get("Code", "")), key, foreign=foreign) from error
    except ParamValidationError:
        raise
    except (BotoCoreError, HTTPClientError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise DependencyUnavailable(f"S3 did not answer: {type(error).__name__}") from error


def _head(answer: Mapping[str, Any], size: int) -> ObjectInfo:
    return ObjectInfo(
        size=size,
        etag=str(answer["ETag"]).strip('"'),
        sha256=_whole_checksum(answer.get("ChecksumSHA256"), answer.get("ChecksumType")),
        content_type=answer.get("ContentType"),
        last_modified=answer["LastModified"],
    )


def _whole_checksum(encoded: str | None, kind: str | None) -> str | None:
    """The hex of a checksum over the whole content; a checksum of part checksums (``…-<parts>``) is none."""
    if encoded is None or kind == "COMPOSITE" or "-" in encoded:
        return None
    return b64decode(encoded).hex()
