"""HTTP clients for URLs that a producer named.

:mod:`bucketline.http.ssrf` decides; this module makes sure that nothing bypasses it. The client gets the checked parts
of the URL. Names are resolved once, inside the connector: **every** address must be allowed, and the socket connects
to those very addresses, so there is no second lookup that could be answered differently. Clients follow no redirects
by themselves, use no proxies or credentials from the environment, and keep no cookies.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Protocol, Self

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from bucketline.errors import BucketlineError
from bucketline.http.ssrf import AddressRefused, GuardPolicy, check_address, check_url

MAX_ADDRESSES = 32
RESOLVER_THREADS = 8
USER_AGENT = "bucketline/1"


class Resolver(Protocol):
    """Resolves a name to addresses. Raises :class:`OSError` (``gaierror``) if it cannot."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of the host."""
        ...


class SystemResolver:
    """Calls getaddrinfo on its own threads, so that a hanging DNS server does not block the default executor."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of the host."""
        rows = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in rows))

    def close(self) -> None:
        """End the idle threads; one that waits for a DNS server ends after its lookup."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedResolver(AbstractResolver):
    """Returns all addresses of a name if every one is allowed, else raises :class:`AddressRefused`."""

    def __init__(self, resolver: Resolver, policy: GuardPolicy) -> None:
        self._resolver = resolver
        self._policy = policy

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002  # aiohttp's signature; both are resolved
    ) -> list[ResolveResult]:
        """Return the checked addresses of the host."""
        answers = await self._resolver.resolve(host, port)
        if not 0 < len(answers) <= MAX_ADDRESSES:
            raise AddressRefused(detail=f"{len(answers)} addresses for {host!r}")
        addresses = [check_address(answer, self._policy, host=host) for answer in answers]
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Do nothing: who created the resolver closes it."""


@asynccontextmanager
async def open_guarded_session(
    policy: GuardPolicy,
    *,
    time_limits: ClientTimeout,
    headers: Mapping[str, str],
    resolver: Resolver | None = None,
    max_connections: int = 0,
    force_close: bool = False,
    tls: ssl.SSLContext | None = None,
    read_buffer_bytes: int = 64 * 1024,
    max_header_bytes: int = 8190,
) -> AsyncIterator[ClientSession]:
    """Open a session whose connections only reach addresses that ``policy`` allows.

    Request only URLs from :func:`~bucketline.http.ssrf.check_url`, with ``allow_redirects=False``. ``tls`` replaces
    the system's trust store (a private CA); 0 ``max_connections`` means no limit.
    """
    system = SystemResolver()
    try:
        async with ClientSession(
            connector=TCPConnector(
                resolver=GuardedResolver(resolver or system, policy),
                use_dns_cache=False,
                limit=max_connections,
                force_close=force_close,
                ssl=tls or True,
            ),
            cookie_jar=DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=read_buffer_bytes,
            max_field_size=max_header_bytes,
            headers=headers,
            timeout=time_limits,
        ) as session:
            yield session
    finally:
        system.close()


class PostFailed(BucketlineError):
    """No response arrived. ``message`` is for the receiver's owner; ``detail`` is for our logs only."""

    retryable = False

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail[:500]


class WebhookClient:
    """Posts JSON. One for the whole service; use as a context manager."""

    def __init__(
        self, policy: GuardPolicy, *, seconds: float, connections: int = 50, connect_seconds: float | None = None
    ) -> None:
        self._policy = policy
        self._seconds = seconds
        self._connect_seconds = connect_seconds
        self._connections = connections
        self._stack = AsyncExitStack()
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        session = open_guarded_session(
            self._policy,
            time_limits=ClientTimeout(total=self._seconds),
            headers={"User-Agent": USER_AGENT},
            max_connections=self._connections,
            force_close=True,
        )
        self._session = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def post(
        self,
        url: str,
        body: Mapping[str, object] | bytes,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> int:
        """Return the status of the response, whatever it is; its body is not read.

        ``body`` is encoded unless it is JSON already; ``seconds`` replaces the time limit of the client.
        Raises :class:`PostFailed` if the URL is refused or no response arrives in time.
        """
        if self._session is None:
            raise RuntimeError("WebhookClient has not been entered")
        try:
            address = check_url(url, self._policy).to_yarl()
            sent = {**(headers or {}), "Content-Type": "application/json"}
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            limit = ClientTimeout(total=seconds or self._seconds, sock_connect=self._connect_seconds)
            async with self._session.post(
                address, data=data, headers=sent, allow_redirects=False, timeout=limit
            ) as response:
                return response.status
        except AddressRefused as error:
            raise PostFailed(error.message, detail=error.detail) from error
        except TimeoutError as error:
            raise PostFailed("no answer in time", detail=repr(error)) from error
        except (ClientError, OSError, ValueError) as error:
            raise PostFailed("the address cannot be reached", detail=repr(error)) from error
