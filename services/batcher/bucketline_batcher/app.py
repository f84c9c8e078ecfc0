"""Composition root of the batcher."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp

from bucketline.db.batches import Batches
from bucketline.http.client import WebhookClient
from bucketline.http.settings import OutboundSettings
from bucketline.kafka.outbox import Outbox
from bucketline.observability.health import Health
from bucketline.service_context import ServiceContext, open_service_context
from bucketline.settings import ServiceSettings
from bucketline_batcher.planner import Planner
from bucketline_batcher.publisher import BatchPublisher
from bucketline_batcher.reconciler import BatchReconciler
from bucketline_batcher.results import BatchProgressTracker
from bucketline_batcher.service import BatcherService
from bucketline_batcher.settings import BatcherSettings
from bucketline_batcher.subscribers import router
from bucketline_batcher.webhooks import MAX_CONCURRENCY, Webhooks
from bucketline_batcher.windows import BatchingPolicies, DraftScanner, WindowBatcher


def create(settings: ServiceSettings) -> ASGIApp:
    """Return the ASGI application with the probes; it consumes and reconciles during its lifespan."""
    own = BatcherSettings()
    policy = OutboundSettings().policy()
    interval = settings.reconcile.interval_seconds
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            open_service_context(settings, health=health, uses_blobs=False) as context,
            WebhookClient(policy, seconds=own.webhook_timeout_seconds, connections=MAX_CONCURRENCY) as client,
        ):
            store = Batches(context.database).outbox
            outbox = Outbox("batches", store, context.kafka.publisher, clock=context.clock, settings=settings.reconcile)
            batcher = Batcher(context, own, outbox)
            webhooks = Webhooks(context, client)
            context.kafka.include(router, service=batcher.service)
            async with context.running():
                outbox.start(context.background)
                batcher.reconciler.start(context.background)
                context.background.every(own.window_check_interval_seconds, "windows", batcher.windowing.close_due)
                context.background.every(interval, "scan drafts", batcher.drafts.step)
                context.background.every(interval, "webhooks", webhooks.call_due)
                yield
                webhooks.stop()
                await outbox.close()

    return Starlette(routes=health.routes(), lifespan=lifespan)


class Batcher:
    """The parts of the service."""

    def __init__(self, context: ServiceContext, settings: BatcherSettings, outbox: Outbox) -> None:
        self.publisher = BatchPublisher(context)
        self.planner = Planner(context, settings, self.publisher)
        self.progress = BatchProgressTracker(context, self.planner, outbox, self.publisher, settings)
        policies = BatchingPolicies(context.database, settings)
        self.windowing = WindowBatcher(context, self.planner, outbox, policies)
        self.drafts = DraftScanner(context, self.planner, self.windowing, policies)
        self.service = BatcherService(self.planner, self.progress, self.windowing, self.publisher, clock=context.clock)
        self.reconciler = BatchReconciler(context, self.planner, self.progress, self.service, self.publisher, settings)
