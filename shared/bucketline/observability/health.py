"""Probes. *Live* follows progress (is the service getting on with its work?), *ready* its dependencies."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], Awaitable[None]]
"""Returns when all is well, raises otherwise."""

CHECK_SECONDS = 3.0


class Health:
    """The checks of one service, and the routes that answer with them."""

    def __init__(self) -> None:
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}

    def live_if(self, name: str, check: Check) -> None:
        """A failure means: restart me."""
        self._live[name] = check

    def ready_if(self, name: str, check: Check) -> None:
        """A failure means: send me nothing now."""
        self._ready[name] = check

    async def live(self) -> dict[str, bool]:
        return await _run(self._live)

    async def ready(self) -> dict[str, bool]:
        return await _run(self._ready)

    def routes(self) -> list[Route]:
        async def live(_: Request) -> Response:
            return _answer(await self.live())

        async def ready(_: Request) -> Response:
            return _answer(await self.ready())

        async def metrics(_: Request) -> Response:
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        return [
            Route("/live", live, include_in_schema=False),
            Route("/ready", ready, include_in_schema=False),
            Route("/metrics", metrics, include_in_schema=False),
        ]


async def _run(checks: Mapping[str, Check]) -> dict[str, bool]:
    return dict(zip(checks, await asyncio.gather(*map(_passes, checks.values())), strict=True))


async def _passes(check: Check) -> bool:
    with suppress(Exception):
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
        return True
    return False


def _answer(results: Mapping[str, bool]) -> Response:
    good = all(results.values())
    return JSONResponse({"status": "OK" if good else "DEGRADED", "checks": dict(results)}, 200 if good else 503)
