"""The ingest API, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cachetools import TTLCache
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan

from bucketline import __version__
from bucketline.api_keys.service import ApiKeyService
from bucketline.db.api_keys import ApiKeys
from bucketline.db.batches import Batches
from bucketline.db.buckets import Buckets
from bucketline.db.collections import Collections
from bucketline.db.documents import Documents
from bucketline.db.namespaces import Namespaces
from bucketline.db.object_deletions import ObjectDeletions
from bucketline.db.objects import Objects
from bucketline.db.outbox_store import OutboxStore
from bucketline.db.tasks import Tasks
from bucketline.db.uploads import Uploads
from bucketline.db.work_units import WorkUnits
from bucketline.extractors import ExtractorRegistry
from bucketline.ids import RandomIds
from bucketline.kafka.outbox import Outbox
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext, open_service_context
from bucketline.settings import ServiceSettings
from bucketline_ingest_api import exception_handlers
from bucketline_ingest_api.auth import Auth
from bucketline_ingest_api.body_limit import BodyLimiter, Bounds
from bucketline_ingest_api.buckets.stats import BucketCounts
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.edge_middleware import EdgeMiddleware
from bucketline_ingest_api.exception_handlers import METHODS
from bucketline_ingest_api.fast_path import FastPath
from bucketline_ingest_api.objects import endpoints as objects
from bucketline_ingest_api.objects.bulk_writes import ObjectBulkWriter
from bucketline_ingest_api.objects.delete import sweep_removals
from bucketline_ingest_api.objects.reconciler import ObjectReconciler
from bucketline_ingest_api.rate_limit import RateLimiter
from bucketline_ingest_api.routers import ROUTERS
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.subscribers import router
from bucketline_ingest_api.tasks import registry
from bucketline_ingest_api.tasks.runner import TaskRunner
from bucketline_ingest_api.uploads.delete import sweep_uploads

EXPOSED_HEADERS = (
    "Retry-After",
    "X-Batch-Id",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-RateLimit-Window",
    "X-Request-Id",
    "X-Task-Id",
    "X-Trace-Id",
)
"""What a page of another origin may read of an answer."""


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application; it connects when it starts and runs its sweepers until it stops."""
    api_settings = ApiSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service_context(settings, health=health) as runtime:
            deps = wire(runtime, api_settings)
            app.state.deps = deps
            app.state.limiter = RateLimiter(runtime.database, api_settings, clock=runtime.clock)
            runtime.bus.include(router, deps=deps)
            # Objects are taken while Kafka is away: their events wait in the outbox.
            async with runtime.running(ready_without_bus=True):
                for outbox in (deps.object_outbox, deps.batch_outbox, deps.removal_outbox):
                    outbox.start(runtime.background)
                interval = settings.reconcile.interval_seconds
                runtime.background.every(interval, "sweep removals", lambda: sweep_removals(deps))
                runtime.background.every(interval, "sweep object statuses", ObjectReconciler(deps).step)
                runtime.background.every(interval, "sweep uploads", lambda: sweep_uploads(deps))
                registry.register(deps)
                deps.runner.start(runtime.background)
                yield
                await deps.runner.close()
                await deps.bucket_counts.close()
                await deps.object_writes.close()
                for outbox in (deps.object_outbox, deps.batch_outbox, deps.removal_outbox):
                    await outbox.close()

    app = build(lifespan)
    app.router.routes.extend(health.routes())
    front = EdgeMiddleware(
        FastPath(app, objects.router.routes, objects.HOT),
        auth=lambda: app.state.deps.auth,
        limiter=lambda: app.state.limiter,
        ids=RandomIds(),
        bodies=BodyLimiter(Bounds(settings.http.max_body_bytes, together=settings.http.max_inflight_body_bytes)),
    )
    return with_cors(front, api_settings)


def with_cors(app: ASGIApp, settings: ApiSettings) -> ASGIApp:
    """``app`` for browsers on pages of the configured origins; as it is when there are none.

    Outermost, so that errors can be read by those pages too. Credentials are not allowed: keys travel in a header.
    """
    if not settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=[origin.strip() for origin in settings.cors_origins.split(",")],
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
        max_age=600,
    )


def build(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """The routes without their clients: enough for the OpenAPI document."""
    app = FastAPI(
        title="Bucketline",
        version=__version__,
        summary="Self-hosted, event-driven object ingestion.",
        docs_url="/docs",
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        # the front has the request's span and metrics; a second set would cost every request
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    exception_handlers.install(app)
    for routes in ROUTERS:
        app.include_router(routes)
    return app


def wire(runtime: ServiceContext, settings: ApiSettings) -> Container:
    """Repositories and outboxes on the runtime's clients."""
    database, clock = runtime.database, runtime.clock
    keys, namespaces = ApiKeys(database), Namespaces(database)
    objects, batches, removals = Objects(database), Batches(database), ObjectDeletions(database)
    buckets, tasks = Buckets(database), Tasks(database)

    def outbox(name: str, store: OutboxStore) -> Outbox:
        return Outbox(name, store, runtime.bus.publisher, clock=clock, settings=runtime.settings.reconcile)

    return Container(
        settings=settings,
        sweep=runtime.settings.reconcile,
        database=database,
        blobstore=runtime.blobs,
        clock=clock,
        ids=runtime.ids,
        source=runtime.source,
        health=runtime.health,
        auth=Auth(keys, namespaces, settings, clock=clock),
        namespaces=namespaces,
        buckets=buckets,
        collections=Collections(database),
        objects=objects,
        batches=batches,
        units=WorkUnits(database),
        documents=Documents(database),
        keys=keys,
        tasks=tasks,
        uploads=Uploads(database),
        removals=removals,
        object_outbox=outbox("objects", objects.outbox),
        batch_outbox=outbox("batches", batches.outbox),
        removal_outbox=outbox("removals", removals.outbox),
        keyring=ApiKeyService(keys, namespaces, settings, clock=clock),
        runner=TaskRunner(tasks, clock=clock, ids=runtime.ids),
        extractors=ExtractorRegistry(),
        bucket_counts=BucketCounts(buckets, objects, batches, clock=clock),
        object_writes=ObjectBulkWriter(objects, batches, clock),
        bucket_cache=TTLCache(10_000, settings.namespace_cache_seconds),
        poll_fields=TTLCache(10_000, settings.namespace_cache_seconds),
    )
