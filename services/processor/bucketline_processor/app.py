"""Composition root of the processor: builds its clients and wires them."""

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
from bucketline_processor.documents import DerivedBlobs
from bucketline_processor.extraction import Extraction
from bucketline_processor.extractor_runner import ExtractorRunner
from bucketline_processor.isolation import Isolation
from bucketline_processor.leases import Leases
from bucketline_processor.plan import ExtractionPlans
from bucketline_processor.reconciler import UnitReconciler
from bucketline_processor.scheduler import UnitScheduler
from bucketline_processor.service import UnitProcessor
from bucketline_processor.settings import ProcessorSettings
from bucketline_processor.subscribers import router
from bucketline_processor.worker_pool import WorkerPool


def create(settings: ServiceSettings) -> ASGIApp:
    """Return the ASGI application with the probes; it consumes for as long as it runs."""
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
            ) as workers,
        ):
            units = WorkUnits(runtime.database)
            leases = Leases(units, runtime.owner, clock=runtime.clock, seconds=own.lease_seconds)
            isolation = Isolation(units, leases)
            processor = _unit_processor(runtime, workers, isolation, own)
            scheduler = UnitScheduler(units, leases, isolation, processor, clock=runtime.clock, settings=own)
            reconciler = UnitReconciler(units, scheduler, clock=runtime.clock, settings=own)
            runtime.kafka.include(router, scheduler=scheduler, max_records=own.prefetch_units)
            async with runtime.running():
                runtime.background.every(leases.interval, "renew leases", scheduler.heartbeat)
                runtime.background.every(settings.reconcile.interval_seconds, "reclaim units", reconciler.reclaim)
                try:
                    yield
                finally:
                    # Leases are still renewed and workers still run: what was started may complete, and no object
                    # fails because the service stops.
                    await scheduler.stop()

    return Starlette(routes=health.routes(), lifespan=lifespan)


def _unit_processor(
    runtime: ServiceContext, workers: WorkerPool, isolation: Isolation, own: ProcessorSettings
) -> UnitProcessor:
    documents = Documents(runtime.database)
    plans = ExtractionPlans(Collections(runtime.database), ExtractorRegistry(), own.outbound(), clock=runtime.clock)
    extraction = Extraction(
        plans=plans,
        runner=ExtractorRunner(workers, max_concurrency=own.max_concurrent_objects),
        documents=documents,
        derived_blobs=DerivedBlobs(runtime),
        blobs=runtime.blobs,
        clock=runtime.clock,
        settings=own,
    )
    completion = CompletionWriter(runtime, documents, plans)
    return UnitProcessor(runtime, Objects(runtime.database), extraction, completion, isolation, own)
