"""OpenTelemetry's conventions as their installed release tells them: which attributes there are, which are past."""

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import opentelemetry.semconv._incubating.attributes as developing
import opentelemetry.semconv.attributes as stable

REQUIRED = {
    "SERVER": {"http.request.method", "url.path", "url.scheme", "http.response.status_code"},
    "PRODUCER": {"messaging.system", "messaging.operation.name", "messaging.destination.name"},
    "CONSUMER": {"messaging.system", "messaging.operation.name", "messaging.destination.name"},
}
"""What a span of each kind must say. A client is of a database or of an API: see :func:`required`."""


def required(kind: str, attributes: set[str]) -> set[str]:
    if kind != "CLIENT":
        return REQUIRED.get(kind, set())
    if "db.system.name" in attributes:
        return {"db.collection.name", "db.operation.name", "db.namespace"}
    return {"rpc.system.name", "rpc.method", "aws.s3.bucket"}


def current() -> set[str]:
    """Every attribute that a convention names today."""
    return {name for name, _ in _named(stable)} | {
        name for name, said in _named(developing) if not said.startswith("Deprecated")
    }


def _named(package: ModuleType) -> Iterator[tuple[str, str]]:
    """(attribute, what is said of it) of every constant."""
    for module in pkgutil.iter_modules(package.__path__):
        body = ast.parse((Path(package.__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8")).body
        for constant, said in zip(body, [*body[1:], ast.Pass()], strict=True):
            if isinstance(constant, ast.Assign | ast.AnnAssign) and isinstance(constant.value, ast.Constant):
                text = said.value.value if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) else ""
                yield str(constant.value.value), str(text).strip()
