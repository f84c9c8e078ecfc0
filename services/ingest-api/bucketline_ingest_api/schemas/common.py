"""Models that many routes share: the error envelope, pagination, and the base of all others."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

from bucketline.clock import wire_time

Timestamp = Annotated[datetime, PlainSerializer(wire_time, return_type=str, when_used="json")]
"""ISO 8601, UTC, milliseconds, ``Z``."""


def _utc(value: datetime) -> datetime:
    """A time without zone is UTC; one that UTC cannot say is none."""
    try:
        moment = (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


Moment = Annotated[datetime, AfterValidator(_utc)]
"""A time in a request, as precise as the database."""


_NOT_IN_PATHS = frozenset("/\\?#%")
_LIKE_AN_ID = re.compile(r"(?:ns_[a-z0-9]{6,40}|(?:bkt|col)_[a-z0-9]{20})")


def _addressable(value: str) -> str:
    """A name stands in paths, as it is or escaped, and must lead to what it names alone.

    Servers and proxies unescape ``%2F`` and resolve ``..`` before any route is looked for, and an id wins over a name.
    """
    if not value.isprintable() or value != value.strip():
        raise ValueError("a name has printable characters only and no blanks around it")
    if found := _NOT_IN_PATHS.intersection(value):
        raise ValueError(f"a name cannot hold {' '.join(sorted(found))}: it could not be addressed in a path")
    if value in (".", ".."):
        raise ValueError(f"{value!r} is a step in a path and cannot be a name")
    if _LIKE_AN_ID.fullmatch(value):
        raise ValueError(f"{value!r} looks like an id: it could be taken for another resource")
    return value


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_addressable)]
"""A name that a path may hold in place of an id."""


class Request(BaseModel):
    """Base of request bodies. Keys that the contract does not know are ignored unless a model says otherwise."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Answer(BaseModel):
    """Base of response bodies."""

    model_config = ConfigDict(frozen=True)


class ValidationRow(Answer):
    type: str
    location: list[str | int]
    message: str


class ErrorBody(Answer):
    message: str
    type: str
    code: str | None = None
    details: dict[str, Any] | None = None


class ErrorEnvelope(Answer):
    """Every answer that is not a success."""

    success: Literal[False] = False
    status: int
    error: ErrorBody

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "success": False,
                "status": 404,
                "error": {
                    "message": "object not found",
                    "type": "NotFoundError",
                    "details": {"resource": "object", "id": "obj_missing"},
                },
            }
        }
    )


class Deleted(Answer):
    """The answer to a delete that has a body."""

    message: str = "deleted"
    success: bool = True


class Pagination(Answer):
    """``total`` and ``total_pages`` only where ``include_total`` was asked for."""

    total: int | None = None
    page: int | None = None
    page_size: int | None = None
    total_pages: int | None = None
    next_page: str | None = None
    previous_page: str | None = None
    next_cursor: str | None = None


class SortSpec(Request):
    field: str = Field(min_length=1, max_length=200)
    direction: Literal["asc", "desc"] = "asc"


_MEANING = {
    400: "Bad parameter, or a state in which this cannot be done",
    401: "Missing or invalid key",
    403: "The key may not do this",
    404: "Unknown id, or not in this namespace",
    405: "Wrong method",
    409: "Something with this name or key exists",
    413: "The body is too large",
    422: "The request is not valid; one row a fault",
    429: "Rate limit exceeded",
    500: "Unexpected error",
    503: "A store is away: try again, creates with an idempotency_key, since the answer may be all that was lost",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented error answers of a route: those every route has, and these."""
    every = sorted({400, 401, 403, 404, 422, 429, 500, 503, *statuses})
    return {status: {"model": ErrorEnvelope, "description": _MEANING[status]} for status in every}


def example(value: Mapping[str, Any]) -> ConfigDict:
    """Model configuration that shows ``value`` as the schema's example."""
    return ConfigDict(json_schema_extra={"example": dict(value)})
