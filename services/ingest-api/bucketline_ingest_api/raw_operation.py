"""Documentation of routes that read their request themselves, which is what the fast ones do."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Parameter = Mapping[str, Any]

_TEXT = {"anyOf": [{"type": "string"}, {"type": "null"}]}
NAMESPACE: tuple[Parameter, ...] = (
    {
        "name": "X-Namespace",
        "in": "header",
        "required": False,
        "schema": _TEXT,
        "description": "Namespace, by id or name.",
    },
    {
        "name": "namespace",
        "in": "query",
        "required": False,
        "schema": _TEXT,
        "description": "In place of the X-Namespace header.",
    },
)


def raw_operation(body: type[BaseModel], *parameters: Parameter, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """What FastAPI would have found in the signature: the body's schema and the parameters, the namespace included."""
    segments = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    return {
        "parameters": [*segments, *NAMESPACE, *parameters],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema_of(body)}}},
    }


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema in one piece: a reference into ``$defs`` would lead nowhere inside an OpenAPI document.

    For models that do not contain themselves.
    """
    schema = model.model_json_schema(ref_template="{model}")
    definitions = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(item) for item in part]
        if not isinstance(part, dict):
            return part
        kept = {key: inlined(value) for key, value in part.items() if key != "$ref"}
        name = part.get("$ref")
        return {**inlined(definitions[name]), **kept} if isinstance(name, str) else kept

    whole: dict[str, Any] = inlined(schema)
    return whole
