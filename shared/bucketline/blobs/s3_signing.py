"""Requests that are signed here and not by the driver: presigned URLs and the conditional PutObject.

PutObject is one signed request on a pooled connection. The driver builds, hashes, validates and parses around every
call; for a 10 kB blob that costs about four times the request itself (464 against 2,064 per second). Here the payload
hash is the SHA-256 that the caller already has; the store checks it twice, as the signed payload hash and as the
object's checksum.
"""

import asyncio
import inspect
import io
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit

import aioboto3
import aiohttp
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from tenacity.wait import wait_base
from yarl import URL

from bucketline.blobs.s3_errors import (
    NOT_WRITTEN_STATUSES,
    ConditionFailed,
    NotWritten,
    error_for,
    map_driver_errors,
    metric_outcome,
    retrying,
)
from bucketline.blobs.store import ChecksumRefused, ObjectInfo, ObjectMissing
from bucketline.errors import DependencyUnavailable
from bucketline.observability.metrics import S3_SECONDS
from bucketline.observability.tracing import start_s3_span
from bucketline.settings import S3Settings
from bucketline.tls import client_context

KEEPALIVE_SECONDS = 15.0
"""Idle connections are closed after this time, before a server or a load balancer does it during a request."""

_MAX_SINGLE_WRITE = 256 * 1024
_CODE = re.compile(rb"<Code>(\w+)</Code>")


class _KnownPayloadHash(S3SigV4Auth):
    """Signs with a given payload hash instead of hashing the body again."""

    def payload(self, request: AWSRequest) -> str:
        return cast("str", request.context["payload_sha256"])


