"""Replay of the events of stored objects."""

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
        "custom": {"name": "note"},
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


class FakeObjects:
    """The repository's methods that a replay uses, on a list."""

    def __init__(self, documents: list[Any]) -> None:
        self.documents = documents

    async def created_since(
        self, bucket_id: str, since: datetime, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[Any]:
        rows = [d for d in self.documents if d["bucket_id"] == bucket_id and d["created_at"] >= since]
        rows.sort(key=lambda d: (d["created_at"], d["_id"]))
        return [d for d in rows if after is None or (d["created_at"], d["_id"]) > after][:limit]


def create_replay(
    objects: FakeObjects, publisher: RecordingPublisher, *, rate: float = 100.0
) -> tuple[EventReplay, list[float]]:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    replay = EventReplay(objects, publisher, clock=ManualClock(), rate=rate, sleep=sleep)  # type: ignore[arg-type]  # a fake repository
    return replay, pauses


def test_lifecycle_events_of_a_completed_object_are_created_mirrored_and_completed() -> None:
    (created, first), (mirrored, second), (changed, third) = lifecycle_events(document())
    assert isinstance(created, ObjectCreated)
    assert created.blob_count == 1
    assert (created.status, created.run_id, created.fields) == ("COMPLETED", 3, {"name": "note"})
    assert isinstance(mirrored, ObjectMirrored)
    assert mirrored.blobs[0].sha256 == "ab" * 32
    assert mirrored.blobs[0].duplicate
    assert isinstance(changed, ObjectStatusChanged)
    assert (changed.run_id, changed.sequence, changed.status, changed.documents_total) == (3, 3, "COMPLETED", 4)
    assert [first, second, third] == [document()["created_at"], AT + timedelta(minutes=1), AT + timedelta(minutes=5)]


def test_lifecycle_events_of_a_draft_that_is_not_mirrored_are_only_created() -> None:
    fresh = document(status="DRAFT", mirror={"state": "pending", "attempts": 0}, auto_process=False)
    assert [type(event) for event, _ in lifecycle_events(fresh)] == [ObjectCreated]


async def test_replay_of_the_same_objects_publishes_the_same_events_with_the_same_ids() -> None:
    objects, first, second = FakeObjects([document(n) for n in range(3)]), RecordingPublisher(), RecordingPublisher()
    for publisher in (first, second):
        replay, _ = create_replay(objects, publisher)
        assert [p.objects async for p in replay.run("bkt_1", AT)] == [3]
    assert first.published == second.published
    assert len({envelope.id for envelope in first.published}) == 9
    assert {envelope.source for envelope in first.published} == {REPLAY}
    assert not any(envelope.trace for envelope in first.published), "the trace of the request is over"
    assert all(decode_event(e.data, e.headers()).event.key == e.key for e in first.published)


async def test_replay_after_an_interruption_continues_at_the_cursor() -> None:
    objects, publisher = FakeObjects([document(n) for n in range(PAGE * 2 + 5)]), RecordingPublisher()
    replay, _ = create_replay(objects, publisher)
    cursor = None
    async for progress in replay.run("bkt_1", AT):
        cursor = progress.cursor
        break
    assert cursor is not None
    parsed = ReplayCursor.parse(str(cursor))
    assert [p.objects async for p in replay.run("bkt_1", AT, parsed)] == [PAGE, PAGE + 5]
    assert len({e.subject for e in publisher.published}) == PAGE * 2 + 5
    assert len(publisher.published) == 3 * (PAGE * 2 + 5)


async def test_replay_of_many_objects_of_one_millisecond_publishes_all() -> None:
    same = [document(n, created_at=AT) for n in range(PAGE + 7)]
    replay, _ = create_replay(FakeObjects(same), RecordingPublisher())
    assert [p.objects async for p in replay.run("bkt_1", AT)] == [PAGE, PAGE + 7]


async def test_replay_with_a_rate_pauses_between_pages() -> None:
    replay, pauses = create_replay(FakeObjects([document(n) for n in range(PAGE)]), RecordingPublisher(), rate=100)
    assert [p.objects async for p in replay.run("bkt_1", AT)] == [PAGE]
    assert pauses == [PAGE / 100]


async def test_replay_that_cannot_publish_raises_and_reports_no_progress() -> None:
    publisher = RecordingPublisher()
    publisher.failures = 1
    replay, _ = create_replay(FakeObjects([document()]), publisher)
    with pytest.raises(RetryableError):
        _ = [p async for p in replay.run("bkt_1", AT)]


@pytest.mark.parametrize("text", ["", "x", "1", "1:", ":obj_1", "x:obj_1"])
def test_cursor_from_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        ReplayCursor.parse(text)
