"""Health probes. Liveness depends on the progress of the service, readiness on its dependencies.

A service that answers by itself while a dependency is unavailable is ready without it: clients then get its response
instead of a connection error, which they would get if all replicas left the load balancer at once.
"""

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
    """The checks of one service and the routes that run them.

    Without ``needs_dependencies``, ``/ready`` reports failed dependencies, but with status 200.
    """

    def __init__(self, *, needs_dependencies: bool = True) -> None:
        self._needs_dependencies = needs_dependencies
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}

    def live_if(self, name: str, check: Check) -> None:
        """Add a liveness check. If it fails, the process should be restarted."""
        self._live[name] = check

    def ready_if(self, name: str, check: Check) -> None:
        """Add the check of a dependency. While it fails, the service should get no requests if it needs it."""
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
            return _to_response(await self.live(), 503)

        async def ready(_: Request) -> Response:
            return _to_response(await self.ready(), 503 if self._needs_dependencies else 200)

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


def _to_response(results: Mapping[str, bool], degraded_status: int) -> Response:
    is_healthy = all(results.values())
    body = {"status": "OK" if is_healthy else "DEGRADED", "checks": dict(results)}
    return JSONResponse(body, 200 if is_healthy else degraded_status)
