"""Exception handlers: every error becomes a response with the contract's envelope."""

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from bucketline.errors import (
    ApiError,
    BadRequest,
    DependencyUnavailable,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    ValidationFailed,
    ValidationIssue,
)
from bucketline.observability.logging import get_logger
from bucketline.observability.tracing import current_trace_id

log = get_logger(__name__)

MAX_ISSUES = 100
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
CLIENT_CLOSED_REQUEST = 499
"""Status that is recorded when a client disconnects before it has sent the whole request; no client receives it."""


def install(app: FastAPI) -> None:
    """Register the handlers of every error that FastAPI would answer itself."""
    app.add_exception_handler(ApiError, _on_error)
    app.add_exception_handler(DependencyUnavailable, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ClientDisconnect, _on_client_disconnect)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_error)


def error_response(error: Exception) -> Response:
    """Return the response to an error. Other than API errors, it discloses nothing internal."""
    if isinstance(error, DependencyUnavailable):
        log.warning("dependency unavailable", error=error.message)
        error = ServiceUnavailable()
    if not isinstance(error, ApiError):
        log.error("unexpected error", exc_info=error)
        error = ApiError("unexpected error")
    trace_id = current_trace_id()
    headers = {**error.headers, **({"X-Trace-Id": trace_id} if trace_id else {})}
    return Response(orjson.dumps(error.envelope()), error.status, headers, "application/json")


def to_validation_failed(error: ValidationError, *location: str | int) -> ValidationFailed:
    """Return the 422 of a value at ``location`` that a route has validated itself. Its content is not repeated."""
    rows = error.errors(include_url=False, include_input=False, include_context=False)[:MAX_ISSUES]
    return ValidationFailed([ValidationIssue(row["type"], [*location, *row["loc"]], row["msg"]) for row in rows])


async def _on_error(_: Request, error: Exception) -> Response:
    return error_response(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    rows = [ValidationIssue(row["type"], row["loc"], row["msg"]) for row in error.errors()[:MAX_ISSUES]]
    return error_response(ValidationFailed(rows))


async def _on_client_disconnect(_: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, ApiError):
        # Raised while FastAPI read the body: it turned out to be too large.
        return error_response(error.__cause__)
    if isinstance(error.__cause__, ClientDisconnect):
        return await _on_client_disconnect(request, error)
    path = request.url.path
    if error.status_code == 404:
        return error_response(NotFound("there is no such route", details={"resource": "route", "id": path}))
    if error.status_code == 405:
        allowed = allowed_methods(request)
        headers = {"Allow": ", ".join(allowed)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return error_response(
            MethodNotAllowed(
                f"{request.method} is not allowed here: use {', '.join(allowed)}",
                details={"path": path, "allowed": allowed},
                headers=headers,
            )
        )
    return error_response(BadRequest(str(error.detail)))


def allowed_methods(request: Request) -> list[str]:
    """Return the methods of the path, sorted. Starlette reports those of the first matching route only."""

    def is_allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    allowed = {method for method in METHODS if is_allowed(method)}
    return sorted(allowed | {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set()))
