"""Runs the ASGI application of a service under uvicorn until SIGTERM or SIGINT."""

import gc
import os
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import uvicorn
from starlette.types import ASGIApp

from bucketline.http_protocol import HttpProtocol
from bucketline.observability.logging import get_logger, setup_logging
from bucketline.settings import ServerSettings

log = get_logger(__name__)

_stopping = threading.Event()

S = TypeVar("S", bound=ServerSettings)

DRAIN_SECONDS = 25.0
"""Time limit of a graceful stop. Stopping takes much less unless MongoDB, S3 or Kafka does not respond."""


def serve(settings: S, create: Callable[[S], ASGIApp]) -> int:
    """Run the service and return the exit code: 3 if it could not start, otherwise 0.

    On SIGTERM the server accepts no new requests, waits for running ones, and lets subscribers finish. After
    ``DRAIN_SECONDS`` the process exits with 4 in any case, so a supervisor has to wait longer than that. After a clean
    stop uvicorn raises the signal again; the first process of a container ignores it and exits with 0.
    """
    setup_logging(settings.observability, settings.service)
    config = uvicorn.Config(
        create(settings),
        host=settings.http.host,
        port=settings.http.port,
        loop="uvloop",
        http=type("HttpProtocol", (HttpProtocol,), {"settings": settings.http}),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        backlog=2048,
        timeout_keep_alive=round(settings.http.keep_alive_timeout_seconds),
        timeout_graceful_shutdown=round(settings.http.shutdown_timeout_seconds),
    )
    _tune_garbage_collection()
    server = _Server(config)
    server.run()
    return 0 if server.started else 3


def is_stopping() -> bool:
    """Return whether the process was asked to stop. Endless responses end then, since uvicorn waits for responses."""
    return _stopping.is_set()


class _Server(uvicorn.Server):
    """Stops on a signal during startup too, when uvicorn would wait for MongoDB and S3 first."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started:
            raise SystemExit(0)
        _stopping.set()
        if not self.should_exit:
            last = threading.Timer(DRAIN_SECONDS, _exit)
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)


def _exit() -> None:
    # It is safe to exit at any point: the reconcilers continue unfinished work.
    log.error("shutdown timed out", seconds=DRAIN_SECONDS)
    os._exit(4)


def _tune_garbage_collection() -> None:
    """Run the garbage collector less often, and never on imported modules. It costs a few megabytes.

    Measured on the API under load: the CPU time per stored object falls from 540 to 330 µs, and the 99th percentile of
    the latency from 180 to 60 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
