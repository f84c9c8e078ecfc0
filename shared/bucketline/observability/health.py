"""Health probes. Liveness depends on the progress of the service, readiness on its dependencies."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], Awaitable[None]]
"""Returns if the check passes and raises otherwise."""

CHECK_TIMEOUT_SECONDS = 3.0


class Health:
    """The checks of one service and the routes that run them."""

    def __init__(self) -> None:
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}

    def live_if(self, name: str, check: Check) -> None:
        """Add a liveness check. If it fails, the process should be restarted."""
        self._live[name] = check

    def ready_if(self, name: str, check: Check) -> None:
        """Add a readiness check. While it fails, the service should get no requests."""
        self._ready[name] = check

    async def live(self) -> dict[str, bool]:
        """Run the liveness checks and return which passed."""
        return await _run(self._live)

    async def ready(self) -> dict[str, bool]:
        """Run the readiness checks and return which passed."""
        return await _run(self._ready)

    def routes(self) -> list[Route]:
        """Return the routes ``/live``, ``/ready`` and ``/metrics``."""

        async def live(_: Request) -> Response:
            return _to_response(await self.live())

        async def ready(_: Request) -> Response:
            return _to_response(await self.ready())

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
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await check()
        return True
    return False


def _to_response(results: Mapping[str, bool]) -> Response:
    is_healthy = all(results.values())
    return JSONResponse(
        {"status": "OK" if is_healthy else "DEGRADED", "checks": dict(results)}, 200 if is_healthy else 503
    )
