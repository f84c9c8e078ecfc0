"""PUT of bytes that we hold, without the driver's overhead: one signed request on a pooled connection.

The driver builds, hashes, validates and parses around every call, which costs several times the request itself for
small blobs. Here the payload hash is the SHA-256 that the caller already has; the store checks it twice, as the signed
payload hash and as the object's checksum.
"""

import asyncio
import io
import re
from base64 import b64encode
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

import aiohttp
from yarl import URL

from bucketline.blobs.s3_errors import NOT_STORED, Backoff, error_for, metric_outcome
from bucketline.blobs.store import ChecksumRefused, ObjectInfo, ObjectMissing
from bucketline.errors import DependencyUnavailable
from bucketline.observability.metrics import S3_SECONDS
from bucketline.observability.tracing import start_s3_span
from bucketline.settings import S3Settings

IDLE_SECONDS = 15.0
"""Connections unused for longer are closed by us, before a server or a load balancer does it under a request."""

_IN_ONE_PIECE = 256 * 1024
_CODE = re.compile(rb"<Code>(\w+)</Code>")


class Sign(Protocol):
    """Signs one PUT; returns its URL and headers, ready to be sent."""

    def __call__(
        self, key: str, query: Mapping[str, str], headers: Mapping[str, str], payload_sha256: str
    ) -> Awaitable[tuple[str, Mapping[str, str]]]: ...


class Look(Protocol):
    """HEAD of a key, with retries of its own."""

    def __call__(self, key: str) -> Awaitable[ObjectInfo]: ...


class ConnectionFailed(Exception):
    """No connection: the store saw nothing of the request."""


class ResponseLost(Exception):
    """The request went out and no reply came: it may have been carried out."""


@dataclass(frozen=True, slots=True)
class PutResponse:
    status: int
    code: str
    etag: str


class SignedPutClient:
    """The pooled session. Use as a context manager; safe for concurrent tasks."""

    def __init__(self, settings: S3Settings, sign: Sign, look: Look, backoff: Backoff) -> None:
        self._bucket = settings.bucket
        self._sign = sign
        self._look = look
        self._backoff = backoff
        self._under_way: dict[str, asyncio.Future[bool]] = {}
        # The pool's queue is here and not in the connector, where waiting would count against a request's deadline.
        self._slots = asyncio.Semaphore(settings.max_pool_connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(
                total=settings.connect_timeout_seconds + 2 * settings.read_timeout_seconds,
                sock_connect=settings.connect_timeout_seconds,
                sock_read=settings.read_timeout_seconds,
            ),
            middlewares=(_once,),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )

    async def put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        """As :meth:`bucketline.blobs.store.BlobStore.put_if_absent` says.

        Of our own concurrent callers for a key only one asks the store, which may take seconds to decide among many;
        the others wait for it, and try themselves if it failed.
        """
        while (first := self._under_way.get(key)) is not None:
            if await asyncio.shield(first):
                return False
        mine = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            written = await self._put_if_absent(key, data, sha256=sha256, content_type=content_type)
            mine.set_result(True)
            return written
        finally:
            del self._under_way[key]
            if not mine.done():
                mine.set_result(False)

    async def _put_if_absent(self, key: str, data: bytes, *, sha256: str, content_type: str) -> bool:
        """One caller's tries.

        A refusal leaves nothing behind and is simply tried again. After a lost reply the object is looked at first, and
        at most one more PUT is sent, whatever becomes of it.
        """
        headers = {"content-type": content_type, "if-none-match": "*", **_checksum(sha256)}
        lost, trouble = 0, ""
        async for _ in self._backoff.tries():
            if lost and await self._is_there(key, len(data), sha256):
                return False
            if lost > 1:
                break
            try:
                answer = await self._send("PutObject", key, {}, headers, data, sha256)
            except ConnectionFailed as error:
                trouble = str(error)
                continue
            except ResponseLost as error:
                lost, trouble = lost + 1, str(error)
                continue
            if answer.status == 200:
                return True
            trouble = answer.code or str(answer.status)
            if answer.status == 412:
                if lost and not await self._is_there(key, len(data), sha256):
                    continue
                return False
            if answer.status in NOT_STORED or answer.code == "RequestTimeout":
                continue
            if answer.status >= 500:
                lost += 1
                continue
            raise error_for(answer.status, answer.code, key)
        raise DependencyUnavailable(f"S3 did not confirm the write: {trouble}")

    async def put_part(self, key: str, upload_id: str, number: int, data: bytes, *, sha256: str) -> str:
        """Writes one part and returns its ETag. A part may be written again, so every fault is tried again."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        trouble = ""
        async for _ in self._backoff.tries():
            try:
                answer = await self._send("UploadPart", key, query, _checksum(sha256), data, sha256)
            except (ConnectionFailed, ResponseLost) as error:
                trouble = str(error)
                continue
            if answer.status == 200:
                return answer.etag
            trouble = answer.code or str(answer.status)
            if answer.status >= 500 or answer.status in NOT_STORED or answer.code == "RequestTimeout":
                continue
            raise error_for(answer.status, answer.code, key)
        raise DependencyUnavailable(f"S3 did not confirm a part: {trouble}")

    async def _is_there(self, key: str, size: int, sha256: str) -> bool:
        try:
            head = await self._look(key)
        except ObjectMissing:
            return False
        if head.size != size or head.sha256 not in (None, sha256):
            raise ChecksumRefused("the store holds other content at this key")
        return True

    async def _send(
        self,
        operation: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        data: bytes,
        payload_sha256: str,
    ) -> PutResponse:
        async with self._slots:
            # Signed once there is a connection to use: a signature is good for minutes only.
            url, signed = await self._sign(key, query, headers, payload_sha256)
            with start_s3_span(operation, self._bucket, key):
                return await self._exchange(operation, url, signed, data)

    async def _exchange(self, operation: str, url: str, signed: Mapping[str, str], data: bytes) -> PutResponse:
        # A BytesIO is sent piece by piece; bytes would be copied into the socket's buffer at once.
        body = data if len(data) <= _IN_ONE_PIECE else io.BytesIO(data)
        started, outcome = perf_counter(), "lost"
        try:
            async with self._session.put(
                URL(url, encoded=True), data=body, headers=signed, allow_redirects=False
            ) as response:
                text = b"" if response.status == 200 else await response.content.read(4096)
                outcome = metric_outcome(response.status)
                code = _CODE.search(text)
                return PutResponse(
                    response.status,
                    code.group(1).decode() if code else "",
                    response.headers.get("ETag", ""),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            outcome = "unreachable"
            raise ConnectionFailed("no connection") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ResponseLost(f"no reply ({type(error).__name__})") from error
        finally:
            S3_SECONDS.labels(operation, outcome).observe(perf_counter() - started)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps the HTTP client from silently repeating a PUT whose reused connection broke.

    Whether there is a second PUT is decided after a look at what became of the first.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ResponseLost(f"no reply ({type(error).__name__})") from error


def _checksum(sha256: str) -> dict[str, str]:
    return {"x-amz-checksum-sha256": b64encode(bytes.fromhex(sha256)).decode()}
