"""A parked record: untouched, with its context beside its own headers."""

from datetime import timedelta

from tests.unit.bucketline.messaging.bus import AT, TOPIC, deleted, record

from bucketline.errors import Poison
from bucketline.messaging.parking import LONGEST_ERROR, KafkaParking, Reason


class Raw:
    """The raw side of a publisher."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = []

    async def publish_raw(self, records: object) -> None:
        self.rows += records  # type: ignore[operator]  # any iterable of rows


async def test_a_record_is_parked_as_it_came_with_everything_that_is_known() -> None:
    raw = Raw()
    headers = [("ce_type", b"\xff"), ("twice", b"1"), ("twice", b"2"), ("nothing", None)]
    original = record(deleted("a"), offset=41, partition=2, headers=headers)
    reason = Reason(Poison("x" * 5000), attempts=4, group="g", first_at=AT, at=AT + timedelta(seconds=2))
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
        "error-type": "Poison",
        "error": "x" * LONGEST_ERROR,
        "attempts": "4",
        "first-at": "2026-01-01T00:00:00.000Z",
        "at": "2026-01-01T00:00:02.000Z",
    }
