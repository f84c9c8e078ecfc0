"""Runs one service: its ASGI application under uvicorn, in this process, until SIGTERM or SIGINT."""

from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from bucketline.settings import ServiceSettings
from bucketline.telemetry.logging import setup_logging


def serve(settings: ServiceSettings, create: Callable[[ServiceSettings], ASGIApp]) -> int:
    """Returns the process's exit code: 0 after a clean stop, 3 when the service could not start.

    On SIGTERM no new request is taken, running ones get the graceful time, then handlers of the bus finish.
    """
    setup_logging(settings.telemetry, settings.service)
    config = uvicorn.Config(
        create(settings),
        host=settings.http.host,
        port=settings.http.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        backlog=2048,
        timeout_graceful_shutdown=round(settings.http.graceful_timeout),
    )
    server = _Server(config)
    server.run()
    return 0 if server.started else 3


class _Server(uvicorn.Server):
    """uvicorn waits for a start to finish before it heeds a signal; one that waits for its stores would never."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started:
            raise SystemExit(0)
        super().handle_exit(sig, frame)
