"""Dates that the schema declares are compared and sorted as moments; what is shown is what was sent."""

from typing import Any

import pytest
from tests.integration.ingest_api.conftest import Replica

pytestmark = pytest.mark.stack

SCHEMA = {
    "properties": {
        "when": {"type": "datetime"},
        "day": {"type": "date"},
        "label": {"type": "string"},
        "times": {"type": "array", "items": {"type": "datetime"}},
        "trip": {"type": "object", "properties": {"start": {"type": "datetime"}}},
    }
}
WHEN = {
    "a": "2026-03-01T10:00:00+05:30",  # 04:30
    "b": "2026-03-01T05:00:00Z",
    "c": "2026-03-01T00:30:00-05:00",  # 05:30
    "d": "2026-03-01t05:30:00.000000001z",
    "e": "2026-03-01 05:30:00.1",
    "f": "2026-03-02",
}
ORDER = list("abcdef")


async def bucket_of(replica: Replica, objects: dict[str, dict[str, Any]]) -> str:
    """The path of a bucket with these objects, made in the reverse order of their labels."""
    await replica.make("/v1/namespaces", {"namespace_name": "home"})
    bucket = {"bucket_name": "dated", "bucket_schema": SCHEMA}
    made = await replica.make("/v1/buckets", bucket, namespace="home")
    path = f"/v1/buckets/{made['bucket_id']}"
    for label in sorted(objects, reverse=True):
        await replica.make(f"{path}/objects", {"label": label, **objects[label]}, namespace="home")
    return path


async def listed(replica: Replica, path: str, body: dict[str, Any], **query: str) -> list[str]:
    """The labels of every page, in order."""
    labels: list[str] = []
    cursor = None
    while True:
        paged = {**body, **({"cursor": cursor} if cursor else {})}
        page = await replica.make(f"{path}/objects/list", paged, namespace="home")
        labels += [row["label"] for row in page["results"]]
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            return labels


@pytest.fixture
async def dated(replica: Replica) -> str:
    dates = {label: {"when": when} for label, when in WHEN.items() if label != "f"}
    return await bucket_of(replica, {**dates, "f": {"when": "2026-03-02T00:00Z"}, "g": {}})


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("eq", "2026-03-01T04:30Z", "a"),
        ("eq", "2026-03-01T04:30:00.000-00:00", "a"),
        ("ne", "2026-03-01T04:30Z", "bcdefg"),
        ("gt", "2026-03-01T05:00:00Z", "cdef"),
        ("gte", "2026-03-01T10:30:00+05:30", "bcdef"),
        ("lt", "2026-03-01T05:30:00Z", "ab"),
        ("lte", "2026-03-01T05:30:00Z", "abc"),
        ("lt", "2026-03-01T05:30:00.1Z", "abcd"),
        ("gte", "2026-03-02", "f"),
        ("lt", "2026-03-02", "abcde"),
        ("in", ["2026-03-01T05:00Z", "2026-03-01T07:30:00+02:00"], "bc"),
        ("nin", ["2026-03-01T05:00Z", "2026-03-01T07:30:00+02:00"], "adefg"),
        ("eq", None, "g"),
        ("contains", "+05:30", "a"),
        ("exists", False, "g"),
    ],
)
async def test_filter_on_datetime_compares_moments(
    replica: Replica, dated: str, operator: str, value: object, expected: str
) -> None:
    filters = {"AND": [{"field": "when", "operator": operator, "value": value}]}
    assert sorted(await listed(replica, dated, {"filters": filters})) == list(expected)


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("size", [1, 2, 3, 10])
async def test_sort_by_datetime_orders_moments_on_every_page(
    replica: Replica, dated: str, direction: str, size: int
) -> None:
    body = {"sort": {"field": "when", "direction": direction}, "limit": size}
    expected = ["g", *ORDER]
    assert await listed(replica, dated, body) == (expected if direction == "asc" else expected[::-1])


async def test_filter_range_sort_and_total_agree(replica: Replica, dated: str) -> None:
    conditions = [
        {"field": "when", "operator": "gte", "value": "2026-03-01T05:00:00Z"},
        {"field": "when", "operator": "lt", "value": "2026-03-02"},
    ]
    body = {
        "filters": {"AND": conditions},
        "sort": {"field": "when", "direction": "desc"},
        "limit": 2,
        "include_total": True,
    }
    assert await listed(replica, dated, body) == list("edcb")
    page = await replica.make(f"{dated}/objects/list", body, namespace="home")
    assert page["pagination"]["total"] == 4
    assert [row["when"] for row in page["results"]] == [WHEN["e"], WHEN["d"]]
    assert not any(name.startswith("_") for row in page["results"] for name in row)


