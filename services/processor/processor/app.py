"""The processor, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.events.topics import WORK
from bucketline.extraction import ExtractorRegistry
from bucketline.runtime import open_runtime
from bucketline.settings import ServiceSettings
from bucketline.storage.batches import Units
from bucketline.storage.collections import Collections
from bucketline.telemetry.health import Health
from processor.extraction import Extraction
from processor.handlers import Handlers
from processor.leases import Leases
from processor.pipeline import Pipeline
from processor.plans import Plans
from processor.sandbox import Sandbox
from processor.settings import ProcessorSettings


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes from its start to its stop."""
    own = ProcessorSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            open_runtime(settings, health=health) as runtime,
            Sandbox(
                workers=own.workers,
                memory_bytes=own.worker_memory,
                time_limit=own.worker_seconds,
                temp_dir=own.temp_dir,
            ) as sandbox,
        ):
            plans = Plans(Collections(runtime.database))
            extraction = Extraction(runtime, plans, ExtractorRegistry(), sandbox, own)
            leases = Leases(Units(runtime.database), runtime.owner, clock=runtime.clock, seconds=own.lease_seconds)
            handlers = Handlers(leases, Pipeline(runtime, extraction, own))
            runtime.bus.subscribe(WORK, handlers.on_work, max_records=own.units)
            async with runtime.running():
                leases.start(runtime.background)
                yield

    return Starlette(routes=health.routes(), lifespan=lifespan)
