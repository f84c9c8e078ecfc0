"""How every list is asked for: the same numbers in the query string and in the body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import Field

from bucketline_ingest_api.schemas import common

Size = Annotated[int | None, Query(ge=1, le=1000, description="Rows per page. Takes precedence over `page_size`.")]
PageSize = Annotated[int | None, Query(ge=1, le=1000, description="Alias for `limit`.")]
Offset = Annotated[int | None, Query(ge=0, le=10_000, description="Rows to skip. Takes precedence over `page`.")]
Page = Annotated[int | None, Query(ge=1, le=10_001, description="Page number, from 1.")]
Cursor = Annotated[str | None, Query(max_length=8192, description="`next_cursor` of the page before.")]
OtherCursor = Annotated[str | None, Query(max_length=8192, description="Alias for `cursor`.")]
Total = Annotated[bool | None, Query(description="Count all rows: `pagination.total` and `total_pages`.")]


@dataclass(frozen=True)
class ListQuery:
    """The address of a list request; its paging parameters are checked."""

    path: str
    query: Mapping[str, str]


async def parse_list_query(
    request: Request,
    limit: Size = None,  # noqa: ARG001 - documented here, read by name from the query string
    page_size: PageSize = None,  # noqa: ARG001
    offset: Offset = None,  # noqa: ARG001
    page: Page = None,  # noqa: ARG001
    cursor: Cursor = None,  # noqa: ARG001
    next_cursor: OtherCursor = None,  # noqa: ARG001
    after: OtherCursor = None,  # noqa: ARG001
    include_total: Total = None,  # noqa: ARG001
) -> ListQuery:
    """A dependency: where the list was asked for."""
    return ListQuery(request.url.path, request.query_params)


Paging = Annotated[ListQuery, Depends(parse_list_query)]


class ListBody(common.Request):
    """The body of a list route: what it says wins over the query string. Every key may be left out."""

    model_config = common.example(
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
    sort: common.SortSpec | list[common.SortSpec] | None = None
    sorts: list[common.SortSpec] | None = Field(default=None, max_length=10)
    search: str | None = Field(default=None, max_length=1000)
    case_sensitive: bool | None = None
