"""How batches end, without a server."""

from typing import Any, cast

import pytest

from bucketline.clock import ManualClock
from bucketline.db.batches import objects_to_process
from bucketline.db.work_units import Result, Tally
from bucketline.domain.status import Status
from bucketline_batcher.results import finish_auto, finish_explicit, finish_superseded

NOW = ManualClock().now()


def batch(total: int, **more: Any) -> Any:
    return {"_id": "btch_1", "objects": ["obj_1"], "total": total, **more}


def result(status: Status, **more: Any) -> Result:
    found: Any = {"status": str(status), "documents": 0, "error": None, "error_type": None, **more}
    return cast("Result", found)


BASE = {"finished": 3, "failed": 1, "documents": 5, "failed_objects": []}
GIVEN_BACK = {"finished": 0, "failed": 0, "documents": 0, "failed_objects": [], "given_back": 8}


@pytest.mark.parametrize(
    ("found", "tally", "status", "facts"),
    [
        (batch(2), Tally(objects=2, finished=2, documents=4), Status.COMPLETED, (2, 0, 4, 0)),
        (batch(2), Tally(objects=2, finished=2, failed=1), Status.COMPLETED_WITH_ERRORS, (2, 1, 0, 0)),
        (batch(2), Tally(objects=2, finished=2, failed=2), Status.FAILED, (2, 2, 0, 0)),
        (batch(5), Tally(objects=2, finished=2, failed=2), Status.FAILED, (2, 2, 0, 3)),
        (batch(3), Tally(), Status.COMPLETED, (0, 0, 0, 3)),
        (batch(5, base=BASE), Tally(objects=2, finished=2, documents=2), Status.COMPLETED_WITH_ERRORS, (5, 1, 7, 0)),
        (batch(10, base=GIVEN_BACK), Tally(objects=2, finished=2), Status.COMPLETED, (2, 0, 0, 0)),
        (batch(10, base=GIVEN_BACK), Tally(objects=2, finished=2, failed=2), Status.FAILED, (2, 2, 0, 0)),
        (batch(10, base=GIVEN_BACK), Tally(objects=1, finished=1), Status.COMPLETED, (1, 0, 0, 1)),
        (batch(2, cancel_requested_at=NOW), Tally(objects=2, finished=1), Status.CANCELED, (1, 0, 0, 0)),
    ],
)
def test_finish_explicit_returns_totals_and_status(
    found: Any, tally: Tally, status: Status, facts: tuple[int, ...]
) -> None:
    end = finish_explicit(found, tally, [], NOW)
    shown = end.changes
    assert end.status is status
    assert (shown["processed"], shown["failed"], shown["documents_written"], shown["missing"]) == facts
    assert (shown["failure_reason"] is not None) == (status is Status.FAILED)


def test_finish_explicit_with_webhook_url_schedules_the_webhook() -> None:
    assert "webhook" not in finish_explicit(batch(0), Tally(), [], NOW).changes
    due = finish_explicit(batch(0, webhook_url="https://example.com"), Tally(), [], NOW).changes["webhook"]
    assert due == {"due_at": NOW, "host": "example.com"}


@pytest.mark.parametrize(
    ("ended", "status", "processed"),
    [
        (Status.COMPLETED, Status.COMPLETED, 1),
        (Status.SKIPPED, Status.COMPLETED, 1),
        (Status.FAILED, Status.FAILED, 1),
        (Status.COMPLETED_WITH_ERRORS, Status.COMPLETED_WITH_ERRORS, 1),
        (Status.DRAFT, Status.CANCELED, 0),
    ],
)
def test_finish_auto_maps_the_result_to_the_batch(ended: Status, status: Status, processed: int) -> None:
    end = finish_auto(batch(1), result(ended, error="broke"), NOW)
    assert (end.status, end.changes["processed"]) == (status, processed)
    rows = end.changes["failed_objects"]
    assert isinstance(rows, list)
    assert len(rows) == end.failed == (ended in (Status.FAILED, Status.COMPLETED_WITH_ERRORS))


def test_finish_superseded_cancels_with_a_reason() -> None:
    assert "deleted" in str(finish_superseded(batch(1), NOW, deleted=True).changes["failure_reason"])
    assert finish_superseded(batch(1), NOW, deleted=False).status is Status.CANCELED


def test_objects_to_process_excludes_missing_and_returned_objects() -> None:
    assert objects_to_process(batch(10, missing=1, base=GIVEN_BACK)) == 1
    assert objects_to_process(batch(10, missing=1, base=BASE)) == 9
    assert objects_to_process(batch(10)) == 10
