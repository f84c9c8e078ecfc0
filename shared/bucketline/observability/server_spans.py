"""Spans of HTTP requests that a service answers, by OpenTelemetry's conventions for HTTP (stable)."""

from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from bucketline.observability.tracing import Carrier, start_span

Scope = MutableMapping[str, Any]
"""What ASGI tells of a request."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
OTHER = "_OTHER"


def method_of(scope: Scope) -> str:
    """One of a known few, whatever a client makes up."""
    method = str(scope["method"])
    return method if method in METHODS else OTHER


def serving(scope: Scope, parent: Carrier) -> AbstractContextManager[Span]:
    """Around one request; tell :func:`ended` before it is left."""
    about = {
        "http.request.method": method_of(scope),
        "url.scheme": str(scope.get("scheme", "http")),
        "url.path": str(scope["path"]),
    }
    return start_span(_name(scope), kind=SpanKind.SERVER, parent=parent, attributes=about)


def ended(opened: Span, scope: Scope, route: str | None, status: int) -> None:
    """Notes which route it was (None: none was found) and how it ended. What is the client's fault is no error."""
    if not opened.is_recording():
        return
    opened.set_attributes(
        {"http.response.status_code": status, "network.protocol.version": str(scope.get("http_version", "1.1"))}
    )
    if method_of(scope) == OTHER:
        opened.set_attribute("http.request.method_original", str(scope["method"]))
    if route is not None:
        opened.update_name(f"{_name(scope)} {route}")
        opened.set_attribute("http.route", route)
    if status >= 500:
        opened.set_status(Status(StatusCode.ERROR))
        opened.set_attribute("error.type", str(status))


def _name(scope: Scope) -> str:
    method = method_of(scope)
    return "HTTP" if method == OTHER else method
