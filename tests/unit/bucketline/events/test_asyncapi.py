"""The AsyncAPI document that is committed is the one that the code describes."""

from pathlib import Path

import orjson
from jsonschema import Draft202012Validator

from bucketline.events.asyncapi import COMMITTED, asyncapi, rendered
from bucketline.events.models import EVENT_TYPES
from bucketline.events.topics import TOPICS


def test_the_committed_document_is_current() -> None:
    path = Path(str(COMMITTED))
    assert path.read_bytes() == rendered("bucketline."), (
        "run: bucketline topics --asyncapi > shared/bucketline/events/asyncapi.json"
    )


def test_every_topic_and_every_event_is_in_it_with_a_valid_schema_and_example() -> None:
    document = asyncapi("bucketline.")
    assert {channel["address"] for channel in document["channels"].values()} == {
        f"bucketline.{topic.name}" for topic in TOPICS
    }
    messages = document["components"]["messages"]
    assert {message["name"] for message in messages.values()} == {event.type for event in EVENT_TYPES}
    for message in messages.values():
        Draft202012Validator.check_schema(message["payload"])
        assert message["summary"]


def test_a_deployments_own_prefix_is_in_the_addresses() -> None:
    document = orjson.loads(rendered("acme."))
    assert all(channel["address"].startswith("acme.") for channel in document["channels"].values())
