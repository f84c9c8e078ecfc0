"""The clients that every service needs, opened in order and closed in reverse.

A service's ``app.py`` builds its use cases on a :class:`ServiceContext`, includes its router, and enters
:meth:`ServiceContext.running`.
"""

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from bucketline.blobs.s3 import S3BlobStore
from bucketline.clock import Clock, SystemClock
from bucketline.db.indexes import ensure_indexes
from bucketline.db.mongo import Database
from bucketline.errors import BucketlineError, DependencyUnavailable, RetryableError
from bucketline.events.cloudevents import CloudEvent, encode_event
from bucketline.events.models import Event
from bucketline.ids import Ids, RandomIds
from bucketline.kafka.broker import KafkaRuntime
from bucketline.observability.health import Health
from bucketline.observability.logging import get_logger
from bucketline.observability.tracing import current_trace, setup_tracing
from bucketline.periodic import PeriodicTasks
from bucketline.settings import ServiceSettings

log = get_logger(__name__)

START_SECONDS = 60.0


@dataclass(frozen=True)
class ServiceContext:
    """The clients of one service. ``owner`` identifies this process in leases and logs."""

    settings: ServiceSettings
    database: Database
    kafka: KafkaRuntime
    blobs: S3BlobStore
    health: Health
    background: PeriodicTasks = field(default_factory=PeriodicTasks)
    clock: Clock = field(default_factory=SystemClock)
    ids: Ids = field(default_factory=RandomIds)
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")

    @property
    def source(self) -> str:
        """The CloudEvents ``source`` of this service."""
        return f"/bucketline/{self.settings.service}"

    def new_event(self, event: Event, *, trace: Mapping[str, str] | None = None) -> CloudEvent:
        """Return the CloudEvent of an event that happens now, in the given trace or the current one."""
        return encode_event(
            event, id=self.ids.new("evt"), source=self.source, at=self.clock.now(), trace=trace or current_trace()
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Consume and run the periodic tasks until the block ends. Include the router before.

        Kafka is connected in the background.
        """
        self.health.ready_if("mongodb", self.database.ping)
        self.health.ready_if("kafka", self.kafka.publisher.ping)
        self.health.ready_if("consumers", self.kafka.monitor.ready)
        self.health.live_if("consumers", self.kafka.monitor.live)
        async with self.kafka:
            self.background.every(2.0, "consumer monitor", self.kafka.monitor.step)
            log.info("service started")
            try:
                yield
            finally:
                log.info("service stopping")
                await self.background.stop()


@asynccontextmanager
async def open_service_context(
    settings: ServiceSettings, *, health: Health, uses_blobs: bool = True
) -> AsyncIterator[ServiceContext]:
    """Connect to MongoDB and S3, waiting up to a minute for them, and create the indexes and the bucket.

    A service with ``uses_blobs=False`` needs neither S3 nor credentials for it.
    """
    async with AsyncExitStack() as stack:
        servers = {"mongodb": settings.mongo.url.get_secret_value(), "s3": settings.s3.endpoint_url or ""}
        stack.push_async_callback(setup_tracing(settings.observability, settings.service, servers))
        database = Database(settings.mongo)
        stack.callback(database.close)
        blobs = await stack.enter_async_context(S3BlobStore(settings.s3))
        clock = SystemClock()
        context = ServiceContext(
            settings=settings,
            database=database,
            kafka=KafkaRuntime(settings.kafka, settings.service, clock=clock),
            blobs=blobs,
            health=health,
            clock=clock,
        )
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((DependencyUnavailable, RetryableError)),
            stop=stop_after_delay(START_SECONDS),
            wait=wait_exponential(multiplier=0.2, max=3),
            before_sleep=lambda state: log.warning("storage unavailable", error=_reason(state.outcome)),
            reraise=True,
        ):
            with attempt:
                await ensure_indexes(database)
                if uses_blobs:
                    await blobs.ensure_bucket()
        if uses_blobs:
            health.ready_if("s3", blobs.ping)
        yield context


def _reason(outcome: object) -> str:
    error = getattr(outcome, "exception", lambda: None)()
    return error.message if isinstance(error, BucketlineError) else repr(error)
