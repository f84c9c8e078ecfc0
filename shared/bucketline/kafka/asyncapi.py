"""The AsyncAPI 3.0 document of all services, from what FastStream generates for their routers.

FastStream describes one application, with a channel per subscriber and publisher and without our CloudEvents headers.
Here the services are merged: one channel per topic, one message per event, and an operation for each service that
publishes or consumes them. The document for the default prefix is committed as ``events/asyncapi.json``, so that a
change on the wire shows in review.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import orjson
from faststream.kafka import KafkaBroker, KafkaRouter
from faststream.specification.asyncapi import AsyncAPI

from bucketline import __version__
from bucketline.events.models import EVENT_TYPES, Event
from bucketline.events.topics import TOPICS, Topic
from bucketline.settings import ServiceName

Json = dict[str, Any]

COMMITTED = files("bucketline.events") / "asyncapi.json"

BINDING = {"bindingVersion": "0.5.0"}
_DESCRIPTION = (
    "CloudEvents 1.0 in Kafka's binary mode. Events are delivered at least once, and in order for one key. "
    "Inside one version fields are only added: ignore those you do not know."
)
_HEADERS = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": {"type": "string", "description": "With ce_source, the event's identity: a duplicate has the same."},
    "ce_source": {"type": "string", "format": "uri-reference", "examples": ["/bucketline/ingest-api"]},
    "ce_subject": {"type": "string", "description": "The id of the object, batch or work unit."},
    "ce_time": {"type": "string", "format": "date-time"},
    "ce_dataschema": {
        "type": "string",
        "format": "uri",
        "description": "The `$id` of the JSON Schema, which `GET /v1/events/schemas/{event_type}` returns.",
    },
    "content-type": {"type": "string", "const": "application/json"},
    "traceparent": {"type": "string", "description": "W3C trace context, where the cause had one."},
}
_EVENTS = {event.__name__: event for event in EVENT_TYPES}
_TOPICS = {topic.name: topic for topic in TOPICS}


def asyncapi(routers: Mapping[ServiceName, KafkaRouter], prefix: str) -> Json:
    """Return the document for a deployment whose topics carry ``prefix``."""
    document: Json = {
        "asyncapi": "3.0.0",
        "info": {"title": "Bucketline events", "version": __version__, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "channels": {},
        "operations": {},
        "components": {"messages": {}, "schemas": {}},
    }
    for service, router in routers.items():
        _add(document, service, _generate(router, prefix), prefix)
    return document


def rendered(routers: Mapping[ServiceName, KafkaRouter], prefix: str) -> bytes:
    """Return the document as sorted, indented JSON that ends in a newline."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS
    return orjson.dumps(asyncapi(routers, prefix), option=option)


def _generate(router: KafkaRouter, prefix: str) -> Json:
    broker = KafkaBroker()
    broker.include_router(router, prefix=prefix)
    generated: Json = AsyncAPI(broker).to_specification().to_jsonable()
    return generated


def _add(document: Json, service: ServiceName, generated: Json, prefix: str) -> None:
    schemas = generated["components"]["schemas"]
    document["components"]["schemas"] |= {name: schema for name, schema in schemas.items() if ":" not in name}
    for operation in generated["operations"].values():
        channel = _resolve(generated, operation["channel"])
        topic = _TOPICS[channel["address"].removeprefix(prefix)]
        events = [event for message in channel["messages"].values() for event in _events(generated, message)]
        shared = document["channels"].setdefault(topic.name, _channel(topic, prefix))
        for event in events:
            name = event.__name__
            shared["messages"][name] = {"$ref": f"#/components/messages/{name}"}
            document["components"]["messages"][name] = _message(event)
        key = f"{service}.{operation['action']}.{topic.name}"
        merged = document["operations"].setdefault(key, _operation(service, operation["action"], topic))
        merged["messages"] += [{"$ref": f"#/channels/{topic.name}/messages/{event.__name__}"} for event in events]
        merged["messages"].sort(key=lambda reference: str(reference["$ref"]))  # routers keep them in sets
        if operation["action"] == "receive":
            merged["description"] = " ".join(channel["description"].split())


def _events(generated: Json, message: Json) -> list[type[Event]]:
    """Return the events that a generated message stands for: its payload is one of them, or any of several."""
    payload = _resolve(generated, message)["payload"]
    references = _resolve(generated, payload).get("anyOf") or [payload]
    return [_EVENTS[reference["$ref"].rpartition("/")[2]] for reference in references]


def _resolve(document: Json, reference: Json) -> Json:
    node: Any = document
    for part in reference["$ref"].removeprefix("#/").split("/"):
        node = node[part.replace("%20", " ")]
    resolved: Json = node
    return resolved


def _channel(topic: Topic, prefix: str) -> Json:
    kafka = {**BINDING, "partitions": topic.partitions, "topicConfiguration": {"retention.ms": topic.retention_ms}}
    return {
        "address": prefix + topic.name,
        "description": f"{topic.description} Keyed by {topic.key}.",
        "messages": {},
        "bindings": {"kafka": kafka},
    }


def _operation(service: ServiceName, action: str, topic: Topic) -> Json:
    operation: Json = {"action": action, "channel": {"$ref": f"#/channels/{topic.name}"}, "messages": []}
    if action == "receive":
        group = {"type": "string", "const": topic.group(service)}
        operation["bindings"] = {"kafka": {**BINDING, "groupId": group}}
    return operation


def _message(event: type[Event]) -> Json:
    key = {"type": "string", "description": f"The {event.key_field}."}
    return {
        "name": event.type,
        "title": event.__name__,
        "summary": (event.__doc__ or "").strip().splitlines()[0],
        "headers": {
            "type": "object",
            "properties": {**_HEADERS, "ce_type": {"type": "string", "const": event.type}},
            "required": ["ce_id", "ce_source", "ce_specversion", "ce_subject", "ce_time", "ce_type", "content-type"],
        },
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {"kafka": {**BINDING, "key": key}},
    }
