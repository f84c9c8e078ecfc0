"""The processor, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.extraction import ExtractorRegistry
from bucketline.runtime import Runtime, open_runtime
from bucketline.settings import ServiceSettings
from bucketline.storage.collections import Collections
from bucketline.storage.documents import Documents
from bucketline.storage.objects import Objects
from bucketline.storage.units import Units
from bucketline.telemetry.health import Health
from processor.derived import DerivedBlobs
from processor.extraction import Extraction
from processor.finishing import Finisher
from processor.leases import Leases
from processor.pipeline import Pipeline
from processor.plans import Plans
from processor.running import Extractors
from processor.sandbox import Sandbox
from processor.settings import ProcessorSettings
from processor.subscribers import router
from processor.works import Works


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
            works = _works(runtime, sandbox, own)
            runtime.bus.include(router, works=works, max_records=own.ahead)
            async with runtime.running():
                works.start(runtime.background, interval=settings.sweep.interval)
                try:
                    yield
                finally:
                    # While leases are still extended and the sandbox is open: what runs may finish, and nothing
                    # fails because the service stops.
                    await works.stop()

    return Starlette(routes=health.routes(), lifespan=lifespan)


def _works(runtime: Runtime, sandbox: Sandbox, own: ProcessorSettings) -> Works:
    documents = Documents(runtime.database)
    units = Units(runtime.database)
    plans = Plans(Collections(runtime.database), ExtractorRegistry(), own.outbound(), clock=runtime.clock)
    extraction = Extraction(
        plans=plans,
        extractors=Extractors(sandbox, at_once=own.objects),
        stored=documents,
        derived=DerivedBlobs(runtime),
        blobs=runtime.blobs,
        clock=runtime.clock,
        settings=own,
    )
    leases = Leases(units, runtime.owner, clock=runtime.clock, seconds=own.lease_seconds)
    finisher = Finisher(runtime, documents, plans)
    pipeline = Pipeline(runtime, Objects(runtime.database), extraction, finisher, leases, own)
    return Works(units, leases, pipeline, clock=runtime.clock, settings=own)
