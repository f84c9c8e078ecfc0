"""Models that the routes share: bases of requests and responses, the error envelope, lists, unsupported fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from bucketline.clock import wire_time

Timestamp = Annotated[datetime, PlainSerializer(wire_time, return_type=str, when_used="json")]
"""ISO 8601, UTC, milliseconds, ``Z``."""


def _to_utc(value: datetime) -> datetime:
    """Return the time in UTC with milliseconds; a time without a zone is taken as UTC."""
    try:
        moment = (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


Moment = Annotated[datetime, AfterValidator(_to_utc)]
"""A time in a request, with the precision of the database."""


_NOT_IN_PATHS = frozenset("/\\?#%")
_ID_LIKE = re.compile(r"(?:ns_[a-z0-9]{6,40}|(?:bkt|col)_[a-z0-9]{20})")


def _validate_name(value: str) -> str:
    """Reject names that cannot be used in a path or that look like an id.

    Servers and proxies decode ``%2F`` and resolve ``..`` before a route is matched, and an id wins over a name.
    """
    if not value.isprintable() or value != value.strip():
        raise ValueError("a name may only have printable characters, without surrounding spaces")
    if forbidden := _NOT_IN_PATHS.intersection(value):
        raise ValueError(f"a name must not contain {' '.join(sorted(forbidden))}, because it is used in paths")
    if value in (".", ".."):
        raise ValueError(f"{value!r} cannot be a name, because it is a relative path")
    if _ID_LIKE.fullmatch(value):
        raise ValueError(f"{value!r} cannot be a name, because it looks like an id")
    return value


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_validate_name)]
"""A name that can be used in a path in place of an id."""


class RequestBody(BaseModel):
    """Base of request bodies. Unknown keys are ignored unless a model configures it otherwise."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ResponseBody(BaseModel):
    """Base of response bodies."""

    model_config = ConfigDict(frozen=True)


def example(value: Mapping[str, Any]) -> ConfigDict:
    """Return a model configuration with ``value`` as the schema's example."""
    return ConfigDict(json_schema_extra={"example": dict(value)})


class Deleted(ResponseBody):
    """The response to a delete that has a body."""

    message: str = "deleted"
    success: bool = True


# Errors


class ErrorBody(ResponseBody):
    """The error itself, inside the envelope."""

    message: str
    type: str
    code: str | None = None
    details: dict[str, Any] | None = None


class ErrorEnvelope(ResponseBody):
    """The body of every response that reports an error."""

    model_config = example(
        {
            "success": False,
            "status": 404,
            "error": {
                "message": "object not found",
                "type": "NotFoundError",
                "details": {"resource": "object", "id": "obj_missing"},
            },
        }
    )

    success: Literal[False] = False
    status: int
    error: ErrorBody


