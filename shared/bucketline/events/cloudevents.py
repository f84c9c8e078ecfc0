"""CloudEvents 1.0 in Kafka's binary mode: attributes in headers, the payload alone in the value.

A CloudEvent is created once, with the state change, and published unchanged however often that happens: ``(source,
id)`` is the identity of the event, and duplicates have the same one.
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
from bucketline.events.models import EVENT_TYPES_BY_NAME, NAMESPACE, Event, schema_name
from bucketline.events.topics import topic_of

Headers = tuple[tuple[str, bytes], ...]

CONTENT_TYPE = "application/json"

REPLAY = "/bucketline/replay"
"""The source of events that are published again for subscribers that missed them."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An encoded event. ``data`` is its JSON, and ``trace`` has the W3C trace headers of its cause.

    ``topic`` has no prefix. It is stored with the event because the replica that publishes an outbox entry may be of an
    older release that does not know the type.
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
        """Return the record's headers, with ``trace`` in place of the event's own trace if it is given."""
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("ce_subject", self.subject.encode()),
            ("ce_time", self.time.encode()),
            ("ce_dataschema", schema_name(self.type).encode()),
            ("content-type", CONTENT_TYPE.encode()),
            *((name, value.encode()) for name, value in (self.trace if trace is None else trace).items()),
        )

    def to_document(self) -> dict[str, object]:
        """Return the event as it is stored in the outbox."""
        document: dict[str, object] = {name: getattr(self, name) for name in _TEXT_FIELDS}
        return {**document, "data": self.data.decode(), "trace": dict(self.trace)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "CloudEvent":
        """Return the event that was stored with :meth:`to_document`."""
        text = {name: document[name] for name in _TEXT_FIELDS}
        return cls(**text, data=document["data"].encode(), trace=document["trace"])


_TEXT_FIELDS = ("topic", "id", "source", "type", "subject", "time", "key")


def encode_event(
    event: Event,
    *,
    id: str,  # noqa: A002
    source: str,
    at: datetime,
    trace: Mapping[str, str] | None = None,
) -> CloudEvent:
    """Return the CloudEvent of ``event``. ``source`` names the service, for example ``/bucketline/ingest-api``."""
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
    """Tells pydantic that :data:`Events` is not validated, and that its JSON schema is that of one event."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return a schema that accepts anything in Python and one of the events in JSON."""
        ((event,),) = (get_args(received) for received in get_args(source))
        return core_schema.json_or_python_schema(
            json_schema=handler.generate_schema(event), python_schema=core_schema.any_schema()
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return a list of events, even for one, because FastStream resolves a single reference to the wrong model."""
        json_schema = handler(schema)
        return json_schema if "anyOf" in json_schema else {"anyOf": [json_schema]}


Events: TypeAlias = Annotated[Sequence[ReceivedEvent[E]], _EventPayload()]
"""The parameter of a subscriber: a micro-batch of decoded events. Only the types that it names are delivered."""


class UnknownEventType(ProcessingError):
    """A Bucketline event whose type this release does not know, because a newer release published it."""

    retryable = False

    def __init__(self, kind: str) -> None:
        super().__init__(f"unknown event type {kind!r}")
        self.kind = kind


def decode_event(
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]] | None,
    *,
    partition: int = -1,
    offset: int = -1,
) -> ReceivedEvent:
    """Decode a record in binary mode or, from other publishers, in structured mode.

    Ignores unknown fields, and headers that are null or not UTF-8. Raises :class:`UnknownEventType` for a type in our
    namespace that this release does not know, and :class:`NonRetryableError` for every other invalid record.
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
        if kind.startswith(NAMESPACE):
            raise UnknownEventType(kind)
        raise NonRetryableError(f"unknown event type {kind!r}")
    identity, source = attributes.get("ce_id"), attributes.get("ce_source")
    if not identity or not source:
        raise NonRetryableError("the record has no readable ce_id or ce_source header")
    try:
        event = event_class.model_validate(payload)
    except ValidationError as error:
        raise NonRetryableError(f"not a {kind}: {error.errors(include_url=False, include_input=False)}") from error
    trace = {name: text for name in ("traceparent", "tracestate") if (text := attributes.get(name))}
    return ReceivedEvent(event=event, id=identity, source=source, trace=trace, partition=partition, offset=offset)


def _structured(payload: object) -> tuple[dict[str, str | None], object]:
    if not isinstance(payload, dict):
        raise NonRetryableError("a structured CloudEvent must be a JSON object")
    attributes = {f"ce_{name}": str(item) for name, item in payload.items() if name != "data"}
    trace = {name: str(payload[name]) for name in ("traceparent", "tracestate") if name in payload}
    return {**attributes, **trace}, payload.get("data")


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
