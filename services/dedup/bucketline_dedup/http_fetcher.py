"""Downloads URLs of producers without giving them access to the private network.

:mod:`bucketline.http.ssrf` checks every URL and redirect, and the session of :mod:`bucketline.http.client` connects
only to addresses that passed. Redirects are followed here, each one through all checks. No credentials are ever sent.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    InvalidURL,
)

from bucketline.http.client import Resolver, open_guarded_session
from bucketline.http.ssrf import AddressRefused, CheckedUrl, GuardPolicy, check_redirect, check_url
from bucketline_dedup.errors import SourceError, SourceNotFound, SourceUnavailable, SourceUnreadable
from bucketline_dedup.http_stream import FetchLimits, HttpStream

READ_BUFFER_BYTES = 256 * 1024
MAX_HEADER_BYTES = 64 * 1024
"""Maximum size of one header: servers send large policies, cookies and links. aiohttp reads at most 128 headers."""
USER_AGENT = "bucketline-dedup/1"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class HttpFetcher:
    """Opens http(s) sources. One for the whole service; use as a context manager.

    The number of concurrent downloads is limited by the caller, who knows its memory. ``decode_content`` undoes content
    codings; ``tls`` replaces the system's trust store (a private CA).
    """

    def __init__(
        self,
        policy: GuardPolicy,
        limits: FetchLimits | None = None,
        *,
        decode_content: bool = True,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits or FetchLimits()
        self._decode_content = decode_content
        self._resolver = resolver
        self._tls = tls
        self._stack = AsyncExitStack()
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        connect = self._limits.connect
        session = open_guarded_session(
            self._policy,
            # The stream times its reads itself, because it knows when its consumer is the one that waits.
            time_limits=ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=None),
            headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
            resolver=self._resolver,
            tls=self._tls,
            read_buffer_bytes=READ_BUFFER_BYTES,
            max_header_bytes=MAX_HEADER_BYTES,
        )
        self._session = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def open(self, url: str, *, max_bytes: int) -> AsyncIterator[HttpStream]:
        """Open the body behind ``url``, at most ``max_bytes`` of it.

        Raises :class:`SourceError` or :class:`AddressRefused`, here or while the stream is read. This is one attempt,
        except that broken transfers are resumed; retrying later is up to the caller.
        """
        started = time.monotonic()

        async def request(headers: Mapping[str, str]) -> ClientResponse:
            return (await self._request(url, headers))[0]

        try:
            async with asyncio.timeout(self._limits.total):
                response, final = await self._request(url, {})
        except TimeoutError:
            raise SourceUnavailable("the source did not answer in time", detail="total time") from None
        try:
            if response.status == 206:
                raise SourceUnreadable("the source answered 206", detail="partial content was not asked for")
            stream = HttpStream(
                response,
                final,
                max_bytes=max_bytes,
                limits=self._limits,
                elapsed=time.monotonic() - started,
                request=request,
                decode_content=self._decode_content,
            )
        except SourceError:
            response.close()
            raise
        try:
            yield stream
        finally:
            stream.close()

    async def _request(self, url: str, headers: Mapping[str, str]) -> tuple[ClientResponse, CheckedUrl]:
        """Follow redirects; return the response with content and its URL."""
        target = check_url(url, self._policy)
        for _ in range(self._limits.max_redirects + 1):
            response = await self._get(target, headers)
            try:
                if response.status not in _REDIRECTS:
                    _check_response(response)
                    return response, target
                location = response.headers.get("Location")
                if location is None:
                    raise SourceUnreadable("the source sent a redirect without a Location header")
                target = check_redirect(target, location, self._policy)
            except (SourceError, AddressRefused):
                response.close()
                raise
            response.close()
        raise SourceUnreadable("the source redirects too often", detail=str(target))

    async def _get(self, target: CheckedUrl, headers: Mapping[str, str]) -> ClientResponse:
        if self._session is None:
            raise RuntimeError("HttpFetcher has not been entered")
        try:
            # Headers may arrive slowly too, so the timeout is for all of them together.
            async with asyncio.timeout(self._limits.connect + self._limits.read):
                return await self._session.get(target.to_yarl(), headers=headers, allow_redirects=False)
        except (ClientError, OSError, ValueError) as error:
            raise _error_for_exception(error) from error


def _check_response(response: ClientResponse) -> None:
    """Raise the error that the status means, if it means one."""
    status, detail = response.status, f"status {response.status}"
    if status in {404, 410}:
        raise SourceNotFound(detail=detail)
    if status >= 500 or status in {408, 416, 425, 429}:
        raise SourceUnavailable(
            f"the source answered {status}", detail=detail, retry_after_seconds=_retry_after(response)
        )
    if status not in {200, 203, 206}:
        raise SourceUnreadable(f"the source answered {status}", detail=detail)
    # aiohttp undoes chunked only; other transfer codings were not requested.
    transfer = response.headers.get("Transfer-Encoding", "").strip().lower()
    if transfer not in {"", "chunked", "identity"}:
        raise SourceUnreadable("the source sent a transfer encoding that was not asked for", detail=repr(transfer))


def _error_for_exception(error: Exception) -> SourceError | AddressRefused:
    detail = repr(error)
    if isinstance(error, InvalidURL) or (
        isinstance(error, ClientConnectorDNSError) and error.os_error.errno in _NO_SUCH_NAME
    ):
        return AddressRefused(detail=detail)
    if isinstance(error, ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return SourceUnreadable("the TLS certificate of the source is not valid", detail=detail)
    if isinstance(error, TimeoutError):
        return SourceUnavailable("the source did not answer in time", detail=detail)
    if isinstance(error, ClientResponseError | ValueError):
        return SourceUnavailable("the source did not answer with valid HTTP", detail=detail)
    return SourceUnavailable("the source cannot be reached", detail=detail)


def _retry_after(response: ClientResponse) -> float | None:
    """Return the seconds of ``Retry-After``, which may be an HTTP date; None if it is neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