_ERROR_DESCRIPTIONS = {
    400: "A parameter is invalid, or the resource is in a state that does not allow the operation",
    401: "The API key is missing or invalid",
    403: "The API key does not have the required permission",
    404: "The id is unknown in this namespace",
    405: "The method is not allowed",
    409: "A resource with this name or key already exists",
    413: "The body is too large",
    422: "The request is not valid; `error.details` has one row for each invalid value",
    429: "The rate limit is exceeded",
    500: "Unexpected error",
    503: "A dependency is unavailable. Retry; use an idempotency_key for creates, since the request may have succeeded",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented error responses of a route: those that every route has, and ``statuses``."""
    documented = sorted({400, 401, 403, 404, 422, 429, 500, 503, *statuses})
    return {status: {"model": ErrorEnvelope, "description": _ERROR_DESCRIPTIONS[status]} for status in documented}


# Lists


class Pagination(ResponseBody):
    """The position of the page in the list. ``total`` and ``total_pages`` are set only with ``include_total``."""

    total: int | None = None
    page: int | None = None
    page_size: int | None = None
    total_pages: int | None = None
    next_page: str | None = None
    previous_page: str | None = None
    next_cursor: str | None = None


class ListResponse(ResponseBody):
    """Base of pages of resources."""

    total_count: int
    pagination: Pagination
    warnings: list[dict[str, Any]] = Field(default_factory=list, examples=[[]])


class SortSpec(RequestBody):
    """A field to sort by."""

    field: str = Field(min_length=1, max_length=200)
    direction: Literal["asc", "desc"] = "asc"


class ListBody(RequestBody):
    """The body of a list route. Every key is optional and takes precedence over the query parameter of its name."""

    model_config = example(
        {
            "filters": {"AND": [{"field": "description", "operator": "contains", "value": "invoice"}]},
            "sort": {"field": "created_at", "direction": "desc"},
            "limit": 20,
        }
    )

    limit: int | None = Field(default=None, ge=1, le=1000)
    page_size: int | None = Field(default=None, ge=1, le=1000)
    offset: int | None = Field(default=None, ge=0, le=10_000)
    page: int | None = Field(default=None, ge=1, le=10_001)
    cursor: str | None = Field(default=None, max_length=8192)
    next_cursor: str | None = Field(default=None, max_length=8192)
    after: str | None = Field(default=None, max_length=8192)
    include_total: bool | None = None
    filters: dict[str, Any] | None = Field(
        default=None,
        description='`{"AND": [{"field", "operator", "value"}], "OR": [], "NOT": []}`, or `{"field": value}`.',
    )
    sort: SortSpec | list[SortSpec] | None = None
    sorts: list[SortSpec] | None = Field(default=None, max_length=10)
    search: str | None = Field(default=None, max_length=1000)
    case_sensitive: bool | None = None


@dataclass(frozen=True)
class ListQuery:
    """The path and query string of a list request; its paging parameters have been validated."""

    path: str
    query: Mapping[str, str]


_Size = Annotated[int | None, Query(ge=1, le=1000, description="Rows per page. Takes precedence over `page_size`.")]
_PageSize = Annotated[int | None, Query(ge=1, le=1000, description="Alias for `limit`.")]
_Offset = Annotated[int | None, Query(ge=0, le=10_000, description="Rows to skip. Takes precedence over `page`.")]
_Page = Annotated[int | None, Query(ge=1, le=10_001, description="Page number, from 1.")]
_Cursor = Annotated[str | None, Query(max_length=8192, description="`next_cursor` of the previous page.")]
_CursorAlias = Annotated[str | None, Query(max_length=8192, description="Alias for `cursor`.")]
_Total = Annotated[bool | None, Query(description="Count all rows: `pagination.total` and `total_pages`.")]


async def parse_list_query(
    request: Request,
    limit: _Size = None,  # noqa: ARG001 - documented here, read by name from the query string
    page_size: _PageSize = None,  # noqa: ARG001
    offset: _Offset = None,  # noqa: ARG001
    page: _Page = None,  # noqa: ARG001
    cursor: _Cursor = None,  # noqa: ARG001
    next_cursor: _CursorAlias = None,  # noqa: ARG001
    after: _CursorAlias = None,  # noqa: ARG001
    include_total: _Total = None,  # noqa: ARG001
) -> ListQuery:
    """Return the path and query string of a list request (dependency)."""
    return ListQuery(request.url.path, request.query_params)


Paging = Annotated[ListQuery, Depends(parse_list_query)]


# Fields of the contract that this deployment does not support. They are rejected, because ignoring them would silently
# change the result. Official clients send null, false, or an empty object or list by default: those are accepted.


def _empty_to_none(value: object) -> object:
    return None if value is False or value in ({}, []) else value


def _reject_value(value: object) -> object:
    if value:
        raise ValueError("this is not supported: leave it out")
    return value


Unsupported = Annotated[None, BeforeValidator(_empty_to_none)]
"""A field of a body that must be absent, null, false or empty."""

UnsupportedFlag = Annotated[bool | None, AfterValidator(_reject_value)]
UnsupportedText = Annotated[str | None, AfterValidator(_reject_value)]
"""Parameters of the query that must be absent, or false and empty."""
