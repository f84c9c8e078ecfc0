"""What is said again of a stored object."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.fakes.publisher import RecordingPublisher

from bucketline.admin.event_replay import PAGE, EventReplay, ReplayCursor, lifecycle_events
from bucketline.clock import ManualClock
from bucketline.errors import BadRequest, RetryableError
from bucketline.events.cloudevents import REPLAY, decode_event
from bucketline.events.models import ObjectCreated, ObjectMirrored, ObjectStatusChanged

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def document(number: int = 1, **changes: object) -> Any:
    return {
        "_id": f"obj_{number:05d}",
        "namespace_id": "ns_1",
        "bucket_id": "bkt_1",
        "key_prefix": "/in",
        "blobs": [
            {
                "blob_id": "blob_1",
                "property": "note",
                "state": "stored",
                "details": {
                    "hash": "sha256:" + "ab" * 32,
                    "size_bytes": 5,
                    "mime_type": "text/plain",
                    "filename": None,
                },
                "storage": {"url": "s3://b/k", "key": "k", "duplicate": True},
            }
        ],
        "status": "COMPLETED",
        "error": None,
        "created_at": AT + timedelta(seconds=number),
        "updated_at": AT + timedelta(minutes=9),
        "moved_at": AT + timedelta(minutes=5),
        "revision": 2,
        "run": {"id": 3, "rank": 3},
        "mirror": {"state": "done", "attempts": 1, "at": AT + timedelta(minutes=1)},
        "auto_process": True,
        "batch_id": "btch_1",
        "document_count": 4,
        "trace": {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        **changes,
    }


class Stored:
    """The collection's side of the repository, on a list."""

    def __init__(self, documents: list[Any]) -> None:
        self.documents = documents
        self.collection = self

    def _matching(self, where: Any) -> list[Any]:
        since = where["created_at"]["$gte"]
        found = [d for d in self.documents if d["bucket_id"] == where["bucket_id"] and d["created_at"] >= since]
        if "$or" in where:
            after = where["$or"][0]["created_at"]["$gt"], where["$or"][1]["_id"]["$gt"]
            found = [d for d in found if d["created_at"] > after[0] or d["_id"] > after[1]]
        return sorted(found, key=lambda d: (d["created_at"], d["_id"]))

    async def count(self, where: Any, *, limit: int) -> int:
        return min(limit, len(self._matching(where)))

    async def find(
        self, where: Any, *, limit: int, sort: Any, hint: str, skip: int = 0, fields: Any = None
    ) -> list[Any]:
        assert fields in (None, ["created_at"])
        assert list(sort) == [("created_at", 1), ("_id", 1)]
        assert hint == "listing"
        return self._matching(where)[skip : skip + limit]


def replay(stored: Stored, publisher: RecordingPublisher, *, rate: float = 100.0) -> tuple[EventReplay, list[float]]:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    return EventReplay(stored, publisher, clock=ManualClock(), rate=rate, pause=pause), pauses  # type: ignore[arg-type]  # a fake repository


def test_a_finished_object_was_created_mirrored_and_completed() -> None:
    (created, first), (mirrored, second), (changed, third) = lifecycle_events(document())
    assert isinstance(created, ObjectCreated)
    assert created.blob_count == 1
    assert created.status == "QUEUED"
    assert isinstance(mirrored, ObjectMirrored)
    assert mirrored.blobs[0].sha256 == "ab" * 32
    assert mirrored.blobs[0].duplicate
    assert isinstance(changed, ObjectStatusChanged)
    assert (changed.run_id, changed.sequence, changed.status, changed.documents_total) == (3, 3, "COMPLETED", 4)
    assert [first, second, third] == [document()["created_at"], AT + timedelta(minutes=1), AT + timedelta(minutes=5)]


def test_of_a_draft_that_is_not_mirrored_only_its_creation_is_told() -> None:
    fresh = document(status="DRAFT", mirror={"state": "pending", "attempts": 0}, auto_process=False)
    assert [type(event) for event, _ in lifecycle_events(fresh)] == [ObjectCreated]


async def test_a_replay_says_the_same_with_the_same_ids_every_time() -> None:
    stored, first, second = Stored([document(n) for n in range(3)]), RecordingPublisher(), RecordingPublisher()
    for publisher in (first, second):
        work, _ = replay(stored, publisher)
        assert [p.objects async for p in work.run("bkt_1", AT)] == [3]
    assert first.published == second.published
    assert len({envelope.id for envelope in first.published}) == 9
    assert {envelope.source for envelope in first.published} == {REPLAY}
    assert not any(envelope.trace for envelope in first.published), "the trace of the request is long over"
    assert all(decode_event(e.data, e.headers()).event.key == e.key for e in first.published)


@pytest.mark.parametrize("objects", [0, 1, 9, 10, 11, 25])
async def test_a_bucket_of_any_size_is_counted_in_steps(objects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline.admin.event_replay.COUNTED", 10)
    work, _ = replay(Stored([document(n) for n in range(objects)]), RecordingPublisher())
    assert await work.count("bkt_1", AT) == objects
    assert await work.count("bkt_1", AT, most=10) == min(objects, 10)


async def test_it_goes_on_where_it_was_interrupted() -> None:
    stored, publisher = Stored([document(n) for n in range(PAGE * 2 + 5)]), RecordingPublisher()
    work, _ = replay(stored, publisher)
    reached = None
    async for progress in work.run("bkt_1", AT):
        reached = progress.place
        break
    assert reached is not None
    again = ReplayCursor.read(str(reached))
    assert await work.count("bkt_1", AT, again) == PAGE + 5
    assert [p.objects async for p in work.run("bkt_1", AT, again)] == [PAGE, PAGE + 5]
    assert len({e.subject for e in publisher.published}) == PAGE * 2 + 5
    assert len(publisher.published) == 3 * (PAGE * 2 + 5)


async def test_objects_of_one_millisecond_are_all_told_of() -> None:
    same = [document(n, created_at=AT) for n in range(PAGE + 7)]
    publisher = RecordingPublisher()
    work, _ = replay(Stored(same), publisher)
    assert [p.objects async for p in work.run("bkt_1", AT)] == [PAGE, PAGE + 7]


async def test_the_rate_is_kept() -> None:
    work, pauses = replay(Stored([document(n) for n in range(PAGE)]), RecordingPublisher(), rate=100)
    assert [p.objects async for p in work.run("bkt_1", AT)] == [PAGE]
    assert pauses == [PAGE / 100]


async def test_what_the_broker_did_not_take_does_not_count() -> None:
    publisher = RecordingPublisher()
    publisher.failures = 1
    work, _ = replay(Stored([document()]), publisher)
    with pytest.raises(RetryableError):
        _ = [p async for p in work.run("bkt_1", AT)]


@pytest.mark.parametrize("text", ["", "x", "1", "1:", ":obj_1", "x:obj_1"])
def test_a_place_that_no_replay_named_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        ReplayCursor.read(text)
