"""Download what a stranger named, without becoming the stranger's way into our network.

The guard decides; this module makes sure that nothing happens past it:

* the URL is taken apart once, by the guard, and the client gets the parts;
* the only name resolution is ours, inside the connector: **every** answer must pass, and the socket goes to those
  very addresses, while Host and SNI stay those of the URL. No second look-up, so nothing to rebind;
* redirects are followed by hand, each one through the whole check;
* no proxies or credentials from the environment, no cookies, no credentials at all.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    InvalidURL,
    TCPConnector,
)
from aiohttp import ClientError as HttpClientError
from aiohttp.abc import ResolveResult

from bucketline.http.resolver import GuardedResolver, Resolver, SystemResolver
from bucketline_dedup.errors import AddressRefused, SourceError, SourceUnavailable, SourceUnreadable
from bucketline_dedup.http_stream import FetchLimits, HttpStream, check_transfer_coding, status_error
from bucketline_dedup.url_guard import CheckedUrl, GuardPolicy, check_redirect, check_url, refusals

__all__ = ["FetchLimits", "HttpFetcher", "HttpStream", "Resolver", "SystemResolver"]

READ_BUFFER_BYTES = 256 * 1024
MAX_HEADER_BYTES = 64 * 1024
"""Of one header: large policies, cookies and links are sent. aiohttp reads at most 128 of them."""
USER_AGENT = "bucketline-dedup/1"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class HttpFetcher:
    """Opens http(s) sources. One for the whole service; ``aclose`` it at the end.

    There is no limit on how many may be open at once: that is for the caller, who knows its memory.
    ``decode_content`` undoes content codings; ``tls`` replaces the system's trust store (a private CA).
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
        self._resolver = resolver or SystemResolver()
        self._tls = tls
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def open(self, url: str, *, max_bytes: int) -> AsyncIterator[HttpStream]:
        """The body behind ``url``, at most ``max_bytes`` of it.

        Raises :class:`SourceError`, here or while the stream is read. One attempt, but for resumed transfers:
        retrying what may succeed later is for the caller.
        """
        began = time.monotonic()

        async def request(headers: Mapping[str, str]) -> tuple[ClientResponse, CheckedUrl]:
            return await self._request(url, headers)

        try:
            async with asyncio.timeout(self._limits.total):
                response, final = await request({})
        except TimeoutError:
            raise SourceUnavailable("the source did not answer in time", detail="total time") from None
        try:
            if response.status == 206:
                raise SourceUnreadable("the source answered 206", detail="partial content was not asked for")
            spent = time.monotonic() - began
            stream = HttpStream(
                response,
                final,
                max_bytes=max_bytes,
                limits=self._limits,
                spent=spent,
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
        """The answer at the end of the redirects, with a status that carries content."""
        target = check_url(url, self._policy)
        for _ in range(self._policy.max_redirects + 1):
            response = await self._get(target, headers)
            try:
                if response.status not in _REDIRECTS:
                    if error := status_error(response.status, _retry_after(response)):
                        raise error
                    check_transfer_coding(response)
                    return response, target
                location = response.headers.get("Location")
                if location is None:
                    raise SourceUnreadable("the source redirects to nowhere")
                target = check_redirect(target, location, self._policy)
            except SourceError:
                response.close()
                raise
            response.close()
        raise SourceUnreadable("the source redirects too often", detail=str(target))

    async def _get(self, target: CheckedUrl, headers: Mapping[str, str]) -> ClientResponse:
        try:
            # the headers may drip as well, so the time is for all of them together
            async with asyncio.timeout(self._limits.connect + self._limits.read):
                return await self._client().get(target.to_yarl(), headers=headers, allow_redirects=False)
        except SourceError:
            raise
        except (HttpClientError, OSError, ValueError) as error:
            raise _as_source_error(error) from error

    def _client(self) -> ClientSession:
        if self._session is None:  # not in the constructor: it needs the running loop
            limits = self._limits
            self._session = ClientSession(
                connector=TCPConnector(
                    resolver=_GuardedResolver(self._resolver, self._policy),
                    use_dns_cache=False,
                    limit=0,
                    ssl=self._tls or True,
                ),
                cookie_jar=DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
                # reading is timed by the stream, which knows when it is the consumer that waits
                timeout=ClientTimeout(total=None, connect=limits.connect, sock_connect=limits.connect, sock_read=None),
            )
        return self._session


class _GuardedResolver(GuardedResolver):
    """As every guarded client's; a refusal is the error of a source."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        with refusals():
            return await super().resolve(host, port, family)


def _as_source_error(error: Exception) -> SourceError:
    detail = repr(error)
    if isinstance(error, ClientConnectorDNSError) and error.os_error.errno in _NO_SUCH_NAME:
        return AddressRefused(detail=detail)
    if isinstance(error, ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return SourceUnreadable("the TLS certificate of the source is not valid", detail=detail)
    if isinstance(error, InvalidURL):
        return AddressRefused(detail=detail)
    if isinstance(error, TimeoutError):
        return SourceUnavailable("the source did not answer in time", detail=detail)
    if isinstance(error, ClientResponseError | ValueError):
        return SourceUnavailable("the source did not answer with valid HTTP", detail=detail)
    return SourceUnavailable("the source cannot be reached", detail=detail)


def _retry_after(response: ClientResponse) -> float | None:
    """Seconds or an HTTP date; anything else is ignored."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
