"""The event feed on the real MongoDB: complete, in order, resumable, and isolated between keys and namespaces."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from mixpeek.models.list_events_response import ListEventsResponse
from tests.integration.ingest_api.conftest import ROOT, Replica, World
from tests.waiting import eventually

from bucketline.db.event_feed import EventFeed, FeedEvent, Position
from bucketline.domain.status import RANK_FINAL, RANK_PROCESSING, Status
from bucketline.events.cloudevents import REPLAY, ReceivedEvent
from bucketline.events.models import BatchCompleted, Event, ObjectCreated, ObjectDeleted, ObjectStatusChanged

pytestmark = pytest.mark.stack


async def namespace(replica: Replica, name: str) -> str:
    return str((await replica.make("/v1/namespaces", {"namespace_name": name}))["namespace_id"])


def received(event: Event, identity: str, source: str = "/test") -> ReceivedEvent[Any]:
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    return ReceivedEvent(event=event, id=identity, source=source, trace=trace, partition=0, offset=0)


def created(world: World, namespace_id: str, number: int, bucket: str = "bkt_1") -> ReceivedEvent[Any]:
    event = ObjectCreated(
        object_id=f"obj_{number}",
        bucket_id=bucket,
        namespace_id=namespace_id,
        revision=1,
        created_at=world.clock.now(),
    )
    return received(event, f"evt_{namespace_id}_{number}")


def status(world: World, namespace_id: str, number: int, sequence: int, name: Status) -> ReceivedEvent[Any]:
    event = ObjectStatusChanged(
        object_id=f"obj_{number}",
        bucket_id="bkt_1",
        namespace_id=namespace_id,
        revision=1,
        batch_id="btch_1",
        run_id=1,
        sequence=sequence,
        status=name,
        occurred_at=world.clock.now(),
    )
    return received(event, "evt_status")


async def page(replica: Replica, key: str = ROOT, **query: object) -> dict[str, Any]:
    path = f"/v1/events?{urlencode({name: str(value) for name, value in query.items()})}"
    answer = await replica.call("GET", path, key=key)
    assert answer.status == 200, answer
    ListEventsResponse.from_dict(answer.body)
    found: dict[str, Any] = answer.body
    return found


async def listed(replica: Replica, count: int, key: str = ROOT, **query: object) -> list[dict[str, Any]]:
    """Return the events once there are ``count`` of them: they appear a few seconds after they were written."""

    async def all_there() -> list[dict[str, Any]] | None:
        rows: list[dict[str, Any]] = (await page(replica, key, **query))["results"]
        return rows if len(rows) >= count else None

    rows = await eventually(all_there, deadline=15)
    assert len(rows) == count
    return rows


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["payload"]["event_id"] for row in rows]


async def test_feed_has_every_event_of_an_object_in_order(world: World, replica: Replica) -> None:
    home = await namespace(replica, "home")
    deleted = ObjectDeleted(
        object_id="obj_1", bucket_id="bkt_1", namespace_id=home, revision=2, deleted_at=world.clock.now()
    )
    for record in (
        created(world, home, 1),
        status(world, home, 1, RANK_PROCESSING, Status.PROCESSING),
        status(world, home, 1, RANK_FINAL, Status.COMPLETED),
        received(deleted, "evt_deleted"),
    ):
        await replica.deps.notifier.notify([record])
    rows = await listed(replica, 4)
    assert [(row["event_type"], row["operation"]) for row in rows] == [
        ("object.created", "insert"),
        ("object.updated", "update"),
        ("object.updated", "update"),
        ("object.deleted", "delete"),
    ]
    assert [row["payload"]["metadata"].get("status") for row in rows] == ["DRAFT", "PROCESSING", "COMPLETED", None]
    assert {row["trace_id"] for row in rows} == {"a" * 32}
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)


async def test_pages_continue_after_the_cursor_and_after_each_event(world: World, replica: Replica) -> None:
    home = await namespace(replica, "home")
    for start in range(0, 9, 3):
        await replica.deps.notifier.notify([created(world, home, start + n) for n in range(3)])
    whole = await listed(replica, 9)
    pages, cursor = [], None
    for _ in range(5):
        found = await page(replica, limit=2, **({"cursor": cursor} if cursor else {}))
        pages += found["results"]
        cursor = found["next_cursor"]
    assert ids(pages) == ids(whole)
    assert found["has_more"] is False
    empty = await page(replica, after=cursor)
    assert (empty["results"], empty["next_cursor"], empty["has_more"]) == ([], cursor, False)
    for n, row in enumerate(whole):
        assert ids((await page(replica, next_cursor=row["cursor"]))["results"]) == ids(whole[n + 1 :])


async def test_filters_select_by_type_bucket_object_and_batch(world: World, replica: Replica) -> None:
    home = await namespace(replica, "home")
    finished = BatchCompleted(
        batch_id="btch_1",
        bucket_id="bkt_1",
        namespace_id=home,
        status=Status.COMPLETED,
        object_count=1,
        failed_count=0,
        documents_written=0,
        completed_at=world.clock.now(),
    )
    records = [
        created(world, home, 1),
        created(world, home, 2, "bkt_2"),
        status(world, home, 1, RANK_FINAL, Status.COMPLETED),
        received(finished, "evt_batch"),
    ]
    await replica.deps.notifier.notify(records)
    whole = ids(await listed(replica, 4))
    expected: list[tuple[Mapping[str, str], list[str]]] = [
        ({"event_type": "object.created"}, whole[:2]),
        ({"bucket_id": "bkt_1"}, [whole[0], *whole[2:]]),
        ({"object_id": "obj_1"}, [whole[0], whole[2]]),
        ({"batch_id": "btch_1"}, whole[2:]),
        ({"batch_id": "btch_1", "object_id": "obj_1"}, [whole[2]]),
        ({"object_id": "obj_3"}, []),
    ]
    for query, rows in expected:
        assert ids((await page(replica, **query))["results"]) == rows, query


async def test_key_sees_only_the_events_of_its_namespaces_and_organization(world: World, replica: Replica) -> None:
    mine, other = await namespace(replica, "mine"), await namespace(replica, "other")
    restricted = await world.key(namespaces=[mine])
    foreign = await world.key("org_other")
    await replica.deps.notifier.notify([created(world, mine, 1), created(world, other, 2)])
    assert ids(await listed(replica, 2)) == [f"evt_{mine}_1", f"evt_{other}_2"]
    assert ids((await page(replica, restricted))["results"]) == [f"evt_{mine}_1"]
    assert ids((await page(replica, namespace_id="other"))["results"]) == [f"evt_{other}_2"]
    assert (await page(replica, foreign))["results"] == []
    for key in (restricted, foreign):
        assert (await replica.call("GET", f"/v1/events?namespace_id={other}", key=key)).status == 404
    answer = await replica.call("GET", f"/v1/events?namespace_id={other}", namespace="mine")
    assert answer.status == 400


@pytest.mark.parametrize(
    "cursor", ["x", "1.2.3", "1.69a3f1d0c2b1a0f9e8d7c6b5.x", "9" * 40 + ".69a3f1d0c2b1a0f9e8d7c6b5.1"]
)
async def test_invalid_cursor_returns_400(replica: Replica, cursor: str) -> None:
    answer = await replica.call("GET", f"/v1/events?cursor={cursor}")
    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_cursor")


async def test_replayed_events_are_not_in_the_feed(world: World, replica: Replica) -> None:
    home = await namespace(replica, "home")
    replay = received(created(world, home, 1).event, "evt_replay", source=REPLAY)
    await replica.deps.notifier.notify([replay, created(world, home, 2)])
    assert ids(await listed(replica, 1)) == [f"evt_{home}_2"]


async def test_reader_misses_no_event_of_concurrent_writers(world: World) -> None:
    """Eight writers append as fast as they can, while a reader follows with a cursor."""
    writers, appends = 8, 25
    expires_at = world.clock.now() + timedelta(days=1)

    async def write(writer: int) -> None:
        feed = EventFeed(world.database)
        for number in range(appends):
            event: FeedEvent = {
                "event_type": "object.created",
                "namespace_id": f"w{writer}",
                "payload": {"number": number},
                "trace_id": None,
            }
            await feed.append("org", [event], [], expires_at=expires_at)

    feed = EventFeed(world.database)
    seen: list[tuple[str, int]] = []
    position: Position | None = None

    async def read() -> bool:
        nonlocal position
        for document in await feed.find_after(position, limit=20, organization_id="org"):
            for index, event in enumerate(document["events"]):
                at = Position.of(document, index)
                if position is None or at > position:
                    seen.append((event["namespace_id"], event["payload"]["number"]))
                    position = at
        return len(seen) >= writers * appends

    writing = asyncio.gather(*map(write, range(writers)))
    await eventually(read, deadline=60, pause=0.02)
    await writing
    assert len(seen) == len(set(seen)) == writers * appends
    for writer in range(writers):
        assert [number for name, number in seen if name == f"w{writer}"] == list(range(appends))
