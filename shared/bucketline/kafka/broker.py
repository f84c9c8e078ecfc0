"""FastStream's broker with safe defaults, and its lifecycle in a service.

A service declares its subscribers on a router::

    router = event_router()
    publishes(router, ObjectMirrored)

    @router.subscriber(OBJECTS.name, group_id=OBJECTS.group("dedup"), batch=True, ack_policy=AckPolicy.MANUAL)
    async def mirror_objects(events: Events[ObjectCreated], mirroring: Annotated[Mirroring, Provided()]) -> None: ...

A subscriber receives the event types that it names, in micro-batches: whatever has been fetched, up to a limit. It does
its reads and writes in bulk and must be idempotent, because every record may be redelivered. The offset is committed
after it has returned. FastStream's own defaults lose records (acknowledge first, start at the end of the topic), so
:meth:`Broker.include` rejects subscribers that do not acknowledge manually.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

from fast_depends.library import CustomField
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaRouter
from faststream.kafka.subscriber.usecase import BatchSubscriber
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from bucketline.clock import Clock
from bucketline.events.models import Event
from bucketline.events.topics import topic_of
from bucketline.kafka import tolerant_record_reader
from bucketline.kafka.admin import ensure_topics
from bucketline.kafka.batch_consumer import BatchConsumer
from bucketline.kafka.client_config import security, token_provider
from bucketline.kafka.dead_letters import DeadLetterSink, KafkaDeadLetters
from bucketline.kafka.middleware import (
    AcknowledgeMiddleware,
    Consuming,
    DeadLetterMiddleware,
    RetryMiddleware,
    RetryPolicy,
    TracingMiddleware,
    decode_events,
    parse_records,
)
from bucketline.kafka.monitor import MAX_POLL_SECONDS, ConsumerMonitor
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import DEAD_LETTERS, RECORDS, RETRIES
from bucketline.settings import KafkaSettings, ServiceName

log = get_logger(__name__)

GRACEFUL_SECONDS = 15.0
MAX_CONNECT_PAUSE = 5.0


def event_router() -> KafkaRouter:
    """Return a router whose subscribers receive CloudEvents."""
    return KafkaRouter(parser=parse_records, decoder=decode_events)


class Provided(CustomField):
    """A dependency that :meth:`KafkaRuntime.include` was given under the name of the parameter.

    Used instead of FastStream's ``Context()``, which FastDepends resolves in a worker thread for each call of an
    asynchronous subscriber: that took 75 µs of the 280 µs that a micro-batch of one event costs, and longer while the
    event loop is busy. An asynchronous ``use`` stays on the event loop.
    """

    def __init__(self) -> None:
        super().__init__(cast=False)

    async def use(self, /, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # FastDepends awaits either
        """Inject the dependency."""
        name = str(self.param_name)
        return {**kwargs, name: kwargs["context__"].get(name)}


def publishes(router: KafkaRouter, *events: type[Event]) -> None:
    """Declare the events that a service publishes, for the AsyncAPI document.

    They are published through the outbox by a :class:`KafkaPublisher`, hundreds in one request, not by FastStream.
    """
    for event in events:
        title = f"{event.__name__} on {topic_of(event).name}"
        router.publisher(topic_of(event).name, schema=event, title=title, description=event.__doc__)


class Broker(KafkaBroker):
    """A ``KafkaBroker`` that only consumes, with the middlewares of this package and a waiting consumer."""

    def __init__(
        self,
        settings: KafkaSettings,
        service: ServiceName,
        dead_letters: DeadLetterSink,
        *,
        clock: Clock,
        policy: RetryPolicy | None = None,
    ) -> None:
        tolerant_record_reader.install()
        super().__init__(
            settings.bootstrap_servers,
            client_id=f"bucketline-{service}",
            security=security(settings),
            sasl_oauth_token_provider=token_provider(settings),
            request_timeout_ms=settings.request_timeout_ms,
            consumer_only=True,
            allow_auto_create_topics=False,
            graceful_timeout=GRACEFUL_SECONDS,
            logger=_ErrorLogger(),
        )
        self._settings = settings
        policy = policy or RetryPolicy(attempts=settings.retry_max_attempts, budget=settings.retry_timeout_seconds)
        self._consuming = Consuming(policy, dead_letters, clock)
        self._event_middlewares = [
            partial(middleware, consuming=self._consuming)
            for middleware in (AcknowledgeMiddleware, DeadLetterMiddleware, RetryMiddleware, TracingMiddleware)
        ]

    def include(
        self, router: KafkaRouter, dependencies: Mapping[str, object], *, max_records: int | None = None
    ) -> list[BatchSubscriber]:
        """Add a service's subscribers, with the prefixes of this deployment, and return them.

        ``dependencies`` are injected by name into parameters that are declared with ``Provided()``.
        """
        for name, dependency in dependencies.items():
            self.context.set_global(name, dependency)
        self.include_router(router, prefix=self._settings.topic_prefix, middlewares=self._event_middlewares)
        subscribers = [cast("BatchSubscriber", subscriber) for subscriber in router.subscribers]
        for subscriber in subscribers:
            if not isinstance(subscriber, BatchSubscriber) or subscriber.ack_policy is not AckPolicy.MANUAL:
                raise TypeError(f"{subscriber.calls.name}: declare it with batch=True, ack_policy=AckPolicy.MANUAL")
            subscriber.max_records = max_records or self._settings.max_batch_size
            (topic,) = subscriber.topic_names
            group = f"{self._settings.group_prefix}{subscriber.group_id}"
            self._consuming.groups[topic] = group
            self._consuming.subscribed[topic] = _event_types(subscriber, dependencies)
            # A counter that first appears with its first increase is an increase that no alert sees.
            DEAD_LETTERS.labels(topic, group)
            RETRIES.labels(topic)
            for outcome in ("handled", "ignored", "dead_lettered"):
                RECORDS.labels(topic, outcome)
        return subscribers

    async def _connect(self) -> Callable[..., BatchConsumer]:
        """Replace the builder of consumers: see :mod:`bucketline.kafka.batch_consumer`."""
        builder = cast("partial[object]", await super()._connect())
        self.config.broker_config.builder = partial(self._create_consumer, builder.keywords)
        return self.config.broker_config.builder

    def _create_consumer(self, connection: Mapping[str, Any], *, group_id: str, **options: Any) -> BatchConsumer:
        settings = self._settings
        own = {
            "group_id": settings.group_prefix + group_id,
            "auto_offset_reset": "earliest",
            "max_poll_interval_ms": round(MAX_POLL_SECONDS * 1000),
            "fetch_max_wait_ms": settings.fetch_max_wait_ms,
            "session_timeout_ms": settings.session_timeout_ms,
            "heartbeat_interval_ms": settings.heartbeat_interval_ms,
        }
        return BatchConsumer(**{**connection, **options, **own})


class KafkaRuntime:
    """The publisher, the broker and the consumer monitor of one service. Include its router, then enter it.

    Entering returns at once and connects in the background, so an unavailable broker or a rebalancing group does not
    keep the service from serving requests. Leaving stops fetching and lets running subscribers finish and commit.
    """

    def __init__(self, settings: KafkaSettings, service: ServiceName, *, clock: Clock) -> None:
        self._settings = settings
        self.publisher = KafkaPublisher(settings)
        self.broker = Broker(settings, service, KafkaDeadLetters(self.publisher, service), clock=clock)
        self.monitor = ConsumerMonitor(settings, self.publisher.ping)
        self._connecting: asyncio.Task[None] | None = None

    def include(self, router: KafkaRouter, *, max_records: int | None = None, **dependencies: object) -> None:
        """Consume with the subscribers of ``router``. ``dependencies`` are injected with ``Provided()``."""
        for subscriber in self.broker.include(router, dependencies, max_records=max_records):
            self.monitor.watch(subscriber)

    async def __aenter__(self) -> Self:
        self._connecting = asyncio.create_task(self._connect(), name="connect to Kafka")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        await self.broker.stop()
        await self.publisher.__aexit__(kind, error, tb)

    async def _connect(self) -> None:
        # Retried until the service stops: readiness and the log show that it is not connected.
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Exception),
            wait=wait_random_exponential(multiplier=0.2, max=MAX_CONNECT_PAUSE),
            before_sleep=lambda state: log.warning("broker not available", error=repr(_reason(state))),
        ):
            with attempt:
                if self._settings.create_topics:
                    await ensure_topics(self._settings)
                await self.broker.connect()
                await self.publisher.__aenter__()
        await self.monitor.start()


def _event_types(subscriber: BatchSubscriber, dependencies: Mapping[str, object]) -> tuple[type[Event], ...]:
    """Return the event types in the annotation ``Events[A | B]`` of a subscriber, and check its other parameters."""
    (call,) = subscriber.calls
    types: tuple[type[Event], ...] = ()
    for name, hint in get_type_hints(call.handler._declared_call, include_extras=True).items():
        annotated, *metadata = get_args(hint) or (hint,)
        if any(isinstance(one, Provided) for one in metadata) and name not in dependencies:
            raise TypeError(f"{call.name}: {name} is not provided")
        if get_origin(annotated) is Sequence:
            ((events,),) = (get_args(received) for received in get_args(annotated))
            types = get_args(events) or (events,)
    if not types:
        raise TypeError(f"{call.name}: a parameter of the type Events[...] is missing")
    return types


def _reason(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class _ErrorLogger:
    """Passes FastStream's errors on to the service's log."""

    def log(
        self, level: int, msg: object, /, *, exc_info: object = None, extra: Mapping[str, object] | None = None
    ) -> None:
        if level >= logging.ERROR and isinstance(exc_info, Exception):
            log.error("consumer failed", what=msg, error=repr(exc_info), **(extra or {}))
