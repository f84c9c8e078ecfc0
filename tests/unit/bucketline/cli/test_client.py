"""Following objects takes as long as their status changes."""

from collections.abc import Iterator
from itertools import count

import pytest
from rich.console import Console

from bucketline.cli import client as client_module
from bucketline.cli.client import Json, follow_objects
from bucketline.errors import BucketlineError


class Api:
    """Answers with the next status of each object; the last one stays."""

    def __init__(self, **statuses: list[str]) -> None:
        self._statuses = statuses
        self._seconds: Iterator[int] = count(step=10)

    def monotonic(self) -> int:
        """Stand in for the clock: each look at it takes ten seconds."""
        return next(self._seconds)

    async def get(self, path: str) -> Json:
        object_id = path.rpartition("/")[2]
        statuses = self._statuses[object_id]
        return {"object_id": object_id, "status": statuses.pop(0) if len(statuses) > 1 else statuses[0]}


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


async def test_follow_objects_with_changing_statuses_has_no_limit(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = ["QUEUED"] * 5 + ["PROCESSING"] * 5 + ["COMPLETED"]
    api = Api(a=slow, b=["QUEUED", "FAILED"])
    monkeypatch.setattr(client_module, "time", api)
    found = await follow_objects(console, api, "b", ["b", "a"], idle_timeout=120, poll_interval=0)  # type: ignore[arg-type]
    assert [(obj["object_id"], obj["status"]) for obj in found] == [("b", "FAILED"), ("a", "COMPLETED")]
    assert api.monotonic() > 200


async def test_follow_objects_without_a_change_fails_after_the_idle_timeout(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api(a=["DRAFT", "QUEUED"], b=["COMPLETED"])
    monkeypatch.setattr(client_module, "time", api)
    with pytest.raises(BucketlineError, match=r"no object has changed its status for 120 s: .*'QUEUED': 1"):
        await follow_objects(console, api, "b", ["a", "b"], idle_timeout=120, poll_interval=0)  # type: ignore[arg-type]
