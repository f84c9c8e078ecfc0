"""CloudEvents 1.0 in Kafka's binary mode: attributes in headers, the payload alone in the value.

An envelope is made once, when the fact is written, and carried unchanged however often it is published:
``(source, id)`` is the event's identity, and a duplicate on the wire has the same one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Generic, TypeAlias, get_args

import orjson
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeVar

from bucketline.clock import wire_time
from bucketline.errors import NonRetryableError, ProcessingError
from bucketline.events.models import EVENT_TYPES_BY_NAME, NAMESPACE, Event
from bucketline.events.topics import topic_of

Headers = tuple[tuple[str, bytes], ...]

CONTENT_TYPE = "application/json"

REPLAY = "/bucketline/replay"
"""The source of events that tell again what has long happened: nothing follows from them but for who missed it."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event ready for the wire. ``data`` is its JSON; ``trace`` holds W3C trace headers of its cause.

    ``topic``, without the deployment's prefix, is where it goes. It is kept with the event: an outbox is emptied by
    whichever replica comes by, and an older one may not know the type.
    """

    topic: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    key: str
    data: bytes
    trace: Mapping[str, str] = field(default_factory=dict)

    def headers(self, trace: Mapping[str, str] | None = None) -> Headers:
        """The record's headers; with ``trace`` that of the publishing in place of the cause's."""
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("ce_subject", self.subject.encode()),
            ("ce_time", self.time.encode()),
            ("content-type", CONTENT_TYPE.encode()),
            *((name, value.encode()) for name, value in (self.trace if trace is None else trace).items()),
        )

    def to_document(self) -> dict[str, object]:
        """As it is stored in an object's or batch's ``pending`` list."""
        return {
            "topic": self.topic,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": self.time,
            "key": self.key,
            "data": self.data.decode(),
            "trace": dict(self.trace),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> "CloudEvent":
        trace = document.get("trace")
        return cls(
            # What was stored before topics were kept is of a type that is still known.
            topic=str(document.get("topic") or topic_of(EVENT_TYPES_BY_NAME[str(document["type"])]).name),
            id=str(document["id"]),
            source=str(document["source"]),
            type=str(document["type"]),
            subject=str(document["subject"]),
            time=str(document["time"]),
            key=str(document["key"]),
            data=str(document["data"]).encode(),
            trace={str(k): str(v) for k, v in trace.items()} if isinstance(trace, Mapping) else {},
        )


def wrap(event: Event, *, id: str, source: str, at: datetime, trace: Mapping[str, str] | None = None) -> CloudEvent:  # noqa: A002
    """The envelope of ``event``. ``source`` names the service, e.g. ``/bucketline/ingest-api``."""
    return CloudEvent(
        topic=topic_of(type(event)).name,
        id=id,
        source=source,
        type=event.type,
        subject=event.subject,
        time=wire_time(at),
        key=event.key,
        data=event.model_dump_json().encode(),
        trace=dict(trace or {}),
    )


E = TypeVar("E", bound=Event, default=Event, covariant=True)


@dataclass(frozen=True, slots=True)
class ReceivedEvent(Generic[E]):
    """A decoded event with its CloudEvents identity and trace. ``partition`` and ``offset`` are -1 when unknown."""

    event: E
    id: str
    source: str
    trace: Mapping[str, str]
    partition: int = -1
    offset: int = -1


class _EventPayload:
    """Describes :data:`Events` to pydantic: in memory it is anything, on the wire each record is one of the events."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        ((event,),) = (get_args(received) for received in get_args(source))
        return core_schema.json_or_python_schema(
            json_schema=handler.generate_schema(event), python_schema=core_schema.any_schema()
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Always name a list of events: FastStream takes a lone reference for the first model it finds."""
        found = handler(schema)
        return found if "anyOf" in found else {"anyOf": [found]}


Events: TypeAlias = Annotated[Sequence[ReceivedEvent[E]], _EventPayload()]
"""The parameter of a subscriber: a micro-batch of decoded events. Types that it does not name are not delivered."""


class UnknownEventType(ProcessingError):
    """An event of ours whose type this version does not know: a newer version, running beside this one, said it."""

    retryable = False

    def __init__(self, kind: str) -> None:
        super().__init__(f"events of type {kind} are not known here")
        self.kind = kind


def unwrap(
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]] | None,
    *,
    partition: int = -1,
    offset: int = -1,
) -> ReceivedEvent:
    """Reads a record of ours, in binary mode or (from other publishers) in structured mode.

    Tolerant of headers that are null or not UTF-8, as long as the attributes themselves can be read, and of fields that
    this version does not know. Raises :class:`UnknownEventType` for a type in our namespace that is not in the
    catalog, and
    :class:`NonRetryableError` for everything else, saying what is wrong.
    """
    attributes = {name: _text(raw) for name, raw in headers or () if raw is not None}
    if value is None:
        raise NonRetryableError("the record has no value")
    try:
        payload = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise NonRetryableError(f"the value is not JSON: {error}") from error
    if (attributes.get("content-type") or "").startswith("application/cloudevents+json"):
        attributes, payload = _structured(payload)
    kind = attributes.get("ce_type")
    if not kind:
        raise NonRetryableError("the record has no readable ce_type header")
    event_class = EVENT_TYPES_BY_NAME.get(kind)
    if event_class is None:
        raise (
            UnknownEventType(kind) if kind.startswith(NAMESPACE) else NonRetryableError(f"unknown event type {kind!r}")
        )
    identity, source = attributes.get("ce_id"), attributes.get("ce_source")
    if not identity or not source:
        raise NonRetryableError("the record has no readable ce_id or ce_source header")
    try:
        event = event_class.model_validate(payload)
    except ValidationError as error:
        raise NonRetryableError(f"not a {kind}: {error.errors(include_url=False, include_input=False)}") from error
    trace = {name: found for name in ("traceparent", "tracestate") if (found := attributes.get(name))}
    return ReceivedEvent(event=event, id=identity, source=source, trace=trace, partition=partition, offset=offset)


def _structured(payload: object) -> tuple[dict[str, str | None], object]:
    if not isinstance(payload, dict):
        raise NonRetryableError("a structured CloudEvent must be a JSON object")
    attributes = {f"ce_{name}": str(found) for name, found in payload.items() if name != "data"}
    trace = {name: str(payload[name]) for name in ("traceparent", "tracestate") if name in payload}
    return {**attributes, **trace}, payload.get("data")


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
