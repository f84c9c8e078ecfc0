"""Every field that the official SDK can send is supported or refused: none is ignored.

Both are seen in our OpenAPI document, where a refused field has no value but null. A new release of the SDK with a new
field fails here until the field is declared.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from mixpeek.models.email_config_input import EmailConfigInput
from mixpeek.models.filter_operator import FilterOperator
from mixpeek.models.slack_config import SlackConfig
from pydantic import BaseModel, ValidationError
from tests import sdk_models
from tests.sdk_models import Request

from bucketline.domain.filters import parse_filter
from bucketline.errors import ValidationFailed
from bucketline_ingest_api.api_keys import schemas as keys
from bucketline_ingest_api.app import build
from bucketline_ingest_api.batches import schemas as batches
from bucketline_ingest_api.buckets import schemas as buckets
from bucketline_ingest_api.collections import schemas as collections
from bucketline_ingest_api.documents import schemas as documents
from bucketline_ingest_api.namespaces import schemas as namespaces
from bucketline_ingest_api.objects import schemas as objects
from bucketline_ingest_api.tasks import schemas as tasks
from bucketline_ingest_api.uploads import schemas as uploads
from bucketline_ingest_api.webhooks import schemas as webhooks

DOCUMENT: dict[str, Any] = build().openapi()
OURS = {
    (method.upper(), re.sub(r"\{\w+\}", "{}", path)): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
SERVED = [request for request in sdk_models.requests() if (request.method, request.path) in OURS]

OTHER_CHANNELS = {
    f"channels.configs.{name}" for kind in (EmailConfigInput, SlackConfig) for name, _ in sdk_models.fields_of(kind)
}
"""Configuration of the channels `email` and `slack`, which are refused as a whole."""

ALLOWED = {
    ("POST", "/v1/organizations/webhooks"): OTHER_CHANNELS,
    ("PUT", "/v1/organizations/webhooks/{}"): OTHER_CHANNELS,
    ("GET", "/v1/health/deep"): {"deep", "metrics"},  # the answer is always the whole check and has no metrics
    # data of a free form, here as there
    ("POST", "/v1/buckets/{}/objects"): {"edges.attributes"},
    ("POST", "/v1/buckets/{}/objects/batch"): {"objects.edges.attributes"},
}
"""What is not declared, and why."""

SCHEMAS = (batches, buckets, collections, documents, keys, namespaces, objects, tasks, uploads, webhooks)


def alternatives(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas that a value may have, items of lists and values of maps included."""
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield schema
    inner = [*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")]
    for one in inner:
        if isinstance(one, dict):
            yield from alternatives(one)


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in alternatives(schema):
        found |= one.get("properties", {})
    return found


def undeclared(
    model: type[BaseModel], schema: dict[str, Any], above: tuple[type[BaseModel], ...] = ()
) -> Iterator[str]:
    """Fields of the SDK's model that our schema does not name. An object of a free form names none."""
    ours = properties(schema)
    if not ours or model in above:
        return
    for name, field in sdk_models.fields_of(model):
        if name not in ours:
            yield name
            continue
        for inner in sdk_models.models_in(field.annotation):
            yield from (f"{name}.{path}" for path in undeclared(inner, ours[name], (*above, model)))


def body_schema(operation: dict[str, Any]) -> dict[str, Any]:
    (content,) = operation["requestBody"]["content"].values()
    schema: dict[str, Any] = content["schema"]
    return schema


def test_sdk_and_api_have_routes_in_common() -> None:
    assert len(SERVED) > 50
    assert sum(bool(request.bodies) for request in SERVED) > 25


@pytest.mark.parametrize("request_", SERVED, ids=[f"{r.method} {r.path}" for r in SERVED])
def test_request_of_the_sdk_has_no_field_that_is_ignored(request_: Request) -> None:
    operation = OURS[request_.method, request_.path]
    parameters = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    missing = set(request_.query - parameters)
    for model in request_.bodies:
        assert properties(body_schema(operation)), "the body has a free form"
        missing |= set(undeclared(model, body_schema(operation)))
    assert missing <= ALLOWED.get((request_.method, request_.path), set())


def test_walk_finds_a_field_that_a_new_sdk_might_have() -> None:
    class Inner(BaseModel):
        property: str
        of_tomorrow: int

    class Body(BaseModel):
        blobs: list[Inner] | None = None
        key_prefix: str | None = None

    schema = body_schema(OURS["POST", "/v1/buckets/{}/objects"])
    assert list(undeclared(Body, schema)) == ["blobs.of_tomorrow"]


MODELS = sorted(
    {
        model
        for module in SCHEMAS
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel)
    },
    key=lambda model: model.__name__,
)
REFUSED = [
    (model, name) for model in MODELS for name, field in model.model_fields.items() if field.annotation is type(None)
]


@pytest.mark.parametrize(("model", "name"), REFUSED, ids=[f"{model.__name__}.{name}" for model, name in REFUSED])
def test_unsupported_field_is_refused_by_name_and_accepted_when_it_asks_for_nothing(
    model: type[BaseModel], name: str
) -> None:
    def faults(value: object) -> set[object]:
        try:
            model.model_validate({name: value})
        except ValidationError as error:
            return {row["loc"][0] for row in error.errors() if row["loc"]}
        return set()

    for value in ("x", True, 1, ["x"], {"x": 1}):
        assert name in faults(value), value
    nothings: tuple[object, ...] = (None, False, [], {})
    for nothing in nothings:
        assert name not in faults(nothing), nothing


def test_default_that_the_sdk_sends_unasked_is_accepted() -> None:
    refused = []
    for request_ in SERVED:
        for sdk in request_.bodies:
            ours = properties(body_schema(OURS[request_.method, request_.path]))
            for name, field in sdk_models.fields_of(sdk):
                if ours.get(name, {}).get("type") == "null" and field.default not in (None, False, ...):
                    refused.append((request_.path, name, field.default))
    assert refused == []


@pytest.mark.parametrize("operator", list(FilterOperator))
def test_operator_of_the_sdk_is_supported_or_refused_by_name(operator: FilterOperator) -> None:
    values: dict[str, object] = {"in": ["a"], "nin": ["a"], "exists": True, "is_null": True}
    condition = {"field": "sku", "operator": operator.value, "value": values.get(operator.value, "a")}
    if not operator.value.startswith("geo_"):
        parse_filter({"AND": [condition]})
        return
    with pytest.raises(ValidationFailed) as caught:
        parse_filter({"AND": [condition]})
    assert [fault["location"] for fault in caught.value.issues] == [["body", "filters", "AND", 0, "operator"]]


def test_value_that_names_a_field_is_refused() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_filter({"AND": [{"field": "sku", "operator": "eq", "value": {"type": "dynamic", "field": "INPUT.sku"}}]})
    assert [fault["location"] for fault in caught.value.issues] == [["body", "filters", "AND", 0, "value"]]
