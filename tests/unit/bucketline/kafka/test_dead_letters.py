"""A parked record: untouched, with its context beside its own headers; cut and marked where it cannot be that."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.bucketline.kafka.fakes import AT, TOPIC, deleted, record

from bucketline.errors import NonRetryableError
from bucketline.kafka.dead_letters import INCOMPLETE, MAX_CUT, MAX_ERROR, KafkaParking, Reason
from bucketline.kafka.publisher import MAX_RECORD, NotPublished

Row = tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
REASON = Reason(NonRetryableError("no"), attempts=1, group="g", first_at=AT, at=AT)


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


async def test_a_record_is_parked_as_it_came_with_everything_that_is_known() -> None:
    raw = Raw()
    headers = [("ce_type", b"\xff"), ("twice", b"1"), ("twice", b"2"), ("nothing", None)]
    original = record(deleted("a"), offset=41, partition=2, headers=headers)
    reason = Reason(NonRetryableError("x" * 5000), attempts=4, group="g", first_at=AT, at=AT + timedelta(seconds=2))
    await KafkaParking(raw, "dedup").park(original, reason)  # type: ignore[arg-type]  # only its raw side is used
    ((topic, key, value, parked),) = raw.rows
    assert topic == f"{TOPIC}.parked.dedup"
    assert (key, value) == (original.key, original.value)
    assert parked[: len(headers)] == headers
    context = {name.removeprefix("bucketline-parked-"): text.decode() for name, text in parked[len(headers) :] if text}
    assert context == {
        "topic": TOPIC,
        "partition": "2",
        "offset": "41",
        "group": "g",
        "error-type": "NonRetryableError",
        "error": "x" * MAX_ERROR,
        "attempts": "4",
        "first-at": "2026-01-01T00:00:00.000Z",
        "at": "2026-01-01T00:00:02.000Z",
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
async def test_a_record_that_is_too_large_to_be_parked_leaves_its_beginning_and_its_place(large: object) -> None:
    raw = Raw()
    await KafkaParking(raw, "dedup").park(large, REASON)  # type: ignore[arg-type]  # as above
    ((_, key, value, headers),) = raw.rows
    assert len(key or b"") <= MAX_CUT
    assert (large.value or b"").startswith(value or b"nothing")  # type: ignore[attr-defined]  # a record
    assert len(value or b"") <= MAX_CUT
    context = dict(headers)
    assert context["bucketline-parked-offset"] == b"41"
    assert b"larger than" in (context[INCOMPLETE] or b"")


async def test_a_record_of_nothing_at_all_is_parked() -> None:
    raw = Raw()
    await KafkaParking(raw, "dedup").park(replace(record(offset=3), key=None), REASON)  # type: ignore[arg-type]  # as above
    ((_, key, value, headers),) = raw.rows
    assert (key, value) == (b"", None)
    assert INCOMPLETE not in dict(headers)


async def test_while_the_broker_is_away_nothing_is_cut() -> None:
    with pytest.raises(NotPublished):
        await KafkaParking(Raw(away=True), "dedup").park(record(deleted("a")), REASON)  # type: ignore[arg-type]  # as above
