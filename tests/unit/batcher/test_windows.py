"""What fits into a window, without a server."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.db.buckets import Batching
from bucketline_batcher.settings import BatcherSettings
from bucketline_batcher.windows import WindowDraft, default_policy, drafts_that_fit, is_full, is_new_draft, policy_of

POLICY: Batching = {"max_objects": 3, "max_bytes": 100, "max_wait_seconds": 5.0}


@given(st.lists(st.integers(0, 150), max_size=8), st.integers(0, 3), st.integers(0, 120))
def test_windows_are_filled_in_order_and_never_overfilled(sizes: list[int], count: int, size: int) -> None:
    drafts = [WindowDraft(f"obj_{n}:0", weight) for n, weight in enumerate(sizes)]
    taken = drafts_that_fit(drafts, POLICY, count=count, size=size)
    assert taken == drafts[: len(taken)]
    total = size + sum(draft.size for draft in taken)
    assert count + len(taken) <= 3
    assert total <= 100 or not taken or (count == 0 and len(taken) == 1)
    if count == 0 and drafts:
        assert taken, "an empty window takes at least one"


@pytest.mark.parametrize(("count", "size", "full"), [(2, 99, False), (3, 1, True), (1, 100, True)])
def test_full(count: int, size: int, full: bool) -> None:
    window: Any = {"count": count, "bytes": size}
    assert is_full(window, POLICY) is full


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        ({}, True),
        ({"auto_process": True}, False),
        ({"status": "COMPLETED"}, False),
        ({"run": {"id": 5, "rank": 3}}, False),
        ({"mirror": {"state": "pending"}}, False),
        ({"mirror": {"state": "failed"}}, True),
    ],
)
def test_only_undecided_drafts_join_a_window(change: dict[str, Any], fresh: bool) -> None:
    obj: Any = {
        "auto_process": False,
        "status": "DRAFT",
        "run": {"id": 0, "rank": 0},
        "mirror": {"state": "done"},
        **change,
    }
    assert is_new_draft(obj) is fresh


def test_a_bucket_has_its_own_policy_or_the_deployments() -> None:
    own: Any = {"settings": {"batching": POLICY}}
    none: Any = {"settings": {"batching": None}}
    default = default_policy(BatcherSettings(window_enabled=True, window_max_objects=7))
    assert default_policy(BatcherSettings()) is None
    assert policy_of(own, default) == POLICY
    assert policy_of(none, default) == default
    assert policy_of(none, None) is None
    deleting: Any = {**own, "deleting": True}
    assert policy_of(deleting, default) is None
