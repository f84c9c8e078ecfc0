"""Aggregates of objects: what is counted, summed and refused."""

from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica

from bucketline_ingest_api import pagination

pytestmark = pytest.mark.stack

SCHEMA = {"properties": {"state": {"type": "string"}, "amount": {"type": "number"}}}
ROWS = [
    {"state": "open", "amount": 10, "vendor": {"name": "a"}},
    {"state": "open", "amount": 2.5, "vendor": {"name": "b"}},
    {"state": "paid", "amount": 100},
    {"amount": 1, "note": "no state"},
    {"state": "void"},
]
COUNT = {"function": "count", "alias": "n"}


@pytest.fixture
async def path(replica: Replica) -> str:
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    for name in ("sums", "others"):
        await replica.make("/v1/buckets", {"bucket_name": name, "bucket_schema": SCHEMA}, namespace="home")
        await replica.make(f"/v1/buckets/{name}/objects/batch", {"objects": ROWS}, namespace="home")
    return "/v1/buckets/sums/objects/aggregate"


async def aggregated(replica: Replica, path: str, **body: Any) -> list[tuple[Any, ...]]:
    """Each row as the values of its group and of its metrics."""
    asked = {"group_by": [{"field": "state"}], "aggregations": [COUNT], **body}
    answer = await replica.make(path, asked, namespace="home")
    assert answer["total_groups"] == len(answer["results"])
    return [(*row["group"].values(), *row["metrics"].values()) for row in answer["results"]]


async def test_aggregate_groups_by_a_field(replica: Replica, path: str) -> None:
    functions = [
        COUNT,
        *({"function": name, "field": "amount", "alias": name} for name in ("sum", "avg", "min", "max")),
    ]
    assert await aggregated(replica, path, aggregations=functions) == [
        (None, 1, 1, 1.0, 1, 1),
        ("open", 2, 12.5, 6.25, 2.5, 10),
        ("paid", 1, 100, 100.0, 100, 100),
        ("void", 1, 0, None, None, None),
    ]


async def test_aggregate_takes_filters_having_sort_and_limit(replica: Replica, path: str) -> None:
    total = {"function": "sum", "field": "amount", "alias": "total"}
    filters = {"AND": [{"field": "amount", "operator": "gt", "value": 1}]}
    assert await aggregated(replica, path, filters=filters) == [("open", 2), ("paid", 1)]
    assert await aggregated(replica, path, having=[{"field": "n", "operator": "gte", "value": 2}]) == [("open", 2)]
    ordered = await aggregated(replica, path, aggregations=[total], sort_by="total")
    assert [row[0] for row in ordered] == ["paid", "open", None, "void"]
    ordered = await aggregated(replica, path, sort_by="state", sort_direction="desc")
    assert [row[0] for row in ordered] == ["void", "paid", "open", None]
    body = {"group_by": [{"field": "state"}], "aggregations": [total], "sort_by": "total", "limit": 1}
    answer = await replica.make(path, body, namespace="home")
    assert [row["group"]["state"] for row in answer["results"]] == ["paid"]
    assert answer["query_info"] == {"limit": 1, "truncated": True}


async def test_aggregate_names_groups_and_reaches_nested_fields(replica: Replica, path: str) -> None:
    groups = [{"field": "vendor.name", "alias": "vendor"}, {"field": "status"}]
    answer = await replica.make(path, {"group_by": groups, "aggregations": [COUNT]}, namespace="home")
    assert [row["group"] for row in answer["results"]] == [
        {"vendor": None, "status": "DRAFT"},
        {"vendor": "a", "status": "DRAFT"},
        {"vendor": "b", "status": "DRAFT"},
    ]


async def test_aggregate_of_an_empty_bucket_is_empty(replica: Replica, path: str) -> None:
    made = {"bucket_name": "void", "bucket_schema": SCHEMA}
    await replica.make("/v1/buckets", made, namespace="home")
    assert await aggregated(replica, path.replace("sums", "void")) == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"group_by": []}, ["group_by"]),
        ({"aggregations": []}, ["aggregations"]),
        ({"group_by": [{"field": "$where"}]}, ["group_by", 0, "field"]),
        ({"group_by": [{"field": "tags.0"}]}, ["group_by", 0, "field"]),
        ({"group_by": [{"field": "a..b"}]}, ["group_by", 0, "field"]),
        ({"group_by": [{"field": "state"}, {"field": "amount", "alias": "state"}]}, ["group_by", 1, "alias"]),
        ({"group_by": [{"field": "created_at", "date_trunc": "day"}]}, ["group_by", 0, "date_trunc"]),
        ({"aggregations": [{"function": "sum", "alias": "n"}]}, ["aggregations", 0, "field"]),
        ({"aggregations": [{"function": "push", "field": "state", "alias": "n"}]}, ["aggregations", 0, "function"]),
        ({"aggregations": [COUNT, COUNT]}, ["aggregations", 1, "alias"]),
        ({"aggregations": [{**COUNT, "alias": f"n{n}"} for n in range(21)]}, ["aggregations"]),
        ({"having": [{"field": "state", "operator": "eq", "value": 1}]}, ["having", 0, "field"]),
        ({"sort_by": "amount"}, ["sort_by"]),
        ({"unwind": "blobs"}, ["unwind"]),
        ({"limit": 10_001}, ["limit"]),
        ({"filters": {"field": "a", "operator": "between", "value": 1}}, ["filters", "operator"]),
    ],
)
async def test_aggregate_with_a_fault_returns_422(
    replica: Replica, path: str, body: dict[str, Any], where: list[object]
) -> None:
    asked = {"group_by": [{"field": "state"}], "aggregations": [COUNT], **body}
    answer = await replica.call("POST", path, asked, namespace="home")
    assert answer.status == 422
    rows = answer.body["error"]["details"]["validation_errors"]
    assert [row["location"] for row in rows] == [["body", *where]]


async def test_aggregate_that_takes_too_long_returns_503(
    replica: Replica, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagination, "MAX_SEARCH_SECONDS", 0.000001)
    asked = {"group_by": [{"field": "state"}], "aggregations": [COUNT]}
    answer = await replica.call("POST", path, asked, namespace="home")
    assert (answer.status, answer.body["error"]["type"]) == (503, "SearchTooSlowError")
