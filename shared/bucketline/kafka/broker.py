"""The bus of one service: FastStream for consuming, with safe settings in one place.

FastStream's own defaults lose records (acknowledge first, start at the end, ``acks=1``). Here: one topic a subscriber,
``AckPolicy.MANUAL``, one worker, from the earliest offset, topics never created on the side, and reading that no header
can break.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from bucketline.clock import Clock
from bucketline.events.topics import Topic
from bucketline.kafka import tolerant_record_reader
from bucketline.kafka.batch_consumer import Delivery, Intake
from bucketline.kafka.client_config import security
from bucketline.kafka.consumer_monitor import Watchdog, Watched
from bucketline.kafka.dead_letters import KafkaParking
from bucketline.kafka.publisher import KafkaPublisher
from bucketline.kafka.retry import MAX_POLL, Handler, RetryPolicy
from bucketline.kafka.topic_admin import ensure_topics
from bucketline.observability.logging import get_logger
from bucketline.settings import KafkaSettings, ServiceName

log = get_logger(__name__)

GRACEFUL_SECONDS = 15.0
MAX_PAUSE = 5.0


class Bus:
    """Publishes and consumes for one service. Register handlers, then enter it.

    Entering returns at once and connects in the background, for as long as it takes: a broker that is away, or a group
    that waits for a member that was killed, keeps nobody from serving requests. Whether it consumes is asked of the
    ``watchdog``. Leaving stops fetching, lets the running handlers finish, commits.
    """

    def __init__(self, settings: KafkaSettings, service: ServiceName, *, clock: Clock) -> None:
        tolerant_record_reader.install()
        self._settings = settings
        self._service = service
        self._clock = clock
        self.publisher = KafkaPublisher(settings)
        self._parking = KafkaParking(self.publisher, service)
        self._broker = KafkaBroker(
            settings.bootstrap_servers,
            client_id=f"bucketline-{service}",
            security=security(settings),
            request_timeout_ms=settings.request_timeout_ms,
            acks="all",
            enable_idempotence=settings.enable_idempotence,
            allow_auto_create_topics=False,
            graceful_timeout=GRACEFUL_SECONDS,
            apply_types=False,
            logger=_Errors(),
        )
        self._intakes: list[Intake] = []
        self._joining: asyncio.Task[None] | None = None
        self.watchdog = Watchdog(settings, self.publisher.ping)

    def subscribe(self, topic: Topic, handler: Handler, *, max_records: int | None = None) -> None:
        """Handles every record of ``topic`` with ``handler``, in micro-batches of at most ``max_records``."""
        name = self._settings.topic_prefix + topic.name
        group = self._settings.group_prefix + topic.group(self._service)
        intake = Intake(
            name,
            group,
            handler,
            parking=self._parking,
            clock=self._clock,
            policy=RetryPolicy(attempts=self._settings.retry_max_attempts, budget=self._settings.retry_timeout_seconds),
            max_records=max_records or self._settings.max_batch_size,
        )
        subscriber = self._broker.subscriber(
            name,
            group_id=group,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self._settings.fetch_max_wait_ms,
            session_timeout_ms=self._settings.session_timeout_ms,
            heartbeat_interval_ms=self._settings.heartbeat_interval_ms,
            max_poll_interval_ms=round(MAX_POLL * 1000),
            listener=_SettleFirst(intake),
            parser=_tolerant,
            decoder=_undecoded,
        )

        async def deliver(message: KafkaMessage) -> None:
            await intake(cast("Delivery", message))

        subscriber(deliver)
        self._intakes.append(intake)
        self.watchdog.watch(cast("Watched", subscriber), intake)

    async def __aenter__(self) -> Self:
        self._joining = asyncio.create_task(self._join(), name="join the bus")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.wait({self._joining})
        for intake in self._intakes:
            await intake.closing()
        await self._broker.stop()
        await self.publisher.__aexit__(kind, error, tb)

    async def _join(self) -> None:
        # No limit to the tries but the end of the service: readiness and the log tell that it is not connected.
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Exception),
            wait=wait_random_exponential(multiplier=0.2, max=MAX_PAUSE),
            before_sleep=lambda state: log.warning("waiting for the broker", error=repr(_reason(state))),
        ):
            with attempt:
                if self._settings.create_topics:
                    await ensure_topics(self._settings)
                await self._broker.connect()
                await self.publisher.__aenter__()
        await self.watchdog.start()


def _reason(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class _Errors:
    """What FastStream has to say, as far as it is about something that went wrong."""

    def log(
        self, level: int, msg: object, /, *, exc_info: object = None, extra: Mapping[str, object] | None = None
    ) -> None:
        if level >= logging.ERROR and isinstance(exc_info, Exception):
            log.error("the consumer failed, trying again", what=msg, error=repr(exc_info), **(extra or {}))


class _SettleFirst(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Commits what is handled before partitions move to another member, and tells the intake where it stands."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._intake.revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._intake.assigned()


async def _tolerant(
    record: "ConsumerRecord[Any, Any]", original: Callable[["ConsumerRecord[Any, Any]"], Awaitable[KafkaMessage]]
) -> KafkaMessage:
    """FastStream's parser loses a record with a header that is not UTF-8 or is null; it never sees the headers."""
    message = await original(replace(record, headers=()))
    message.raw_message = record
    return message


async def _undecoded(message: KafkaMessage) -> KafkaMessage:
    return message
