"""The batcher, wired: the only place where its clients are built."""

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
from bucketline_batcher.cancel import Cancellation
from bucketline_batcher.planner import Planner
from bucketline_batcher.publisher import BatchPublisher
from bucketline_batcher.reconciler import BatchReconciler
from bucketline_batcher.results import BatchProgressTracker
from bucketline_batcher.settings import BatcherSettings
from bucketline_batcher.subscribers import router
from bucketline_batcher.webhooks import MAX_CONCURRENCY, Webhooks
from bucketline_batcher.windows import BatchingPolicies, DraftScanner, WindowBatcher


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes and sweeps from its start to its stop."""
    own = BatcherSettings()
    outbound = OutboundSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            open_service_context(settings, health=health, uses_blobs=False) as runtime,
            WebhookClient(
                outbound.policy(), seconds=own.webhook_timeout_seconds, connections=MAX_CONCURRENCY
            ) as poster,
        ):
            outbox = Outbox(
                "batches",
                Batches(runtime.database).outbox,
                runtime.kafka.publisher,
                clock=runtime.clock,
                settings=settings.reconcile,
            )
            batcher = Batcher(runtime, own, outbox)
            webhooks = Webhooks(runtime, poster)
            runtime.kafka.include(
                router,
                planner=batcher.planner,
                progress=batcher.progress,
                canceling=batcher.canceling,
                windowing=batcher.windowing,
            )
            async with runtime.running():
                outbox.start(runtime.background)
                batcher.sweeper.start(runtime.background)
                runtime.background.every(own.window_check_interval_seconds, "windows", batcher.windowing.close_due)
                runtime.background.every(settings.reconcile.interval_seconds, "sweep drafts", batcher.drafts.step)
                runtime.background.every(settings.reconcile.interval_seconds, "webhooks", webhooks.call_due)
                yield
                webhooks.stop()
                await outbox.close()

    return Starlette(routes=health.routes(), lifespan=lifespan)


class Batcher:
    """The use cases of this service, put together."""

    def __init__(self, runtime: ServiceContext, settings: BatcherSettings, outbox: Outbox) -> None:
        voice = BatchPublisher(runtime)
        self.planner = Planner(runtime, settings, voice)
        self.progress = BatchProgressTracker(runtime, self.planner, outbox, voice, settings)
        self.canceling = Cancellation(runtime, self.planner, self.progress, voice)
        policies = BatchingPolicies(runtime.database, settings)
        self.windowing = WindowBatcher(runtime, self.planner, outbox, policies)
        self.drafts = DraftScanner(runtime, self.planner, self.windowing, policies)
        self.sweeper = BatchReconciler(runtime, self.planner, self.progress, self.canceling, voice, settings)
