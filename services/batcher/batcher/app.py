"""The batcher, wired: the only place where its clients are built."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp

from batcher.cancel import Canceling
from batcher.drafts import DraftSweep
from batcher.planning import Planner
from batcher.policies import Policies
from batcher.progress import Progress
from batcher.settings import BatcherSettings
from batcher.subscribers import router
from batcher.sweeper import Sweeper
from batcher.voice import Voice
from batcher.webhook import AT_ONCE, Webhooks
from batcher.windows import Windowing
from bucketline.messaging.outbox import Outbox
from bucketline.outbound.post import Poster
from bucketline.outbound.settings import OutboundSettings
from bucketline.runtime import Runtime, open_runtime
from bucketline.settings import ServiceSettings
from bucketline.storage.batches import Batches
from bucketline.telemetry.health import Health


def create(settings: ServiceSettings) -> ASGIApp:
    """The ASGI application with the probes; it consumes and sweeps from its start to its stop."""
    own = BatcherSettings()
    outbound = OutboundSettings()
    health = Health()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            open_runtime(settings, health=health, uses_blobs=False) as runtime,
            Poster(outbound.policy(), seconds=own.webhook_seconds, connections=AT_ONCE) as poster,
        ):
            outbox = Outbox(
                "batches",
                Batches(runtime.database).outbox,
                runtime.bus.publisher,
                clock=runtime.clock,
                settings=settings.sweep,
            )
            batcher = Batcher(runtime, own, outbox)
            webhooks = Webhooks(runtime, poster)
            runtime.bus.include(
                router,
                planner=batcher.planner,
                progress=batcher.progress,
                canceling=batcher.canceling,
                windowing=batcher.windowing,
            )
            async with runtime.running():
                outbox.start(runtime.background)
                batcher.sweeper.start(runtime.background)
                runtime.background.every(own.window_interval, "windows", batcher.windowing.close_due)
                runtime.background.every(settings.sweep.interval, "sweep drafts", batcher.drafts.step)
                runtime.background.every(settings.sweep.interval, "webhooks", webhooks.call_due)
                yield
                webhooks.stop()
                await outbox.close()

    return Starlette(routes=health.routes(), lifespan=lifespan)


class Batcher:
    """The use cases of this service, put together."""

    def __init__(self, runtime: Runtime, settings: BatcherSettings, outbox: Outbox) -> None:
        voice = Voice(runtime)
        self.planner = Planner(runtime, settings, voice)
        self.progress = Progress(runtime, self.planner, outbox, voice, settings)
        self.canceling = Canceling(runtime, self.planner, self.progress, voice)
        policies = Policies(runtime.database, settings)
        self.windowing = Windowing(runtime, self.planner, outbox, policies)
        self.drafts = DraftSweep(runtime, self.planner, self.windowing, policies)
        self.sweeper = Sweeper(runtime, self.planner, self.progress, self.canceling, voice, settings)