async def test_filter_on_other_dates_compares_moments(replica: Replica) -> None:
    objects: dict[str, dict[str, Any]] = {
        "a": {"day": "2026-03-01"},
        "b": {"day": "2026-03-02", "times": ["2026-03-01T23:00:00-05:00", "2026-01-01T00:00Z"]},
        "c": {"trip": {"start": "2026-03-01T23:00:00-05:00"}, "times": []},
    }
    path = await bucket_of(replica, objects)

    async def found(field: str, operator: str, value: object) -> list[str]:
        return await listed(
            replica, path, {"filters": {"AND": [{"field": field, "operator": operator, "value": value}]}}
        )

    assert await found("day", "eq", "2026-03-02T02:00:00+02:00") == ["b"]
    assert await found("day", "lt", "2026-03-01T00:00:01Z") == ["a"]
    assert await found("times", "eq", "2026-03-02T04:00Z") == ["b"]
    assert await found("times.1", "eq", "2026-01-01") == ["b"]
    assert await found("trip.start", "gte", "2026-03-02T04:00Z") == ["c"]
    assert (await listed(replica, path, {"sort": {"field": "trip.start", "direction": "desc"}}))[0] == "c"


async def test_objects_of_an_earlier_release_are_compared_as_moments(replica: Replica, dated: str) -> None:
    # text that no schema has checked: it has no moment
    bucket_id = dated.rpartition("/")[2]
    objects = replica.deps.objects.collection
    await objects.update_one({"bucket_id": bucket_id, "custom.label": "b"}, {"$set": {"custom.when": "last week"}})
    filters = {"AND": [{"field": "when", "operator": "lte", "value": "2026-03-01T05:30Z"}]}
    assert sorted(await listed(replica, dated, {"filters": filters})) == ["a", "c"]


async def test_filter_on_datetime_with_other_text_returns_422(replica: Replica, dated: str) -> None:
    answer = await replica.call("POST", f"{dated}/objects/list", {"filters": {"when": "noon"}}, namespace="home")
    assert answer.status == 422
    [row] = answer.body["error"]["details"]["validation_errors"]
    assert (row["type"], row["location"]) == ("datetime_type", ["body", "filters", "when"])


async def test_batch_by_filter_compares_moments(replica: Replica, dated: str) -> None:
    filters = {"AND": [{"field": "when", "operator": "gte", "value": "2026-03-01T10:30:00+05:00"}]}
    batch = await replica.make(f"{dated}/batches", {"filters": filters}, namespace="home")
    assert len(batch["object_ids"]) == 4


async def test_aggregate_groups_and_compares_moments(replica: Replica) -> None:
    objects = {
        "a": {"when": "2026-03-01T10:00:00+05:30", "day": "2026-03-01"},
        "b": {"when": "2026-03-01T04:30Z", "day": "2026-03-02"},
        "c": {"when": "2026-03-01T00:30:00-05:00", "day": "2026-03-01"},
        "d": {},
    }
    path = await bucket_of(replica, objects)
    body = {
        "group_by": [{"field": "when"}],
        "aggregations": [{"function": "count", "alias": "n"}, {"function": "max", "field": "day", "alias": "last"}],
    }
    answer = await replica.make(f"{path}/objects/aggregate", body, namespace="home")
    rows = [(row["group"]["when"], row["metrics"]["n"], row["metrics"]["last"]) for row in answer["results"]]
    assert rows == [
        (None, 1, None),
        ("2026-03-01T04:30Z", 2, "2026-03-02"),
        ("2026-03-01T00:30:00-05:00", 1, "2026-03-01"),
    ]
    body = {
        "group_by": [{"field": "bucket_id"}],
        "aggregations": [
            {"function": "min", "field": "when", "alias": "first"},
            {"function": "max", "field": "when", "alias": "last"},
            {"function": "max", "field": "created_at", "alias": "made"},
        ],
    }
    [row] = (await replica.make(f"{path}/objects/aggregate", body, namespace="home"))["results"]
    assert row["metrics"]["first"] in ("2026-03-01T04:30Z", "2026-03-01T10:00:00+05:30")
    assert row["metrics"]["last"] == "2026-03-01T00:30:00-05:00"
    assert row["metrics"]["made"].endswith("Z")


async def test_trigger_by_filter_compares_moments(replica: Replica, dated: str) -> None:
    source = {"type": "bucket", "bucket_ids": [dated.rpartition("/")[2]]}
    extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}
    collection = {"collection_name": "docs", "source": source, "feature_extractor": extractor}
    await replica.make("/v1/collections", collection, namespace="home")
    filters = {"AND": [{"field": "when", "operator": "gte", "value": "2026-03-01T10:30:00+05:00"}]}
    run = await replica.make("/v1/collections/docs/trigger", {"source_filters": filters}, namespace="home")
    assert run["object_count"] == 4
