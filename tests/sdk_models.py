"""Every answer of our own tests must parse through the official SDK's model of it, where the SDK has one.

Which model that is, is read from the SDK's generated classes: each of their methods names its path, its HTTP method
and the model of each status. What its requests may hold is read from there as well.
"""

import inspect
import re
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from mixpeek import api, models
from pydantic import BaseModel
from pydantic.fields import FieldInfo

CLASSES = (
    "AccountApi",
    "BatchesApi",
    "BucketBatchesApi",
    "BucketObjectsApi",
    "BucketUploadsApi",
    "BucketsApi",
    "CollectionDocumentsApi",
    "CollectionsApi",
    "HealthApi",
    "NamespacesApi",
    "OrganizationAPIKeysApi",
    "TasksApi",
    "WebhooksApi",
)


@dataclass(frozen=True)
class Answers:
    """The models of one route, by status."""

    method: str
    path: re.Pattern[str]
    models: dict[int, str]


@dataclass(frozen=True)
class Request:
    """What the SDK may send to one route. ``path`` has ``{}`` for each parameter."""

    method: str
    path: str
    query: frozenset[str]
    bodies: tuple[type[BaseModel], ...]


def requests() -> Iterator[Request]:
    """Every request that the SDK's generated classes can make."""
    for name in CLASSES:
        kind = getattr(api, name)
        for member in dir(kind):
            if not member.endswith("_serialize"):
                continue
            source = inspect.getsource(getattr(kind, member))
            hints = typing.get_type_hints(getattr(kind, member.removeprefix("_").removesuffix("_serialize")))
            path, verb = re.search(r"resource_path='([^']+)'", source), re.search(r"method='(\w+)'", source)
            assert path is not None
            assert verb is not None
            body = re.search(r"_body_params = (\w+)", source)
            yield Request(
                verb[1],
                re.sub(r"\{\w+\}", "{}", path[1].rstrip("/")),
                frozenset(re.findall(r"_query_params\.append\(\('([^']+)'", source)),
                tuple(models_in(hints[body[1]])) if body is not None else (),
            )


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a value of this type is, or holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Its fields by their names on the wire; for a model that is one of several, those of each of them."""
    for name, field in model.model_fields.items():
        if name.endswith("_validator"):
            for one in models_in(field.annotation):
                yield from fields_of(one)
        elif name not in ("actual_instance", "any_of_schemas", "one_of_schemas", "additional_properties"):
            yield field.alias or name, field


@cache
def routes() -> tuple[Answers, ...]:
    """What the SDK knows; routes with fewer parameters first, so that ``/list`` wins over ``/{id}``."""
    found = [answers for name in CLASSES for answers in _of(getattr(api, name))]
    return tuple(sorted(found, key=lambda answers: answers.path.pattern.count("[^/]+")))


def parse(method: str, path: str, status: int, body: Any) -> Any:
    """The SDK's object of this answer, None where it has no model. Fails when the model refuses the answer."""
    for answers in routes():
        if answers.method == method and answers.path.fullmatch(path):
            name = answers.models.get(status)
            if status == 422 and isinstance(body, dict) and "failed_count" in body:
                # The contract's one exception: when every object of a batch failed, the body is that of the success.
                name = answers.models[200]
            model = getattr(models, name, None) if name else None
            return model.from_dict(body) if model is not None and isinstance(body, dict) else None
    return None


def _of(kind: type) -> Iterator[Answers]:
    # The whole module, which is this class: to find the class in it would be to parse 300 kB of Python.
    source = inspect.getsource(sys.modules[kind.__module__])
    for method in source.split("\n    def ")[1:]:
        name = method.partition("(")[0]
        if not name.endswith("_with_http_info"):
            continue
        statuses = re.findall(r"'(\d{3})': \"(\w+)\"", method)
        serialize = f"def _{name.removesuffix('_with_http_info')}_serialize("
        rest = source[source.index(serialize) :]
        path = re.search(r"resource_path='([^']+)'", rest)
        verb = re.search(r"method='(\w+)'", rest)
        assert path is not None
        assert verb is not None
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path.group(1)))
        yield Answers(verb.group(1), re.compile(pattern), {int(code): model for code, model in statuses})
