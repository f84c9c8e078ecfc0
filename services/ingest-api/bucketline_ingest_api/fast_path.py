"""Route class for creating objects that resolves the parameters of a request without FastAPI's dependency solver.

The endpoints are declared like all others, and the OpenAPI document is generated from their signatures.
Measured with one API process, MongoDB and 32 connections on 2 cores, three alternating runs of 3,000 creates each:
945, 1,484 and 756 creates per second with this class, 643, 836 and 456 without it (factors 1.5 to 1.8).
"""

from collections.abc import Awaitable, Callable, Coroutine
from inspect import signature
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError

from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.dependencies import get_container, resolve_bucket, resolve_namespace
from bucketline_ingest_api.exception_handlers import to_validation_failed

_PARSE_BOOL = TypeAdapter(bool).validate_python


class FastCreateRoute(APIRoute):
    """Calls endpoints with ``request, container, scope, body, auto_process``, and ``policy`` if they take it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route."""
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        parameters = signature(endpoint).parameters
        model: type[BaseModel] = parameters["body"].annotation
        takes_policy = "policy" in parameters

        async def handle(request: Request) -> Response:
            query = request.query_params
            container = await get_container(request)
            namespace = request.headers.get("x-namespace") or query.get("namespace")
            in_namespace = await resolve_namespace(container, request.state.caller, "WRITE", namespace)
            scope = await resolve_bucket(container, in_namespace, request.path_params["bucket_identifier"])
            values: dict[str, Any] = {"auto_process": _parse_flag("auto_process", query.get("auto_process", "false"))}
            if takes_policy:
                values["policy"] = query.get("policy")
            return await endpoint(request, container, scope, await _read_body(request, model), **values)

        return handle


async def _read_body(request: Request, model: type[BaseModel]) -> BaseModel:
    """Validate the JSON body straight from its bytes."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        issue = ValidationIssue("content_type", ("header", "content-type"), "application/json is expected")
        raise ValidationFailed([issue])
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise to_validation_failed(error, "body") from error


def _parse_flag(name: str, value: str) -> bool:
    try:
        return _PARSE_BOOL(value)
    except ValidationError as error:
        raise to_validation_failed(error, "query", name) from error
