"""Publishing. An envelope goes to the topic of its event's type, keyed so that one object's events keep their order."""

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from bucketline.errors import Poison, StoreUnavailable, Transient
from bucketline.events.envelope import Envelope
from bucketline.messaging.connection import client_options
from bucketline.settings import KafkaSettings
from bucketline.telemetry.messages import sending
from bucketline.telemetry.metrics import PUBLISHED

LARGEST_RECORD = 2 * 1024 * 1024
"""Bytes. Our events stay far below; a parked record of the usual limit, 1 MiB, must fit with its context."""


class NotPublished(Transient, StoreUnavailable):
    """The broker did not confirm. As with every store, what was asked may or may not have happened."""


RawHeaders = Sequence[tuple[str, bytes | None]]


class Publisher(Protocol):
    """Puts events on the bus."""

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Returns when every in-sync replica has all of them.

        Raises :class:`NotPublished` when some may not be there; publish all again then: duplicates are allowed on the
        wire, and events of one key keep their order as long as the whole sequence is published again. Raises
        :class:`Poison` for a record that is larger than any broker of ours takes.
        """
        ...


class KafkaPublisher:
    """One aiokafka producer with ``acks=all``.

    The producer is used directly and not through FastStream: the outbox publishes hundreds of records in one go, with
    headers exactly as CloudEvents wants them.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._prefix = settings.topic_prefix
        self._timeout = settings.request_timeout_ms / 1000 * 2
        self._producer = AIOKafkaProducer(
            **client_options(settings),
            acks="all",
            enable_idempotence=settings.idempotent,
            request_timeout_ms=settings.request_timeout_ms,
            max_request_size=LARGEST_RECORD,
            max_batch_size=256 * 1024,
            linger_ms=0,
        )
        self._started = False

    async def __aenter__(self) -> Self:
        await self._producer.start()
        self._started = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._started = False
        await asyncio.wait_for(self._producer.stop(), 10)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        topics = [self._prefix + envelope.topic for envelope in envelopes]
        with sending(topics, envelopes) as traces:
            await self.publish_raw(
                (topic, envelope.key.encode(), envelope.data, envelope.headers(trace))
                for topic, envelope, trace in zip(topics, envelopes, traces, strict=True)
            )

    async def publish_raw(self, records: Iterable[tuple[str, bytes | None, bytes | None, RawHeaders]]) -> None:
        """Publishes (topic, key, value, headers) as they are; the same promise as :meth:`publish`."""
        sent: list[asyncio.Future[object]] = []
        topics: list[str] = []
        try:
            async with asyncio.timeout(self._timeout):
                for topic, key, value, headers in records:
                    sent.append(await self._producer.send(topic, value=value, key=key, headers=list(headers)))
                    topics.append(topic)
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError) as error:
            # The others of the group may still fail; their outcome is known to be unknown.
            for future in sent:
                future.add_done_callback(_forget)
            if isinstance(error, MessageSizeTooLargeError):
                raise Poison(f"not published: larger than {LARGEST_RECORD} bytes, or than the broker allows") from error
            raise NotPublished(f"not published: {type(error).__name__}") from error
        for topic in topics:
            PUBLISHED.labels(topic).inc()

    async def ping(self) -> None:
        """Raises when the broker cannot be reached."""
        if not self._started:
            raise NotPublished("the producer is not connected")
        await self._producer.client.fetch_all_metadata()


def _forget(future: "asyncio.Future[object]") -> None:
    if not future.cancelled():
        future.exception()


class RecordingPublisher:
    """For unit tests: keeps what was published; fails on demand, and always for the ids in ``too_large``."""

    def __init__(self) -> None:
        self.published: list[Envelope] = []
        self.failures = 0
        self.too_large: set[str] = set()

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        if any(envelope.id in self.too_large for envelope in envelopes):
            raise Poison("not published: told that it is too large")
        if self.failures:
            self.failures -= 1
            raise NotPublished("not published: told to fail")
        self.published.extend(envelopes)
