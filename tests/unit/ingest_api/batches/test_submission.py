"""The totals that a retry carries over from earlier runs."""

from typing import Any

from bucketline.db.work_units import Latest
from bucketline_ingest_api.batches.submission import carried_totals


def last(status: str | None, documents: int = 0, kind: str | None = None) -> Latest:
    result: Any = status and {"status": status, "documents": documents, "error": "broke", "error_type": kind}
    return Latest(1, "unit_1", result or None)


def test_carried_totals_count_objects_that_are_not_retried() -> None:
    kept = {
        "obj_1": last("COMPLETED", 2),
        "obj_2": last("SKIPPED"),
        "obj_3": last("FAILED", kind="permanent"),
        "obj_4": last("COMPLETED_WITH_ERRORS", 1, "resource"),
        "obj_5": last("DRAFT"),
        "obj_6": last(None),
    }
    base = carried_totals(kept)
    assert (base["finished"], base["failed"], base["documents"]) == (4, 2, 3)
    assert base["given_back"] == 1
    assert [row["error_type"] for row in base["failed_objects"]] == ["permanent", "resource"]
