"""What is counted of status changes: each one once, and the time from where the object really was."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from bucketline.db.objects import ObjectDocument
from bucketline.domain.status import Status
from bucketline.events.models import ObjectStatusChanged
from bucketline_ingest_api.subscribers import record_status_metrics

START = datetime(2026, 3, 1, tzinfo=UTC)


def changed(status: Status, rank: int, seconds: float, run: int = 1) -> ObjectStatusChanged:
    return ObjectStatusChanged(
        object_id="obj_1",
        bucket_id="bkt_1",
        namespace_id="ns_1",
        revision=1,
        run_id=run,
        sequence=rank,
        status=status,
        occurred_at=START + timedelta(seconds=seconds),
    )


def known(**fields: Any) -> dict[str, ObjectDocument]:
    queued = {"status": "QUEUED", "run": {"id": 1, "rank": 1}, "created_at": START, "moved_at": START, **fields}
    return {"obj_1": cast("ObjectDocument", queued)}


class Counted:
    """How much each number grew since this was made."""

    NAMES = (
        ("bucketline_stage_duration_seconds_sum", "stage", "queued"),
        ("bucketline_stage_duration_seconds_count", "stage", "queued"),
        ("bucketline_stage_duration_seconds_sum", "stage", "processing"),
        ("bucketline_stage_duration_seconds_count", "stage", "processing"),
        ("bucketline_status_changes_total", "status", "COMPLETED"),
        ("bucketline_end_to_end_duration_seconds_sum", "status", "COMPLETED"),
        ("bucketline_end_to_end_duration_seconds_count", "status", "COMPLETED"),
    )

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> list[float]:
        return [REGISTRY.get_sample_value(name, {label: value}) or 0.0 for name, label, value in self.NAMES]

    def grown(self) -> list[float]:
        return [now - before for now, before in zip(self._now(), self._before, strict=True)]


PROCESSING, COMPLETED = changed(Status.PROCESSING, 2, 4), changed(Status.COMPLETED, 3, 5)


@pytest.mark.parametrize("events", [[PROCESSING, COMPLETED], [PROCESSING, PROCESSING, COMPLETED, COMPLETED]])
def test_changes_of_one_object_in_one_micro_batch_follow_each_other(events: list[ObjectStatusChanged]) -> None:
    counted = Counted()
    record_status_metrics(events, known())
    assert counted.grown() == [4, 1, 1, 1, 1, 5, 1]


def test_late_and_unknown_results_are_not_counted() -> None:
    counted = Counted()
    done = {"status": "COMPLETED", "run": {"id": 1, "rank": 3}}
    record_status_metrics([PROCESSING, COMPLETED], known(**done))
    record_status_metrics([COMPLETED], {})
    assert counted.grown() == [0] * 7


def test_a_later_run_is_no_end_to_end_time() -> None:
    counted = Counted()
    record_status_metrics([changed(Status.COMPLETED, 3, 9, run=2)], known(run={"id": 2, "rank": 1}))
    assert counted.grown() == [9, 1, 0, 0, 1, 0, 0]
