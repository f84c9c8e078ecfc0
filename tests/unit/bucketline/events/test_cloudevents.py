"""The envelope on the wire: what every CloudEvents consumer expects, and how tolerant ours is of others."""

import orjson
import pytest
from tests.unit.bucketline.kafka.fakes import AT, deleted

from bucketline.errors import NonRetryableError
from bucketline.events.cloudevents import CloudEvent, UnknownEventType, decode_event, encode_event
from bucketline.events.models import ObjectDeleted

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
SEALED = encode_event(deleted("obj_1"), id="evt_1", source="/bucketline/ingest-api", at=AT, trace=TRACE)


def test_attributes_are_in_the_headers_and_the_payload_alone_in_the_value() -> None:
    assert dict(SEALED.headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": b"evt_1",
        "ce_source": b"/bucketline/ingest-api",
        "ce_type": b"bucketline.object.deleted.v1",
        "ce_subject": b"obj_1",
        "ce_time": b"2026-01-01T00:00:00.000Z",
        "ce_dataschema": b"urn:bucketline:schema:bucketline.object.deleted.v1",
        "content-type": b"application/json",
        "traceparent": TRACE["traceparent"].encode(),
    }
    assert orjson.loads(SEALED.data)["object_id"] == "obj_1"
    assert SEALED.key == "obj_1"


def test_published_event_is_decoded() -> None:
    received = decode_event(SEALED.data, SEALED.headers(), partition=3, offset=9)
    assert received.event == deleted("obj_1")
    assert (received.id, received.source) == ("evt_1", "/bucketline/ingest-api")
    assert received.trace == TRACE
    assert (received.partition, received.offset) == (3, 9)


def test_an_envelope_survives_its_stay_in_a_document() -> None:
    assert CloudEvent.from_document(SEALED.to_document()) == SEALED


def test_unused_headers_may_be_null_or_not_utf8() -> None:
    headers = [*SEALED.headers(), ("x-null", None), ("x-bytes", b"\xff\xfe"), ("", b"")]
    assert decode_event(SEALED.data, headers).event == deleted("obj_1")


def test_fields_of_a_newer_version_are_ignored() -> None:
    newer = orjson.dumps({**orjson.loads(SEALED.data), "added_later": {"deep": [1]}})
    assert decode_event(newer, SEALED.headers()).event == deleted("obj_1")


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "application/cloudevents+json; charset=UTF-8"]
)
def test_structured_mode_of_another_publisher(content_type: str) -> None:
    value = orjson.dumps(
        {
            "specversion": "1.0",
            "id": "7",
            "source": "/elsewhere",
            "type": ObjectDeleted.type,
            "traceparent": TRACE["traceparent"],
            "data": orjson.loads(SEALED.data),
        }
    )
    received = decode_event(value, [("content-type", content_type.encode())])
    assert received.event == deleted("obj_1")
    assert (received.id, received.source, received.trace) == ("7", "/elsewhere", TRACE)


def test_unknown_event_type_differs_from_invalid_records() -> None:
    headers = [("ce_type", b"bucketline.object.archived.v3"), ("ce_id", b"1"), ("ce_source", b"/x")]
    with pytest.raises(UnknownEventType) as caught:
        decode_event(b"{}", headers)
    assert caught.value.kind == "bucketline.object.archived.v3"


@pytest.mark.parametrize(
    ("value", "headers", "why"),
    [
        (None, SEALED.headers(), "no value"),
        (b"", SEALED.headers(), "not JSON"),
        (b"{", SEALED.headers(), "not JSON"),
        (b"\xff", SEALED.headers(), "not JSON"),
        (b"[]", SEALED.headers(), "not a bucketline.object.deleted.v1"),
        (b'{"object_id": 1}', SEALED.headers(), "not a bucketline.object.deleted.v1"),
        (SEALED.data, None, "ce_type"),
        (SEALED.data, [("ce_type", b"\xff")], "ce_type"),
        (SEALED.data, [("ce_type", b"com.example.thing")], "com.example.thing"),
        (SEALED.data, [("ce_type", ObjectDeleted.type.encode()), ("ce_id", b"\xff"), ("ce_source", b"/x")], "ce_id"),
        (b"[]", [("content-type", b"application/cloudevents+json")], "structured"),
    ],
)
def test_unreadable_file_has_an_error_with_the_reason(value: bytes | None, headers: object, why: str) -> None:
    with pytest.raises(NonRetryableError, match=why):
        decode_event(value, headers)  # type: ignore[arg-type]  # what a broker may deliver


def test_the_reason_does_not_repeat_the_payload() -> None:
    secret = b'{"object_id": {"token": "hunter2"}}'
    with pytest.raises(NonRetryableError) as caught:
        decode_event(secret, SEALED.headers())
    assert "hunter2" not in caught.value.message
