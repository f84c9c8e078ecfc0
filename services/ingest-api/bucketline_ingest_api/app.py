"""Composition root of the ingest API: builds its clients, its FastAPI application and its periodic tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan

from bucketline import __version__
from bucketline.http.settings import OutboundSettings
from bucketline.ids import RandomIds
from bucketline.observability.health import Health
from bucketline.service_context import open_service_context
from bucketline.settings import ServiceSettings
from bucketline_ingest_api import deletion, exception_handlers, health, reconciler, subscribers
from bucketline_ingest_api.api_keys import endpoints as api_keys
from bucketline_ingest_api.batches import endpoints as batches
from bucketline_ingest_api.buckets import endpoints as buckets
from bucketline_ingest_api.collections import endpoints as collections
from bucketline_ingest_api.collections import trigger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.documents import endpoints as documents
from bucketline_ingest_api.events import endpoints as events
from bucketline_ingest_api.events import stream
from bucketline_ingest_api.exception_handlers import METHODS
from bucketline_ingest_api.middleware import BodyLimiter, EdgeMiddleware
from bucketline_ingest_api.namespaces import endpoints as namespaces
from bucketline_ingest_api.objects import endpoints as objects
from bucketline_ingest_api.operations import endpoints as operations
from bucketline_ingest_api.settings import ApiSettings
from bucketline_ingest_api.tasks import endpoints as tasks
from bucketline_ingest_api.uploads import confirmation
from bucketline_ingest_api.uploads import endpoints as uploads
from bucketline_ingest_api.webhooks import delivery
from bucketline_ingest_api.webhooks import endpoints as webhooks

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
    webhooks.router,
    events.router,
    operations.router,
)

TASK_STEPS = {
    deletion.BUCKET_DELETION: deletion.execute_bucket_deletion,
    deletion.FINAL_SWEEP: deletion.execute_final_sweep,
    deletion.NAMESPACE_DELETION: deletion.execute_namespace_deletion,
    deletion.NAMESPACE_EXPIRY: deletion.execute_expiry,
    deletion.COLLECTION_DELETION: deletion.execute_collection_deletion,
    trigger.TASK_TYPE: trigger.execute_trigger,
    confirmation.CONFIRM_TASK_TYPE: confirmation.execute_confirmation,
    confirmation.CONFIRM_MANY_TASK_TYPE: confirmation.execute_confirmations,
}


def create(settings: ServiceSettings) -> ASGIApp:
    """Build the ASGI application. Its lifespan connects the clients and runs the periodic tasks."""
    api_settings = ApiSettings()
    outbound = OutboundSettings().policy()
    # Requests are answered while a dependency is unavailable, with 503 where they need it.
    health = Health(needs_dependencies=False)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            open_service_context(settings, health=health) as context,
            delivery.open_client(outbound) as client,
        ):
            container = Container(context, api_settings, outbound)
            sender = delivery.WebhookSender(container, client)
            register_tasks(container)
            app.state.container = container
            context.kafka.include(subscribers.router, container=container)
            async with context.running():
                for outbox in container.outboxes:
                    outbox.start(context.background)
                reconciler.start(container, context.background)
                container.runner.start(context.background)
                context.background.every(stream.POLL_SECONDS, "event feed", container.feed_tail.poll)
                context.background.every(delivery.POLL_SECONDS, "webhook deliveries", sender.deliver_due)
                yield
                sender.stop()
                await container.close()

    app = build(lifespan)
    app.router.routes.extend(health.routes())
    start_page = RedirectResponse(api_settings.console_url or "/docs", 307)
    app.router.routes.append(Route("/", start_page, methods=["GET"], include_in_schema=False))
    body_limiter = BodyLimiter(settings.http.max_body_bytes, settings.http.max_inflight_body_bytes)
    edge = EdgeMiddleware(
        app,
        ids=RandomIds(),
        body_limiter=body_limiter,
        store_timeout_seconds=api_settings.store_timeout_seconds,
    )
    return add_cors(edge, api_settings)


def register_tasks(container: Container) -> None:
    """Register the steps of all task types with the runner."""
    for task_type, step in TASK_STEPS.items():
        container.runner.register(task_type, partial(step, container))


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
