"""Parking: where a record goes that cannot be handled, untouched and with its context, to be replayed later.

One that the parking topic does not take as it is (it is larger than a record there may be) leaves the beginning of its
value and its place, and is marked :data:`INCOMPLETE`: a person is told, the partition goes on, and nothing replays it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aiokafka import ConsumerRecord

from bucketline.clock import wire_time
from bucketline.errors import DependencyUnavailable
from bucketline.events.cloudevents import CloudEvent
from bucketline.events.topics import parking_topic
from bucketline.kafka.publisher import KafkaPublisher, RawHeaders
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import PARKED

log = get_logger(__name__)

PREFIX = "bucketline-parked-"
INCOMPLETE = f"{PREFIX}incomplete"
"""A header that says why what is parked is not the record as it came. It must not be replayed."""

MAX_ERROR = 2000
MAX_CUT = 64 * 1024
"""Bytes that are kept of a value, a key, and all headers of a record that could not be parked whole."""


@dataclass(frozen=True)
class Reason:
    """Why and after what a record was parked."""

    error: BaseException
    attempts: int
    group: str
    first_at: datetime
    at: datetime


class Parking(Protocol):
    """Takes records out of the way without losing them."""

    async def park(self, record: "ConsumerRecord[bytes, bytes]", reason: Reason) -> None:
        """Returns when the record is safely parked; raises a :class:`~bucketline.errors.ProcessingError` otherwise."""
        ...


class KafkaParking:
    """One parking topic a consumed topic and group: ``<topic>.parked.<service>``."""

    def __init__(self, publisher: KafkaPublisher, service: str) -> None:
        self._publisher = publisher
        self._service = service

    async def park(self, record: "ConsumerRecord[bytes, bytes]", reason: Reason) -> None:
        topic = parking_topic(record.topic, self._service)
        context = context_headers(record, reason)
        # aiokafka sends nothing that has neither key nor value.
        key = b"" if record.key is None and record.value is None else record.key
        try:
            await self._publisher.publish_raw([(topic, key, record.value, [*record.headers, *context])])
        except DependencyUnavailable:
            raise
        except Exception as error:
            log.warning("a record is parked without all of its value", topic=record.topic, error=repr(error))
            value, headers = _cut(record, error)
            await self._publisher.publish_raw([(topic, key and key[:MAX_CUT], value, [*headers, *context])])
        PARKED.labels(record.topic, reason.group).inc()

    async def park_event(self, topic: str, envelope: CloudEvent, reason: Reason) -> None:
        """Parks an event that its consumer says itself, for work that outlived the record: replayed, it comes again.

        ``topic`` is the one to be replayed to. Raises ``Transient`` when it may not be parked.
        """
        headers = [*envelope.headers(), *_context(topic, "-", "-", reason)]
        parking = parking_topic(topic, self._service)
        await self._publisher.publish_raw([(parking, envelope.key.encode(), envelope.data, headers)])
        PARKED.labels(topic, reason.group).inc()


def _cut(record: "ConsumerRecord[bytes, bytes]", error: Exception) -> tuple[bytes | None, RawHeaders]:
    """Value and headers of what is parked instead of the record."""
    why = f"cut, the value had {len(record.value or b'')} bytes: {error}"[:MAX_ERROR]
    small = sum(len(name) + len(value or b"") for name, value in record.headers) <= MAX_CUT
    kept = record.headers if small else ()
    return record.value and record.value[:MAX_CUT], [*kept, (INCOMPLETE, why.encode(errors="replace"))]


def context_headers(record: "ConsumerRecord[bytes, bytes]", reason: Reason) -> RawHeaders:
    """What a person needs to know about a parked record, as headers beside its own."""
    return _context(record.topic, str(record.partition), str(record.offset), reason)


def _context(topic: str, partition: str, offset: str, reason: Reason) -> RawHeaders:
    context = {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "group": reason.group,
        "error-type": type(reason.error).__name__,
        "error": str(reason.error)[:MAX_ERROR],
        "attempts": str(reason.attempts),
        "first-at": wire_time(reason.first_at),
        "at": wire_time(reason.at),
    }
    return [(PREFIX + name, value.encode(errors="replace")) for name, value in context.items()]
