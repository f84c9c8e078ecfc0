"""The batcher, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp

from batcher.cancel import Canceling
from batcher.handlers import Handlers
from batcher.planning import Planner
from batcher.progress import Progress
from batcher.settings import BatcherSettings
from batcher.sweeper import Sweeper
from bucketline.events.topics import BATCHES, MIRRORED, STATUS
from bucketline.messaging.outbox import Outbox
from bucketline.runtime import open_runtime
from bucketline.settings import ServiceSettings
from bucketline.telemetry.health import Health


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes and sweeps from its start to its stop."""
    own = BatcherSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with open_runtime(settings, health=health, uses_blobs=False) as runtime:
            planner = Planner(runtime, own)
            outbox = Outbox(
                "batches", planner.batches.outbox, runtime.bus.publisher, clock=runtime.clock, settings=settings.sweep
            )
            progress = Progress(runtime, planner, outbox, own)
            canceling = Canceling(runtime, planner, progress)
            handlers = Handlers(planner, progress, canceling)
            runtime.bus.subscribe(MIRRORED, handlers.on_mirrored)
            runtime.bus.subscribe(BATCHES, handlers.on_batches)
            runtime.bus.subscribe(STATUS, handlers.on_status)
            async with runtime.running():
                outbox.start(runtime.background)
                Sweeper(runtime, planner, progress, canceling, own).start(runtime.background)
                yield
                await outbox.close()

    return Starlette(routes=health.routes(), lifespan=lifespan)
