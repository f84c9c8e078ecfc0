"""The OpenAPI document: complete enough to write a client from it alone."""

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


def schema_of(content: dict[str, Any]) -> dict[str, Any]:
    (media,) = content.values()
    return {**resolved(media["schema"]), **{key: media[key] for key in ("example", "examples") if key in media}}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def shown_by_example(schema: dict[str, Any]) -> bool:
    """Whether a reader sees how it looks: by its own example, or by those of the models that it is made of."""
    schema = resolved(schema)
    if schema.get("example") or schema.get("examples"):
        return True
    if "anyOf" in schema:
        return all(shown_by_example(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "items" in schema:
        return shown_by_example(schema["items"])
    if schema.get("properties"):
        return all(shown_by_example(one) for one in schema["properties"].values())
    if isinstance(values := schema.get("additionalProperties"), dict):
        return shown_by_example(values)
    return schema.get("type") in ("string", "integer", "number", "boolean") or "enum" in schema or "const" in schema


def test_document_has_unique_operation_ids() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert len(ALL) > 30
    names = [operation["operationId"] for _, _, operation in ALL]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("method", "path", "operation"), ALL, ids=[f"{m} {p}" for m, p, _ in ALL])
def test_operation_has_summary_tags_examples_and_errors(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["tags"]
    if "requestBody" in operation:
        assert shown_by_example(schema_of(operation["requestBody"]["content"])), "the body has no example"
    good = {code: answer for code, answer in operation["responses"].items() if code.startswith("2")}
    assert good
    for answer in good.values():
        if "content" in answer:
            assert shown_by_example(schema_of(answer["content"])), "the answer has no example"
    if path not in OPEN:
        for code in ("401", "503"):
            assert code in operation["responses"], code
    for code, answer in operation["responses"].items():
        if code.startswith(("4", "5")):
            properties = schema_of(answer["content"])["properties"]
            assert {"success", "status", "error"} <= properties.keys(), code
