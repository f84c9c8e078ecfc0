"""POST to an address that a producer named.

The guard decides; this module makes sure that nothing happens past it: the URL is taken apart once, every address that
the look-up gives must pass, and the socket goes to those very addresses. No redirects, no proxies or credentials from
the environment, no cookies; the answer's body is not read.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from bucketline.http.errors import AddressRefused, PostFailed
from bucketline.http.resolver import GuardedResolver, SystemResolver
from bucketline.http.ssrf import GuardPolicy, check_url

__all__ = ["AddressRefused", "PostFailed", "WebhookClient"]

USER_AGENT = "bucketline/1"


class WebhookClient:
    """Posts JSON. One for the whole service, as an async context manager."""

    def __init__(self, policy: GuardPolicy, *, seconds: float, connections: int = 50) -> None:
        self._policy = policy
        self._seconds = seconds
        self._connections = connections
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = ClientSession(
            connector=TCPConnector(
                resolver=GuardedResolver(SystemResolver(), self._policy),
                use_dns_cache=False,
                limit=self._connections,
                force_close=True,
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
            address = check_url(url, self._policy).to_yarl()
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
