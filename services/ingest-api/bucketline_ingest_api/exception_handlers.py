"""FastAPI's own errors in the contract's envelope: faulty bodies and parameters, unknown routes, wrong methods."""

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from bucketline.errors import (
    ApiError,
    BadRequest,
    DependencyUnavailable,
    MethodNotAllowed,
    NotFound,
    ValidationFailed,
    ValidationIssue,
)
from bucketline_ingest_api.edge_middleware import on_error, respond_to

MAX_FAULTS = 100
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def install(app: FastAPI) -> None:
    """Sends every error that FastAPI would answer itself through the envelope."""
    app.add_exception_handler(ApiError, on_error)
    app.add_exception_handler(DependencyUnavailable, on_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def faults_of(errors: Sequence[ErrorDetails], *prefix: str | int) -> list[ValidationIssue]:
    """pydantic's rows as the contract's. Values of the request are not repeated."""
    return [ValidationIssue(row["type"], [*prefix, *row["loc"]], row["msg"]) for row in errors[:MAX_FAULTS]]


def body_faults(error: ValidationError) -> ValidationFailed:
    """The 422 of a body that a route validated itself."""
    return ValidationFailed(
        faults_of(error.errors(include_url=False, include_input=False, include_context=False), "body")
    )


async def _invalid(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    rows = [ValidationIssue(row["type"], row["loc"], row["msg"]) for row in error.errors()[:MAX_FAULTS]]
    return respond_to(ValidationFailed(rows))


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, ApiError):
        # raised while the framework read the body: a body that turned out to be too large
        return respond_to(error.__cause__)
    path = request.url.path
    if error.status_code == 404:
        return respond_to(NotFound("there is no such route", details={"resource": "route", "id": path}))
    if error.status_code == 405:
        allowed = allowed_methods(request)
        headers = {"Allow": ", ".join(allowed)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return respond_to(
            MethodNotAllowed(
                f"{request.method} is not allowed here: use {', '.join(allowed)}",
                details={"path": path, "allowed": allowed},
                headers=headers,
            )
        )
    return respond_to(BadRequest(str(error.detail)))


def allowed_methods(request: Request) -> list[str]:
    """The methods of a path, in order: several routes may share it, and the router names those of the first alone."""

    def has(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)

    found = {method for method in METHODS if has(method)}
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))
