"""The processor, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.db.collections import Collections
from bucketline.db.documents import Documents
from bucketline.db.objects import Objects
from bucketline.db.work_units import WorkUnits
from bucketline.extractors import ExtractorRegistry
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext, open_service_context
from bucketline.settings import ServiceSettings
from bucketline_processor.completion import CompletionWriter
from bucketline_processor.derived_blobs import DerivedBlobs
from bucketline_processor.extraction import Extraction
from bucketline_processor.extraction_plan import ExtractionPlans
from bucketline_processor.extractor_runner import Extractors
from bucketline_processor.leases import Leases
from bucketline_processor.pipeline import Pipeline
from bucketline_processor.settings import ProcessorSettings
from bucketline_processor.subscribers import router
from bucketline_processor.unit_scheduler import UnitScheduler
from bucketline_processor.worker_pool import WorkerPool


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes from its start to its stop."""
    own = ProcessorSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            open_service_context(settings, health=health) as runtime,
            WorkerPool(
                workers=own.worker_processes,
                memory_bytes=own.worker_memory_bytes,
                time_limit=own.worker_timeout_seconds,
                temp_dir=own.temp_dir,
            ) as sandbox,
        ):
            works = _works(runtime, sandbox, own)
            runtime.bus.include(router, works=works, max_records=own.prefetch_units)
            async with runtime.running():
                works.start(runtime.background, interval=settings.reconcile.interval_seconds)
                try:
                    yield
                finally:
                    # While leases are still extended and the sandbox is open: what runs may finish, and nothing
                    # fails because the service stops.
                    await works.stop()

    return Starlette(routes=health.routes(), lifespan=lifespan)


def _works(runtime: ServiceContext, sandbox: WorkerPool, own: ProcessorSettings) -> UnitScheduler:
    documents = Documents(runtime.database)
    units = WorkUnits(runtime.database)
    plans = ExtractionPlans(Collections(runtime.database), ExtractorRegistry(), own.outbound(), clock=runtime.clock)
    extraction = Extraction(
        plans=plans,
        extractors=Extractors(sandbox, at_once=own.max_concurrent_objects),
        stored=documents,
        derived=DerivedBlobs(runtime),
        blobs=runtime.blobs,
        clock=runtime.clock,
        settings=own,
    )
    leases = Leases(units, runtime.owner, clock=runtime.clock, seconds=own.lease_seconds)
    finisher = CompletionWriter(runtime, documents, plans)
    pipeline = Pipeline(runtime, Objects(runtime.database), extraction, finisher, leases, own)
    return UnitScheduler(units, leases, pipeline, clock=runtime.clock, settings=own)