class UrlSigner:
    """Signs requests that the driver does not send; ``endpoint`` is the driver's."""

    def __init__(self, session: aioboto3.Session, settings: S3Settings, endpoint: str) -> None:
        self._session = session
        self._settings = settings
        self._endpoint = endpoint

    def _http_url(self, key: str, endpoint: str | None = None) -> str:
        """Return the URL of a key, percent-encoded once, exactly as the signature covers it."""
        parts = urlsplit(endpoint or self._endpoint)
        base, bucket, path = parts.path.rstrip("/"), self._settings.bucket, quote(key, safe="/~-._")
        if self._settings.addressing_style == "virtual":
            return f"{parts.scheme}://{bucket}.{parts.netloc}{base}/{path}"
        return f"{parts.scheme}://{parts.netloc}{base}/{bucket}/{path}"

    async def _credentials(self) -> Any:
        credentials = self._session.get_credentials()
        # The stubs miss that the driver's asynchronous session returns an awaitable here.
        if inspect.isawaitable(credentials):
            credentials = await credentials
        if credentials is None:
            raise DependencyUnavailable("there are no credentials for S3: set BUCKETLINE_S3_ACCESS_KEY or a role")
        with map_driver_errors():
            return await credentials.get_frozen_credentials()

    async def sign_put(
        self, key: str, headers: Mapping[str, str], payload_sha256: str
    ) -> tuple[str, Mapping[str, str]]:
        """Return the URL and the headers of a PUT."""
        url = self._http_url(key)
        request = AWSRequest("PUT", url, headers=dict(headers))
        request.context["payload_sha256"] = payload_sha256
        _KnownPayloadHash(await self._credentials(), "s3", self._settings.region).add_auth(request)
        return url, dict(request.headers.items())

    async def presign(
        self,
        method: str,
        key: str,
        endpoint: str | None,
        expires: int,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Return a URL; the driver's own ``generate_presigned_url`` would demand the checksum as a header."""
        url = self._http_url(key, endpoint)
        request = AWSRequest(method, url, headers=dict(headers or {}), params=dict(query or {}))
        S3SigV4QueryAuth(await self._credentials(), "s3", self._settings.region, expires=expires).add_auth(request)
        return str(request.url)


class PutUnconfirmed(DependencyUnavailable):
    """The request was sent and no usable response arrived: the object may have been written."""


class SignedPutClient:
    """Sends PutObject requests. Use as a context manager; safe for concurrent tasks."""

    def __init__(
        self,
        settings: S3Settings,
        *,
        signer: UrlSigner,
        head: Callable[[str], Awaitable[ObjectInfo]],
        retry_wait: wait_base,
    ) -> None:
        self._bucket = settings.bucket
        self._signer = signer
        self._head = head
        self._retry_wait = retry_wait
        self._in_flight: dict[str, asyncio.Future[bool]] = {}
        # The queue for connections is here and not in the connector, where it would count against the timeouts.
        self._slots = asyncio.Semaphore(settings.max_pool_connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEPALIVE_SECONDS,
                ssl=client_context("BUCKETLINE_S3_SSL", settings.ssl_cafile),
            ),
            timeout=aiohttp.ClientTimeout(
                total=settings.connect_timeout_seconds + 2 * settings.read_timeout_seconds,
                sock_connect=settings.connect_timeout_seconds,
                sock_read=settings.read_timeout_seconds,
            ),
            middlewares=(_prevent_resend,),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        """Implement :meth:`bucketline.blobs.s3.S3BlobStore.put_if_absent`.

        Of the concurrent callers for a key in this process only one asks the store, which may take seconds to decide
        among many; the others wait for it, and try themselves if it failed.
        """
        while (first := self._in_flight.get(key)) is not None:
            if await asyncio.shield(first):
                return False
        done = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            written = await self._put_with_retries(key, data, sha256=sha256, content_type=content_type)
            done.set_result(True)
            return written
        finally:
            del self._in_flight[key]
            if not done.done():
                done.set_result(False)

    async def _put_with_retries(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        """Retry what left nothing behind; after a lost response look at the object first, and send one more PUT."""
        unconfirmed = 0
        async for attempt in retrying(self._retry_wait, NotWritten, PutUnconfirmed):
            with attempt:
                if unconfirmed and await self._is_stored(key, len(data), sha256):
                    return False
                if unconfirmed > 1:
                    raise DependencyUnavailable("S3 did not confirm the write")
                try:
                    await self._send(key, data, sha256=sha256, content_type=content_type)
                except PutUnconfirmed:
                    unconfirmed += 1
                    raise
                except ConditionFailed as error:
                    if unconfirmed and not await self._is_stored(key, len(data), sha256):
                        raise NotWritten("S3 reported an object that does not exist") from error
                    return False
        return True

    async def _is_stored(self, key: str, size: int, sha256: str) -> bool:
        try:
            info = await self._head(key)
        except ObjectMissing:
            return False
        if info.size != size or info.sha256 not in (None, sha256):
            raise ChecksumRefused("the store holds other content at this key")
        return True

    async def _send(self, key: str, data: bytes, *, sha256: str, content_type: str) -> None:
        checksum = b64encode(bytes.fromhex(sha256)).decode()
        headers = {"content-type": content_type, "if-none-match": "*", "x-amz-checksum-sha256": checksum}
        async with self._slots:
            # Signed once a connection is available: a signature is valid for minutes only.
            url, signed = await self._signer.sign_put(key, headers, sha256)
            with start_s3_span("PutObject", self._bucket, key):
                status, code = await self._exchange(url, signed, data)
        if status == 200:
            return
        error = error_for(status, code, key)
        if status >= 500 and status not in NOT_WRITTEN_STATUSES:
            raise PutUnconfirmed(f"S3 did not confirm the write: {code or status}") from error
        raise error

    async def _exchange(self, url: str, headers: Mapping[str, str], data: bytes) -> tuple[int, str]:
        """Return the status and S3's error code of the response."""
        # A BytesIO is sent piece by piece; bytes would be copied into the socket's buffer at once.
        body = data if len(data) <= _MAX_SINGLE_WRITE else io.BytesIO(data)
        started, outcome = perf_counter(), "lost"
        try:
            async with self._session.put(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                text = b"" if response.status == 200 else await response.content.read(4096)
                outcome = metric_outcome(response.status)
                code = _CODE.search(text)
                return response.status, code.group(1).decode() if code else ""
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            outcome = "unreachable"
            raise NotWritten("S3 cannot be reached: no connection") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PutUnconfirmed(f"S3 did not answer: {type(error).__name__}") from error
        finally:
            S3_SECONDS.labels("PutObject", outcome).observe(perf_counter() - started)


async def _prevent_resend(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from silently repeating a PUT whose reused connection broke."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise PutUnconfirmed(f"S3 did not answer: {type(error).__name__}") from error


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
