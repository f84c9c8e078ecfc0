"""Every answer of our own tests must parse through the official SDK's model of it, where the SDK has one.

Which model that is, is read from the SDK's generated classes: each of their methods names its path, its HTTP method
and the model of each status.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from mixpeek import api, models

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
)


@dataclass(frozen=True)
class Answers:
    """The models of one route, by status."""

    method: str
    path: re.Pattern[str]
    models: dict[int, str]


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
