"""Items and work units, without a server."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.clock import ManualClock
from bucketline.db.work_units import group_of
from bucketline.domain.status import RANK_FINAL, RANK_NEW, RANK_QUEUED
from bucketline_batcher.planner import SizedItem, build_item, build_unit, group_items, run_of, size_of


def obj(
    object_id: str = "obj_1", *, run: int = 0, rank: int = RANK_NEW, batch: str | None = None, size: int = 1
) -> Any:
    return {
        "_id": object_id,
        "bucket_id": "bkt_1",
        "namespace_id": "ns_1",
        "revision": 1,
        "run": {"id": run, "rank": rank},
        "batch_id": batch,
        "blobs": [{"details": {"size_bytes": size}}, {"details": None}],
    }


def item(number: int, size: int) -> SizedItem:
    return build_item(obj(f"obj_{number}", size=size), "btch_1", run=1, turn=1)


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 10), st.integers(1, 100))
def test_group_items_puts_every_item_into_one_group_within_the_limits(
    sizes: list[int], most_objects: int, most_bytes: int
) -> None:
    items = [item(number, size) for number, size in enumerate(sizes)]
    by_id = {one.item["object_id"]: one.size_bytes for one in items}
    units = list(group_items(items, max_objects=most_objects, max_bytes=most_bytes))
    assert [entry["object_id"] for unit in units for entry in unit] == list(by_id)
    for unit in units:
        assert 1 <= len(unit) <= most_objects
        total = sum(by_id[entry["object_id"]] for entry in unit)
        assert total <= most_bytes or len(unit) == 1


def test_group_items_of_two_namespaces_separates_them() -> None:
    now = ManualClock().now()
    items = [SizedItem({**item(number, 1).item, "namespace_id": f"ns_{number % 2}"}, 1) for number in range(6)]
    units = [
        build_unit(unit, batch=None, state="ready", now=now)
        for unit in group_items(items, max_objects=10, max_bytes=10)
    ]
    assert [(group_of(unit), unit["size"]) for unit in units] == [("ns_0", 3), ("ns_1", 3)]


def test_group_of_unit_without_group_uses_the_batch() -> None:
    now = ManualClock().now()
    unit = build_unit([item(1, 1).item], batch=None, state="ready", now=now)
    del unit["group"]
    assert group_of(unit) == ""
    unit["batch_id"] = "btch_1"
    assert group_of(unit) == "btch_1"


def test_build_unit_of_the_same_items_returns_the_same_id() -> None:
    now = ManualClock().now()
    items = [item(number, 1).item for number in range(3)]
    first = build_unit(items, batch=None, state="ready", now=now)
    assert build_unit(items, batch=None, state="held", now=now)["_id"] == first["_id"]
    assert build_unit(items[:2], batch=None, state="ready", now=now)["_id"] != first["_id"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (obj(run=0), 1000),
        (obj(run=1000, rank=RANK_QUEUED, batch="btch_1"), 1000),
        (obj(run=1007, rank=RANK_QUEUED, batch="btch_1"), 1007),
        (obj(run=1000, rank=RANK_FINAL, batch="btch_1"), 1001),
        (obj(run=5000, rank=RANK_QUEUED, batch="btch_2"), 5001),
        (obj(run=5000, rank=RANK_FINAL, batch="btch_1"), 5001),
    ],
)
def test_run_of_exceeds_earlier_runs_and_is_stable(found: Any, expected: int) -> None:
    assert run_of(found, "btch_1", 1000) == expected


def test_build_item_of_object_in_another_batch_is_marked_again() -> None:
    again = [
        build_item(obj(batch=batch), "btch_1", run=1, turn=1).item.get("again") for batch in (None, "btch_1", "btch_2")
    ]
    assert again == [None, None, True]


def test_size_of_ignores_blobs_without_details() -> None:
    assert size_of(obj(size=7)) == 7
