"""The AsyncAPI 3.0 document of every topic, made from the table of topics and the events' models.

The one for the usual prefix is committed beside this module, so that a change of what is on the wire shows in review.
"""

from importlib.resources import files
from typing import Any

import orjson

from bucketline import __version__
from bucketline.events.models import EVENT_TYPES, Event
from bucketline.events.topics import TOPICS, Topic
from bucketline.settings import SERVICES, ServiceName

Json = dict[str, Any]

COMMITTED = files("bucketline.events") / "asyncapi.json"

_HEADERS = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": {"type": "string", "description": "With ce_source, the event's identity: a duplicate has the same."},
    "ce_source": {"type": "string", "format": "uri-reference", "examples": ["/bucketline/ingest-api"]},
    "ce_subject": {"type": "string", "description": "The id of what the event is about."},
    "ce_time": {"type": "string", "format": "date-time"},
    "content-type": {"type": "string", "const": "application/json"},
    "traceparent": {"type": "string", "description": "W3C trace context, where the cause had one."},
}


def asyncapi(prefix: str) -> Json:
    """The document for a deployment whose topics carry ``prefix``; sorted, so that it can be compared."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Bucketline events",
            "version": __version__,
            "description": (
                "CloudEvents 1.0 in Kafka's binary mode. Events are delivered at least once, and in order for one key. "
                "Inside one version fields are only added: ignore those you do not know."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic, prefix) for topic in TOPICS},
        "operations": dict(_operations()),
        "components": {"messages": {_name(event): _message(event) for event in EVENT_TYPES}},
    }


def rendered(prefix: str) -> bytes:
    """The document as JSON, indented, ending in a newline."""
    return orjson.dumps(asyncapi(prefix), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _channel(topic: Topic, prefix: str) -> Json:
    return {
        "address": prefix + topic.name,
        "description": f"{topic.description} Keyed by {topic.key}.",
        "messages": {_name(e): {"$ref": f"#/components/messages/{_name(e)}"} for e in topic.events},
        "bindings": {
            "kafka": {
                "bindingVersion": "0.5.0",
                "partitions": topic.partitions,
                "topicConfiguration": {"retention.ms": topic.retention_ms},
            }
        },
    }


def _operations() -> list[tuple[str, Json]]:
    found = []
    for service in SERVICES:
        for topic in TOPICS:
            channel = {"$ref": f"#/channels/{topic.name}"}
            if service in topic.producers:
                found.append((f"{service} sends {topic.name}", {"action": "send", "channel": channel}))
            if service in topic.consumers:
                found.append((f"{service} receives {topic.name}", _receive(topic, service, channel)))
    return found


def _receive(topic: Topic, service: ServiceName, channel: Json) -> Json:
    return {
        "action": "receive",
        "channel": channel,
        "bindings": {
            "kafka": {"bindingVersion": "0.5.0", "groupId": {"type": "string", "const": topic.group(service)}}
        },
    }


def _message(event: type[Event]) -> Json:
    headers = {**_HEADERS, "ce_type": {"type": "string", "const": event.type}}
    return {
        "name": event.type,
        "summary": (event.__doc__ or "").strip().splitlines()[0],
        "headers": {
            "type": "object",
            "properties": headers,
            "required": ["ce_id", "ce_source", "ce_specversion", "ce_subject", "ce_time", "ce_type", "content-type"],
        },
        "payload": event.model_json_schema(),
        "bindings": {
            "kafka": {
                "bindingVersion": "0.5.0",
                "key": {"type": "string", "description": f"The {event.key_field}."},
            }
        },
    }


def _name(event: type[Event]) -> str:
    return event.__name__
