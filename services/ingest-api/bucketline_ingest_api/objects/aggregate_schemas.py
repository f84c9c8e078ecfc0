"""Bodies of the route that aggregates objects."""

from typing import Annotated, Any, Literal

from pydantic import Field

from bucketline_ingest_api.schemas import RequestBody, ResponseBody, Unsupported, example

MAX_GROUP_FIELDS = 5
MAX_AGGREGATIONS = 20
MAX_GROUPS = 10_000

FieldPath = Annotated[str, Field(min_length=1, max_length=256)]
Alias = Annotated[str, Field(min_length=1, max_length=256)]


class GroupBy(RequestBody):
    """A field to group by; objects without it are the group null."""

    field: FieldPath
    alias: Alias | None = Field(default=None, description="Its name in the rows; the field if left out.")
    date_trunc: Unsupported = None
    date_part: Unsupported = None

    @property
    def name(self) -> str:
        return self.alias or self.field


class Aggregation(RequestBody):
    """``sum`` and ``avg`` look at numbers alone, ``min`` and ``max`` at whatever is not null; dates are moments."""

    function: Literal["count", "sum", "avg", "min", "max"]
    field: FieldPath | None = Field(default=None, description="Not needed for `count`, which counts objects.")
    alias: Alias
    distinct_field: Unsupported = None

    @property
    def name(self) -> str:
        return self.alias


class Having(RequestBody):
    """Keeps groups whose metric compares like this."""

    field: Alias
    operator: Literal["eq", "ne", "gt", "gte", "lt", "lte"]
    value: Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)] | str


class AggregateObjects(RequestBody):
    """Grouping, after ``filters`` and before ``having``, ``sort_by`` and ``limit``."""

    model_config = example(
        {
            "group_by": [{"field": "state"}],
            "aggregations": [
                {"function": "count", "alias": "invoices"},
                {"function": "sum", "field": "amount", "alias": "total"},
            ],
            "filters": {"AND": [{"field": "created_at", "operator": "gte", "value": "2026-03-01"}]},
            "sort_by": "total",
            "limit": 20,
        }
    )

    group_by: list[GroupBy] = Field(min_length=1, max_length=MAX_GROUP_FIELDS)
    aggregations: list[Aggregation] = Field(min_length=1, max_length=MAX_AGGREGATIONS)
    filters: dict[str, Any] | None = None
    having: list[Having] | None = Field(default=None, max_length=MAX_AGGREGATIONS)
    unwind: Unsupported = None
    range_buckets: Unsupported = None
    sort_by: Alias | None = Field(default=None, description="A name in the rows; if left out, the groups.")
    sort_direction: Literal["asc", "desc"] | None = Field(default="desc", description="Of `sort_by`.")
    limit: int = Field(default=1000, ge=1, le=MAX_GROUPS)

    @property
    def direction(self) -> int:
        return 1 if self.sort_direction == "asc" else -1


class Row(ResponseBody):
    group: dict[str, Any]
    metrics: dict[str, Any]


class Aggregates(ResponseBody):
    """``query_info.truncated``: there are more groups than ``limit``."""

    model_config = example(
        {
            "results": [{"group": {"state": "open"}, "metrics": {"invoices": 12, "total": 3400.5}}],
            "total_groups": 1,
            "query_info": {"limit": 20, "truncated": False},
        }
    )

    results: list[Row]
    total_groups: int
    query_info: dict[str, Any]
