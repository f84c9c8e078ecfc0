"""The ingest API, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cachetools import TTLCache
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan

from bucketline import __version__
from bucketline.access.keyring import KeyRing
from bucketline.extraction import ExtractorRegistry
from bucketline.ids import RandomIds
from bucketline.messaging.outbox import Outbox
from bucketline.runtime import Runtime, open_runtime
from bucketline.settings import ServiceSettings
from bucketline.storage.batches import Batches
from bucketline.storage.buckets import Buckets
from bucketline.storage.collections import Collections
from bucketline.storage.documents import Documents
from bucketline.storage.keys import Keys
from bucketline.storage.namespaces import Namespaces
from bucketline.storage.objects import Objects
from bucketline.storage.pending import PendingStore
from bucketline.storage.removals import Removals
from bucketline.storage.tasks import Tasks
from bucketline.storage.units import Units
from bucketline.storage.uploads import Uploads
from bucketline.telemetry.health import Health
from ingest_api import faults
from ingest_api.auth import Auth
from ingest_api.bodies import Bodies, Bounds
from ingest_api.buckets.counts import BucketCounts
from ingest_api.deps import Deps
from ingest_api.faults import METHODS
from ingest_api.front import Front
from ingest_api.limits import Limiter
from ingest_api.objects.remove import sweep_removals
from ingest_api.objects.stalled import StalledObjects
from ingest_api.objects.writes import ObjectWrites
from ingest_api.routes import ROUTERS, objects
from ingest_api.settings import ApiSettings
from ingest_api.shortcut import Shortcut
from ingest_api.subscribers import router
from ingest_api.tasks import steps
from ingest_api.tasks.runner import TaskRunner
from ingest_api.uploads.remove import sweep_uploads

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
        async with open_runtime(settings, health=health) as runtime:
            deps = wire(runtime, api_settings)
            app.state.deps = deps
            app.state.limiter = Limiter(runtime.database, api_settings, clock=runtime.clock)
            runtime.bus.include(router, deps=deps)
            # Objects are taken while Kafka is away: their events wait in the outbox.
            async with runtime.running(ready_without_bus=True):
                for outbox in (deps.object_outbox, deps.batch_outbox, deps.removal_outbox):
                    outbox.start(runtime.background)
                interval = settings.sweep.interval
                runtime.background.every(interval, "sweep removals", lambda: sweep_removals(deps))
                runtime.background.every(interval, "sweep object statuses", StalledObjects(deps).step)
                runtime.background.every(interval, "sweep uploads", lambda: sweep_uploads(deps))
                steps.register(deps)
                deps.runner.start(runtime.background)
                yield
                await deps.runner.close()
                await deps.bucket_counts.close()
                await deps.object_writes.close()
                for outbox in (deps.object_outbox, deps.batch_outbox, deps.removal_outbox):
                    await outbox.close()

    app = build(lifespan)
    app.router.routes.extend(health.routes())
    front = Front(
        Shortcut(app, objects.router.routes, objects.HOT),
        auth=lambda: app.state.deps.auth,
        limiter=lambda: app.state.limiter,
        ids=RandomIds(),
        bodies=Bodies(Bounds(settings.http.max_body_bytes, together=settings.http.bodies_bytes)),
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
    faults.install(app)
    for routes in ROUTERS:
        app.include_router(routes)
    return app


def wire(runtime: Runtime, settings: ApiSettings) -> Deps:
    """Repositories and outboxes on the runtime's clients."""
    database, clock = runtime.database, runtime.clock
    keys, namespaces = Keys(database), Namespaces(database)
    objects, batches, removals = Objects(database), Batches(database), Removals(database)
    buckets, tasks = Buckets(database), Tasks(database)

    def outbox(name: str, store: PendingStore) -> Outbox:
        return Outbox(name, store, runtime.bus.publisher, clock=clock, settings=runtime.settings.sweep)

    return Deps(
        settings=settings,
        sweep=runtime.settings.sweep,
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
        units=Units(database),
        documents=Documents(database),
        keys=keys,
        tasks=tasks,
        uploads=Uploads(database),
        removals=removals,
        object_outbox=outbox("objects", objects.outbox),
        batch_outbox=outbox("batches", batches.outbox),
        removal_outbox=outbox("removals", removals.outbox),
        keyring=KeyRing(keys, namespaces, settings, clock=clock),
        runner=TaskRunner(tasks, clock=clock, ids=runtime.ids),
        extractors=ExtractorRegistry(),
        bucket_counts=BucketCounts(buckets, objects, batches, clock=clock),
        object_writes=ObjectWrites(objects, batches, clock),
        bucket_cache=TTLCache(10_000, settings.scope_cache_seconds),
        poll_fields=TTLCache(10_000, settings.scope_cache_seconds),
    )
