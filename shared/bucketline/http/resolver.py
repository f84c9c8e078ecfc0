"""Names to addresses, for clients that connect to strangers.

:class:`GuardedResolver` is a connector's only source of addresses. Every answer must pass the guard, and the socket
goes to those very addresses, so there is no second look-up that could be answered differently.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from aiohttp.abc import AbstractResolver, ResolveResult

from bucketline.http.errors import AddressRefused
from bucketline.http.ssrf import GuardPolicy, check_address

MAX_ADDRESSES = 32
THREADS = 8


class Resolver(Protocol):
    """Turns a name into addresses. Raises :class:`OSError` (``gaierror``) when it cannot."""

    async def resolve(self, host: str, port: int) -> Sequence[str]: ...


class SystemResolver:
    """getaddrinfo on threads of its own, so that a DNS server that hangs does not stop other threads' work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class GuardedResolver(AbstractResolver):
    """All addresses allowed, or none returned: :class:`AddressRefused`."""

    def __init__(self, resolver: Resolver, policy: GuardPolicy) -> None:
        self._resolver = resolver
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family  # the connector's default: both are looked up
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
        """Nothing to give back: the resolver belongs to whoever made it."""
