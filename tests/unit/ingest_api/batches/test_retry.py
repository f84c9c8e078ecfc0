"""What a retry takes up and what it leaves alone, without a server."""

from typing import Any

from bucketline.db.work_units import Latest
from bucketline_ingest_api.batches.collection_tiers import restricted
from bucketline_ingest_api.batches.retry import base_of


def last(status: str | None, documents: int = 0, kind: str | None = None) -> Latest:
    result: Any = status and {"status": status, "documents": documents, "error": "broke", "error_type": kind}
    return Latest(1, "unit_1", result or None)


def test_what_is_left_alone_is_summed() -> None:
    kept = {
        "obj_1": last("COMPLETED", 2),
        "obj_2": last("SKIPPED"),
        "obj_3": last("FAILED", kind="permanent"),
        "obj_4": last("COMPLETED_WITH_ERRORS", 1, "resource"),
        "obj_5": last("DRAFT"),
        "obj_6": last(None),
    }
    base = base_of(kept)
    assert (base["finished"], base["failed"], base["documents"]) == (4, 2, 3)
    assert base["given_back"] == 1
    assert [row["error_type"] for row in base["failed_objects"]] == ["permanent", "resource"]


def test_named_collections_bring_those_that_feed_them() -> None:
    def collection(name: str, *parents: str) -> Any:
        return {"_id": name, "source": {"collection_ids": list(parents)}}

    tiers = [[collection("a"), collection("b")], [collection("c", "a"), collection("d", "b")]]
    assert [[c["_id"] for c in tier] for tier in restricted(tiers, ["c"])] == [["a"], ["c"]]
    assert restricted(tiers, []) == []
