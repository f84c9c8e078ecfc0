"""Events as they were published by every version there has been. They are readable for ever, and mean the same.

A file is one record: its key, headers and value as text, and ``reads_as``, what a consumer makes of it. Files are
added, never changed: a failing one means that records in somebody's topics can no longer be read.
"""

import json
from pathlib import Path

import pytest

from bucketline.events.cloudevents import decode_event
from bucketline.events.models import EVENT_TYPES, EVENT_TYPES_BY_NAME
from bucketline.events.topics import topic_of

GOLDEN = Path(__file__).parents[3] / "golden" / "events"
FILES = sorted(GOLDEN.rglob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_event_of_an_earlier_version_is_still_read(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    headers = [(name, text.encode()) for name, text in golden["headers"]]
    received = decode_event(golden["value"].encode(), headers)
    assert received.event.type == dict(golden["headers"])["ce_type"]
    assert received.event.key == golden["key"]
    assert received.event.subject == dict(golden["headers"])["ce_subject"]
    assert topic_of(type(received.event)).name == golden["topic"]
    read = received.event.model_dump(mode="json")
    for name, value in golden["reads_as"].items():
        assert read[name] == value, name


def test_every_type_has_its_golden_events() -> None:
    types = {dict(json.loads(path.read_text(encoding="utf-8"))["headers"])["ce_type"] for path in FILES}
    assert types == set(EVENT_TYPES_BY_NAME)


@pytest.mark.parametrize("event", EVENT_TYPES, ids=lambda event: event.__name__)
def test_the_smallest_event_of_the_first_version_is_among_them(event: type) -> None:
    """A field that became required, or a new one without a default, shows here: old records do not have it."""
    required = {name for name, field in event.model_fields.items() if field.is_required()}  # type: ignore[attr-defined]
    smallest = [
        json.loads(golden["value"]).keys()
        for path in FILES
        if dict((golden := json.loads(path.read_text(encoding="utf-8")))["headers"])["ce_type"] == event.type  # type: ignore[attr-defined]
    ]
    assert any(set(keys) == required for keys in smallest), required
