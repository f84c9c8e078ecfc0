"""Dedup, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.events.topics import OBJECTS
from bucketline.runtime import open_runtime
from bucketline.settings import ServiceSettings
from bucketline.telemetry.health import Health
from dedup.handlers import Handlers
from dedup.mirror import Mirroring
from dedup.settings import DedupSettings


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes and sweeps from its start to its stop."""
    own = DedupSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with open_runtime(settings, health=health) as runtime:
            mirroring = Mirroring(runtime, own)
            runtime.bus.subscribe(OBJECTS, Handlers(mirroring).on_objects)
            async with runtime.running():
                runtime.background.every(settings.sweep.interval, "sweep mirror", mirroring.sweep)
                yield

    return Starlette(routes=health.routes(), lifespan=lifespan)
