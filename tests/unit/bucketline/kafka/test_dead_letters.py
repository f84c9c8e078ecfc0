"""Dead letters keep the original record and add its failure context; oversized records are truncated and marked."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.bucketline.kafka.fakes import AT, TOPIC, deleted, record

from bucketline.errors import NonRetryableError
from bucketline.kafka.dead_letters import INCOMPLETE, MAX_ERROR, MAX_TRUNCATED_BYTES, FailureContext, KafkaDeadLetters
from bucketline.kafka.publisher import MAX_RECORD, NotPublished

Row = tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
REASON = FailureContext(NonRetryableError("no"), attempts=1, group="g", first_at=AT, at=AT)


class Raw:
    """The raw side of a publisher. It takes what aiokafka and the broker take."""

    def __init__(self, *, away: bool = False) -> None:
        self.rows: list[Row] = []
        self.away = away

    async def publish_raw(self, records: Sequence[Row]) -> None:
        if self.away:
            raise NotPublished("the broker is away")
        for _, key, value, headers in records:
            assert not (value is None and key is None), "Need at least one: key or value"
            size = sum(len(part or b"") for _, part in headers) + len(key or b"") + len(value or b"")
            if size > MAX_RECORD:
                raise NonRetryableError(f"not published: larger than {MAX_RECORD} bytes")
        self.rows += records


async def test_send_record_keeps_key_value_and_headers_and_adds_context() -> None:
    raw = Raw()
    headers = [("ce_type", b"\xff"), ("twice", b"1"), ("twice", b"2"), ("nothing", None)]
    original = record(deleted("a"), offset=41, partition=2, headers=headers)
    reason = FailureContext(
        NonRetryableError("x" * 5000), attempts=4, group="g", first_at=AT, at=AT + timedelta(seconds=2)
    )
    await KafkaDeadLetters(raw, "dedup").send_record(original, reason)  # type: ignore[arg-type]  # only its raw side is used
    ((topic, key, value, stored),) = raw.rows
    assert topic == f"{TOPIC}.dedup.dlq"
    assert (key, value) == (original.key, original.value)
    assert stored[: len(headers)] == headers
    context = {name.removeprefix("dlq-"): text.decode() for name, text in stored[len(headers) :] if text}
    assert context == {
        "original-topic": TOPIC,
        "original-partition": "2",
        "original-offset": "41",
        "consumer-group": "g",
        "exception-class": "NonRetryableError",
        "exception-message": "x" * MAX_ERROR,
        "attempts": "4",
        "first-failed-at": "2026-01-01T00:00:00.000Z",
        "failed-at": "2026-01-01T00:00:02.000Z",
    }


@pytest.mark.parametrize(
    "large",
    [
        record(deleted("a"), offset=41, value=b"{" + b"x" * MAX_RECORD),
        record(deleted("a"), offset=41, headers=[("ce_type", b"t"), ("large", b"x" * MAX_RECORD)]),
        replace(record(deleted("a"), offset=41), key=b"x" * MAX_RECORD),
    ],
    ids=["value", "header", "key"],
)
async def test_send_record_too_large_is_truncated_and_marked_incomplete(large: object) -> None:
    raw = Raw()
    await KafkaDeadLetters(raw, "dedup").send_record(large, REASON)  # type: ignore[arg-type]  # as above
    ((_, key, value, headers),) = raw.rows
    assert len(key or b"") <= MAX_TRUNCATED_BYTES
    assert (large.value or b"").startswith(value or b"nothing")  # type: ignore[attr-defined]  # a record
    assert len(value or b"") <= MAX_TRUNCATED_BYTES
    context = dict(headers)
    assert context["dlq-original-offset"] == b"41"
    assert b"larger than" in (context[INCOMPLETE] or b"")


async def test_send_record_without_key_and_value_is_stored() -> None:
    raw = Raw()
    await KafkaDeadLetters(raw, "dedup").send_record(replace(record(offset=3), key=None), REASON)  # type: ignore[arg-type]  # as above
    ((_, key, value, headers),) = raw.rows
    assert (key, value) == (b"", None)
    assert INCOMPLETE not in dict(headers)


async def test_send_record_while_broker_is_unavailable_raises() -> None:
    with pytest.raises(NotPublished):
        await KafkaDeadLetters(Raw(away=True), "dedup").send_record(record(deleted("a")), REASON)  # type: ignore[arg-type]  # as above
