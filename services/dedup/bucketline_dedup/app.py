"""Composition root of the dedup service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.blobs.s3 import S3BlobStore
from bucketline.db.blobs import Blobs
from bucketline.db.mirror_queue import MirrorQueue
from bucketline.db.objects import Objects
from bucketline.kafka.dead_letters import KafkaDeadLetters
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext, open_service_context
from bucketline.settings import ServiceSettings
from bucketline.weighted_semaphore import WeightedSemaphore
from bucketline_dedup.content_store import ContentStore
from bucketline_dedup.http_fetcher import HttpFetcher
from bucketline_dedup.mirror import ObjectMirror
from bucketline_dedup.outcomes import MirrorOutcomes
from bucketline_dedup.reconciler import Reconciler
from bucketline_dedup.scheduler import MirrorScheduler
from bucketline_dedup.service import InlineMirror, MirrorService
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import SourceOpener
from bucketline_dedup.subscribers import router

BACKLOG_INTERVAL_SECONDS = 15.0
"""Time between two updates of the backlog metric, about as often as it is scraped."""


@dataclass(frozen=True)
class Dedup:
    """The parts of the service. The scheduler is a context manager and fetches while it is entered."""

    mirroring: MirrorService
    scheduler: MirrorScheduler
    contents: ContentStore
    reconciler: Reconciler


def create(settings: ServiceSettings) -> ASGIApp:
    """Return the ASGI application with the probes; it consumes and fetches during its lifespan."""
    own = DedupSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            HttpFetcher(own.policy(), own.limits(), decode_content=own.decode_content) as fetcher,
            S3BlobStore(settings.s3, external_buckets=own.external_buckets) as external,
            open_service_context(settings, health=health) as context,
        ):
            dedup = wire(context, own, fetcher=fetcher, external=external)
            context.kafka.include(router, mirroring=dedup.mirroring)
            async with context.running(), dedup.scheduler:
                interval = own.staging_cleanup_interval_seconds
                context.background.every(interval, "reconcile staging", dedup.reconciler.reconcile_staging)
                context.background.every(BACKLOG_INTERVAL_SECONDS, "count due", dedup.scheduler.update_backlog_metric)
                yield

    return Starlette(routes=health.routes(), lifespan=lifespan)


def wire(context: ServiceContext, settings: DedupSettings, *, fetcher: HttpFetcher, external: S3BlobStore) -> Dedup:
    """Build the service. ``external`` reads the buckets of others; the caller closes it and ``fetcher``."""
    clock, store = context.clock, context.blobs
    queue, records, objects = MirrorQueue(context.database), Blobs(context.database), Objects(context.database)
    opener = SourceOpener(fetcher=fetcher, store=store, external=external, file_roots=settings.file_roots)
    budget = WeightedSemaphore(settings.memory_bytes)
    contents = ContentStore(store, records, settings, clock=clock, budget=budget)
    outcomes = MirrorOutcomes(context, queue)
    dead_letters = KafkaDeadLetters(context.kafka.publisher, "dedup")
    mirror = ObjectMirror(context, queue, contents, opener, records, outcomes, dead_letters, settings)
    inline = InlineMirror(store, contents, records, settings, clock=clock)
    work_available = asyncio.Event()
    mirroring = MirrorService(queue, inline, outcomes, settings, clock=clock, work_available=work_available)
    scheduler = MirrorScheduler(context, queue, mirroring, mirror, settings, work_available=work_available)
    return Dedup(mirroring, scheduler, contents, Reconciler(context, objects, settings))
