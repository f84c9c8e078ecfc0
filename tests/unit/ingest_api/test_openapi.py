"""The OpenAPI document is complete enough to write a client from it."""

from collections.abc import Iterator
from typing import Any

import pytest

from bucketline_ingest_api.app import build

DOCUMENT: dict[str, Any] = build().openapi()
OPEN = ("/v1/health", "/v1/health/liveness")
METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & item.keys():
            yield method.upper(), path, item[method]


ALL = sorted(operations(), key=lambda row: row[:2])


def body_schema(content: dict[str, Any]) -> dict[str, Any]:
    (media,) = content.values()
    return {**resolve(media["schema"]), **{key: media[key] for key in ("example", "examples") if key in media}}


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def has_example(schema: dict[str, Any]) -> bool:
    """Return whether the schema or all models that it consists of have an example."""
    schema = resolve(schema)
    if schema.get("example") or schema.get("examples"):
        return True
    if "anyOf" in schema:
        return all(has_example(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "items" in schema:
        return has_example(schema["items"])
    if schema.get("properties"):
        return all(has_example(one) for one in schema["properties"].values())
    if isinstance(values := schema.get("additionalProperties"), dict):
        return has_example(values)
    return schema.get("type") in ("string", "integer", "number", "boolean") or "enum" in schema or "const" in schema


def test_document_has_every_route_with_a_unique_operation_id() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert len(ALL) > 30
    names = [operation["operationId"] for _, _, operation in ALL]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("method", "path", "operation"), ALL, ids=[f"{m} {p}" for m, p, _ in ALL])
def test_route_has_summary_tags_examples_and_errors(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["tags"]
    if "requestBody" in operation:
        assert has_example(body_schema(operation["requestBody"]["content"])), "the body has no example"
    good = {code: answer for code, answer in operation["responses"].items() if code.startswith("2")}
    assert good
    for answer in good.values():
        if "content" in answer:
            assert has_example(body_schema(answer["content"])), "the response has no example"
    if path not in OPEN:
        for code in ("401", "503"):
            assert code in operation["responses"], code
    for code, answer in operation["responses"].items():
        if code.startswith(("4", "5")):
            properties = body_schema(answer["content"])["properties"]
            assert {"success", "status", "error"} <= properties.keys(), code
