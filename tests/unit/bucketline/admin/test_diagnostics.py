"""Checks that fail are findings, and never an end of the examination."""

from collections.abc import AsyncIterator, Collection

import pytest
from tests.fakes.blob_store import MemoryBlobStore

from bucketline.admin.diagnostics import result as module
from bucketline.admin.diagnostics.kafka import group_permissions
from bucketline.admin.diagnostics.result import CheckResult, clock_check, findings
from bucketline.admin.diagnostics.s3 import _list_and_delete
from bucketline.errors import DependencyUnavailable


async def test_what_was_found_before_an_error_stays_and_the_error_is_a_row_with_advice() -> None:
    async def checks() -> AsyncIterator[CheckResult]:
        yield CheckResult("S3", "bucket", "ok", "there")
        raise ConnectionRefusedError("no one listens")

    first, second = await findings("S3", checks, unreachable="Is the address right?")
    assert first.verdict == "ok"
    assert second.verdict == "bad"
    assert "no one listens" in second.found
    assert second.advice == "Is the address right?"


async def test_a_server_that_never_answers_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def checks() -> AsyncIterator[CheckResult]:
        await asyncio.Event().wait()
        yield CheckResult("S3", "bucket", "ok", "there")

    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    (row,) = await findings("S3", checks, unreachable="Look at the network.")
    assert row.verdict == "bad"


@pytest.mark.parametrize(("skew", "verdict"), [(0.1, "ok"), (-1.9, "ok"), (5, "warning"), (-5, "warning"), (40, "bad")])
def test_a_clock_that_is_off(skew: float, verdict: str) -> None:
    row = clock_check("MongoDB", skew, warn=2, bad=30, why="leases")
    assert row.verdict == verdict
    assert bool(row.advice) == (verdict != "ok")


def test_group_permissions_name_the_denied_groups_with_advice() -> None:
    row = group_permissions(["a", "b"], ["b"])
    assert (row.verdict, row.found) == ("bad", "not to be joined: b")
    assert "BUCKETLINE_KAFKA_GROUP_PREFIX" in row.advice
    assert group_permissions(["a", "b"], []).verdict == "ok"


class _Refusing:
    """A store whose policy allows neither to list nor to delete, or only one of it."""

    def __init__(self, *refused: str) -> None:
        self.store, self.refused = MemoryBlobStore(), refused

    async def list(self, prefix: str, *, limit: int) -> object:
        if "list" in self.refused:
            raise DependencyUnavailable("AccessDenied")
        return await self.store.list(prefix, limit=limit)

    async def delete(self, keys: Collection[str]) -> None:
        if "delete" in self.refused:
            raise DependencyUnavailable("AccessDenied")
        await self.store.delete(keys)

    async def head(self, key: str) -> object:
        return await self.store.head(key)


@pytest.mark.parametrize(
    ("refused", "verdict", "found"), [("", "ok", "removed"), ("list", "bad", "listed"), ("delete", "bad", "deleted")]
)
async def test_a_key_that_may_not_list_or_delete(refused: str, verdict: str, found: str) -> None:
    store = _Refusing(refused)
    store.store.put("staging/doctor/a", b"x")
    row = await _list_and_delete(store, "staging/doctor/a")  # type: ignore[arg-type]  # a part of a store
    assert (row.verdict, found in row.found) == (verdict, True), row
    assert bool(row.advice) == (verdict != "ok")
