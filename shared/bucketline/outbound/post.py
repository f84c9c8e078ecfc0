"""POST to an address that a producer named.

The guard decides; this module makes sure that nothing happens past it: the URL is taken apart once, every address that
the look-up gives must pass, and the socket goes to those very addresses. No redirects, no proxies or credentials from
the environment, no cookies; the answer's body is not read.
"""

import asyncio
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bucketline.outbound.errors import AddressRefused, PostFailed
from bucketline.outbound.guard import GuardPolicy, check_address, check_url

__all__ = ["AddressRefused", "PostFailed", "Poster"]

MAX_ADDRESSES = 32
USER_AGENT = "bucketline/1"


class Poster:
    """Posts JSON. One for the whole service, as an async context manager."""

    def __init__(self, policy: GuardPolicy, *, seconds: float, connections: int = 50) -> None:
        self._policy = policy
        self._seconds = seconds
        self._connections = connections
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = ClientSession(
            connector=TCPConnector(
                resolver=_GuardedResolver(self._policy), use_dns_cache=False, limit=self._connections, force_close=True
            ),
            cookie_jar=DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": USER_AGENT},
            timeout=ClientTimeout(total=self._seconds),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, body: Mapping[str, object], *, headers: Mapping[str, str] | None = None) -> int:
        """The status of the answer, whatever it is. Raises :class:`PostFailed` when there is none in time."""
        if self._session is None:
            raise RuntimeError("the poster has not been entered")
        try:
            target = check_url(url, self._policy)
            path, _, query = target.target.partition("?")
            address = URL.build(
                scheme=target.scheme, host=target.host, port=target.port, path=path, query_string=query, encoded=True
            )
            sent = {**(headers or {}), "Content-Type": "application/json"}
            async with self._session.post(
                address, data=orjson.dumps(body), headers=sent, allow_redirects=False
            ) as response:
                return response.status
        except AddressRefused as error:
            raise PostFailed(error.message, detail=error.detail) from error
        except TimeoutError as error:
            raise PostFailed("no answer in time", detail=repr(error)) from error
        except (ClientError, OSError, ValueError) as error:
            raise PostFailed("the address cannot be reached", detail=repr(error)) from error


class _GuardedResolver(AbstractResolver):
    """The connector's only source of addresses: all of them allowed, or none returned."""

    def __init__(self, policy: GuardPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family  # the connector's default: both are looked up
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        answers = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
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
        """Nothing to give back."""
