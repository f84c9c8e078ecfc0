"""Composition root of the ingest API: builds its clients, its FastAPI application and its periodic tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cachetools import TTLCache
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan

from bucketline import __version__
from bucketline.admin.api_keys import ApiKeyService
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
from bucketline_ingest_api import exception_handlers, health, subscribers
from bucketline_ingest_api.api_keys import endpoints as api_keys
from bucketline_ingest_api.auth import Auth
from bucketline_ingest_api.batches import endpoints as batches
from bucketline_ingest_api.body_limit import BodyLimiter, Bounds
from bucketline_ingest_api.buckets import endpoints as buckets
from bucketline_ingest_api.buckets.stats import BucketCounts
from bucketline_ingest_api.collections import endpoints as collections
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.documents import endpoints as documents
from bucketline_ingest_api.edge_middleware import EdgeMiddleware
from bucketline_ingest_api.exception_handlers import METHODS
from bucketline_ingest_api.namespaces import endpoints as namespaces
from bucketline_ingest_api.objects import endpoints as objects
from bucketline_ingest_api.objects.bulk_writer import ObjectBulkWriter
from bucketline_ingest_api.rate_limit import RateLimiter
from bucketline_ingest_api.reconciler import ObjectReconciler, reconcile_deletions, reconcile_uploads
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.tasks import endpoints as tasks
from bucketline_ingest_api.tasks import registry
from bucketline_ingest_api.tasks.runner import TaskRunner
from bucketline_ingest_api.uploads import endpoints as uploads

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
"""Response headers that pages of other origins may read (CORS)."""

ROUTERS = (
    objects.create_router,  # first, since the routes are matched in this order
    objects.router,
    health.router,
    namespaces.router,
    buckets.router,
    batches.router,
    collections.router,
    documents.router,
    tasks.router,
    uploads.router,
    api_keys.router,
)


def create(settings: ServiceSettings) -> ASGIApp:
    """Build the ASGI application. Its lifespan connects the clients and runs the periodic tasks."""
    api_settings = ApiSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service_context(settings, health=health) as runtime:
            deps = wire(runtime, api_settings)
            app.state.deps = deps
            app.state.limiter = RateLimiter(runtime.database, api_settings, clock=runtime.clock)
            runtime.kafka.include(subscribers.router, deps=deps)
            # Objects are accepted while Kafka is unavailable: their events wait in the outbox.
            async with runtime.running(ready_without_bus=True):
                for outbox in (deps.object_outbox, deps.batch_outbox, deps.removal_outbox):
                    outbox.start(runtime.background)
                interval = settings.reconcile.interval_seconds
                runtime.background.every(interval, "reconcile deletions", lambda: reconcile_deletions(deps))
                runtime.background.every(interval, "reconcile objects", ObjectReconciler(deps).reconcile_page)
                runtime.background.every(interval, "reconcile uploads", lambda: reconcile_uploads(deps))
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
    edge = EdgeMiddleware(
        app,
        auth=lambda: app.state.deps.auth,
        limiter=lambda: app.state.limiter,
        ids=RandomIds(),
        bodies=BodyLimiter(Bounds(settings.http.max_body_bytes, together=settings.http.max_inflight_body_bytes)),
    )
    return add_cors(edge, api_settings)


def add_cors(app: ASGIApp, settings: ApiSettings) -> ASGIApp:
    """Allow browsers to call the API from pages of the configured origins.

    CORS is outermost, so that those pages can read error responses too. Credentials are not allowed: API keys are sent
    in a header.
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


class Api(FastAPI):
    """Documents that a request needs the API key and the namespace together; FastAPI documents them as alternatives."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            for path in super().openapi()["paths"].values():
                for operation in path.values():
                    if "security" in operation:
                        operation["security"] = [{name: [] for scheme in operation["security"] for name in scheme}]
        return super().openapi()


def operation_id(route: APIRoute) -> str:
    """Return the name of the endpoint function, as the operation id of the OpenAPI document."""
    return route.name


def build(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Build the FastAPI application without clients, as far as the OpenAPI document needs it."""
    app = Api(
        title="Bucketline",
        version=__version__,
        summary="Self-hosted, event-driven object ingestion.",
        docs_url="/docs",
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=operation_id,
        # The edge middleware records the span and the metrics of a request.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    exception_handlers.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def wire(runtime: ServiceContext, settings: ApiSettings) -> Container:
    """Build the repositories, outboxes and use-case objects."""
    database, clock = runtime.database, runtime.clock
    keys, namespaces = ApiKeys(database), Namespaces(database)
    objects, batches, removals = Objects(database), Batches(database), ObjectDeletions(database)
    buckets, tasks = Buckets(database), Tasks(database)

    def outbox(name: str, store: OutboxStore) -> Outbox:
        return Outbox(name, store, runtime.kafka.publisher, clock=clock, settings=runtime.settings.reconcile)

    return Container(
        settings=settings,
        reconcile=runtime.settings.reconcile,
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
