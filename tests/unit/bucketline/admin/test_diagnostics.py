"""Diagnostics report failures as results and never raise them."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

import pytest
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.admin import diagnostics
from bucketline.admin.diagnostics import ADVICE, CheckResult, check_clock, check_groups, collect_results
from bucketline.blobs.store import ObjectSummary
from bucketline.errors import DependencyUnavailable


async def test_collect_results_with_an_exception_keeps_earlier_results_and_adds_an_error() -> None:
    async def checks() -> AsyncIterator[CheckResult]:
        yield CheckResult("S3", "bucket", "ok", "exists")
        raise ConnectionRefusedError("connection refused")

    first, second = await collect_results("S3", checks())
    assert first.severity == "ok"
    assert second.severity == "error"
    assert "connection refused" in second.found
    assert second.advice == ADVICE["S3"]


async def test_collect_results_without_a_response_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def checks() -> AsyncIterator[CheckResult]:
        await asyncio.Event().wait()
        yield CheckResult("S3", "bucket", "ok", "exists")

    monkeypatch.setattr(diagnostics, "TIMEOUT_SECONDS", 0.01)
    (result,) = await collect_results("S3", checks())
    assert result.severity == "error"


@pytest.mark.parametrize(
    ("skew", "severity"), [(0.1, "ok"), (-1.9, "ok"), (5, "warning"), (-5, "warning"), (40, "error")]
)
def test_check_clock_with_a_skew_returns_a_severity(skew: float, severity: str) -> None:
    result = check_clock("MongoDB", skew, warning=2, error=30, reason="leases")
    assert result.severity == severity
    assert bool(result.advice) == (severity != "ok")


def test_check_groups_with_denied_groups_names_them_and_gives_advice() -> None:
    result = check_groups(["a", "b"], ["b"])
    assert (result.severity, result.found) == ("error", "not permitted: b")
    assert "BUCKETLINE_KAFKA_GROUP_PREFIX" in result.advice
    assert check_groups(["a", "b"], []).severity == "ok"


class RestrictedStore(MemoryBlobStore):
    """A store whose policy refuses one operation."""

    def __init__(self, refused: str) -> None:
        super().__init__()
        self.refused = refused

    async def list(self, prefix: str, *, limit: int, after: str | None = None) -> Sequence[ObjectSummary]:
        if self.refused == "list":
            raise DependencyUnavailable("AccessDenied")
        return await super().list(prefix, limit=limit, after=after)

    async def delete(self, keys: Collection[str]) -> None:
        if self.refused == "delete":
            raise DependencyUnavailable("AccessDenied")
        await super().delete(keys)


@pytest.mark.parametrize(
    ("refused", "severity", "found"),
    [("", "ok", "deleted"), ("list", "error", "listed"), ("delete", "error", "deleted")],
)
async def test_check_list_and_delete_without_permission_is_an_error(refused: str, severity: str, found: str) -> None:
    store = RestrictedStore(refused)
    store.put("staging/doctor/a", b"x")
    result = await diagnostics.check_list_and_delete(store, "staging/doctor/a")
    assert (result.severity, found in result.found) == (severity, True), result
    assert bool(result.advice) == (severity != "ok")
