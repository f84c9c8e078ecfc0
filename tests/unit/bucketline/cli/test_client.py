"""Following objects with a fake API."""

import pytest

from bucketline.cli import client as module
from bucketline.cli.client import Json, follow_objects


class FakeApi:
    """Lists each object with its next status; the last one stays."""

    def __init__(self, **statuses: list[str]) -> None:
        self.statuses = statuses
        self.requests = 0

    async def post(self, _path: str, body: Json) -> Json:
        self.requests += 1
        (condition,) = body["filters"]["AND"]
        assert len(condition["value"]) <= body["limit"]
        rows = [(object_id, self.statuses.get(object_id, [])) for object_id in condition["value"]]
        return {"results": [{"object_id": one, "status": s.pop(0) if len(s) > 1 else s[0]} for one, s in rows if s]}

    async def get(self, path: str) -> Json:
        object_id = path.rpartition("/")[2]
        return {"object_id": object_id, "status": self.statuses[object_id][0]}


async def test_follow_objects_returns_them_in_order_when_all_are_final() -> None:
    api, finished = (
        FakeApi(a=["QUEUED"] * 50 + ["PROCESSING"] * 50 + ["COMPLETED"], b=["QUEUED", "FAILED"]),
        list[int](),
    )
    objects = await follow_objects(api, "b", ["b", "a", "b"], on_progress=finished.append, poll_interval=0)  # type: ignore[arg-type]
    assert [(obj["object_id"], obj["status"]) for obj in objects] == [
        ("b", "FAILED"),
        ("a", "COMPLETED"),
        ("b", "FAILED"),
    ]
    assert (finished[0], finished[1], finished[-1]) == (0, 1, 2)


async def test_follow_many_objects_lists_them_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", 10)
    api = FakeApi(**{f"o{number}": ["COMPLETED"] for number in range(25)})
    assert len(await follow_objects(api, "b", list(api.statuses))) == 25  # type: ignore[arg-type]
    assert api.requests == 3


async def test_follow_objects_with_a_deleted_object_returns_its_id_and_no_other_fields() -> None:
    objects = await follow_objects(FakeApi(a=["COMPLETED"]), "b", ["a", "gone"])  # type: ignore[arg-type]
    assert objects[1] == {"object_id": "gone", "status": "DELETED"}
