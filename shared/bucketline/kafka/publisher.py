"""Publishes events to the topic of their type, with a key that keeps the events of one object in order."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, ProducerClosed
from aiokafka.protocol.admin import ApiVersionRequest

from bucketline.errors import DependencyUnavailable, NonRetryableError, RetryableError
from bucketline.events.cloudevents import CloudEvent
from bucketline.kafka.client_config import client_options
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import PUBLISHED
from bucketline.observability.tracing import start_producer_spans
from bucketline.settings import KafkaSettings

log = get_logger(__name__)

CLOSE_SECONDS = 10.0
MAX_RECORD = 2 * 1024 * 1024
"""Maximum bytes of a record: a record of 1 MiB, the usual limit, must fit as a dead letter with its failure context."""


class NotPublished(RetryableError, DependencyUnavailable):
    """The broker did not acknowledge the records. They may or may not have been stored."""


RawHeaders = Sequence[tuple[str, bytes | None]]


class Publisher(Protocol):
    """Publishes events."""

    async def publish(self, events: Sequence[CloudEvent]) -> None:
        """Publish the events and return when every in-sync replica has them.

        Raises :class:`NotPublished` if some may be missing. Publish the whole sequence again then, so that events of
        one key keep their order. Raises :class:`NonRetryableError` for a record that is too large.
        """
        ...


class KafkaPublisher:
    """An aiokafka producer with ``acks=all``, connected while it is entered.

    The producer is used directly and not through FastStream, because the outbox publishes hundreds of records in one
    request, with the headers of CloudEvents.

    An idempotent producer numbers its records. A rejected record leaves a gap in the numbers of its partition, and the
    broker would reject all later records, so the producer is replaced.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._timeout = settings.request_timeout_ms / 1000 * 2
        self._producer: AIOKafkaProducer | None = None
        self._replacing = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Connect. Raises aiokafka's ``KafkaError`` if no broker responds; it may be entered again then."""
        self._producer = await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _close(producer)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_SECONDS)

    async def publish(self, events: Sequence[CloudEvent]) -> None:
        """Publish the events, each in its own trace."""
        topics = [self._prefix + event.topic for event in events]
        with start_producer_spans(topics, events) as traces:
            await self.publish_raw(
                (topic, event.key.encode(), event.data, event.headers(trace))
                for topic, event, trace in zip(topics, events, traces, strict=True)
            )

    async def publish_raw(self, records: Iterable[tuple[str, bytes | None, bytes | None, RawHeaders]]) -> None:
        """Publish records (topic, key, value, headers) unchanged, with the guarantees of :class:`Publisher`."""
        producer = self._connection()
        sent: list[asyncio.Future[object]] = []
        topics: list[str] = []
        try:
            async with asyncio.timeout(self._timeout):
                for topic, key, value, headers in records:
                    sent.append(await producer.send(topic, value=value, key=key, headers=list(headers)))
                    topics.append(topic)
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError) as error:
            # The other records may fail later; their errors need no handling.
            for future in sent:
                future.add_done_callback(_forget)
            if self._is_broken_by(error, sent):
                await self._replace(producer)
            if isinstance(error, MessageSizeTooLargeError):
                raise NonRetryableError(
                    f"not published: larger than {MAX_RECORD} bytes, or than the broker allows"
                ) from error
            raise NotPublished(f"not published: {type(error).__name__}") from error
        for topic in topics:
            PUBLISHED.labels(topic).inc()

    async def ping(self) -> None:
        """Raise :class:`NotPublished` if no broker can be reached."""
        client = self._connection().client
        nodes = [broker.nodeId for broker in client.cluster.brokers()]
        for node in random.sample(nodes, len(nodes)):
            with suppress(KafkaError):
                await client.send(node, ApiVersionRequest())
                return
        raise NotPublished("no broker responds")

    def _connection(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise NotPublished("not published: the producer is not connected")
        return self._producer

    async def _connected(self) -> AIOKafkaProducer:
        settings = self._settings
        producer = AIOKafkaProducer(
            **client_options(settings),
            acks="all",
            enable_idempotence=settings.enable_idempotence,
            request_timeout_ms=settings.request_timeout_ms,
            max_request_size=MAX_RECORD,
            max_batch_size=256 * 1024,
            linger_ms=0,
        )
        try:
            async with asyncio.timeout(self._timeout):
                await producer.start()
        except BaseException:
            await _close(producer)
            raise
        return producer

    def _is_broken_by(self, error: Exception, sent: Sequence["asyncio.Future[object]"]) -> bool:
        """Return whether the broker rejected a numbered record, or the producer has failed altogether."""
        if not isinstance(error, KafkaError) or error.retriable or isinstance(error, KafkaTimeoutError):
            return False
        if any(future.done() and not future.cancelled() and future.exception() for future in sent):
            return self._settings.enable_idempotence
        return not isinstance(error, MessageSizeTooLargeError | ProducerClosed)

    async def _replace(self, broken: AIOKafkaProducer) -> None:
        async with self._replacing:
            if self._producer is not broken:
                return
            try:
                self._producer = await self._connected()
            except (KafkaError, TimeoutError, OSError) as error:
                log.warning("producer not replaced", error=repr(error))
                return
        log.warning("producer replaced")
        closing = asyncio.create_task(_close(broken))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


async def _close(producer: AIOKafkaProducer) -> None:
    """Publish the queued records within the time limit and disconnect."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        log.warning("producer not stopped", error=repr(error))


def _forget(future: "asyncio.Future[object]") -> None:
    if not future.cancelled():
        future.exception()
