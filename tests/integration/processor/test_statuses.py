"""Status events on the real MongoDB: any order, duplicates, any grouping, several writers; one final state."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.processor.factories import an_object

from bucketline.db.mongo import Database
from bucketline.db.objects import Objects
from bucketline.domain.status import RANK_QUEUED, Status
from bucketline.events.models import ObjectStatusChanged

pytestmark = pytest.mark.stack

START = datetime(2026, 3, 1, tzinfo=UTC)
ENDS = [Status.COMPLETED, Status.FAILED, Status.COMPLETED_WITH_ERRORS, Status.SKIPPED, Status.DRAFT]


def life(object_id: str, chance: random.Random) -> list[ObjectStatusChanged]:
    """Some runs of an object, each with its own batch; the last may still be under way."""
    events: list[ObjectStatusChanged] = []
    for run in range(1, chance.randint(2, 5)):
        statuses = [Status.QUEUED, Status.PROCESSING, chance.choice(ENDS)][: chance.randint(1, 3)]
        for rank, status in enumerate(statuses, RANK_QUEUED):
            events.append(
                ObjectStatusChanged(
                    object_id=object_id,
                    bucket_id="bkt_1",
                    namespace_id="ns_1",
                    revision=1,
                    batch_id=f"btch_{run}",
                    run_id=run,
                    sequence=rank,
                    status=status,
                    error=f"error of run {run}" if status is Status.FAILED else None,
                    documents_total=run,
                    occurred_at=START + timedelta(seconds=len(events)),
                )
            )
    return events


@pytest.mark.parametrize("seed", range(5))
async def test_status_events_in_any_order_lead_to_the_same_state(database: Database, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    objects = Objects(database)
    ids = [f"obj_{number}" for number in range(60)]
    await objects.insert([an_object(_id=oid, run={"id": 0, "rank": 0}, status="DRAFT", batch_id=None) for oid in ids])
    lives = {object_id: life(object_id, chance) for object_id in ids}
    events = [event for one in lives.values() for event in one]
    events += chance.choices(events, k=len(events))
    chance.shuffle(events)

    cuts = sorted(chance.sample(range(len(events)), 12))
    groups = [events[start:end] for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    await asyncio.gather(*(objects.apply_statuses(group) for group in groups))

    found: dict[str, Any] = dict(await objects.get_many(ids))
    for object_id, one in lives.items():
        last = max(one, key=lambda event: (event.run_id, event.sequence))
        state = found[object_id]
        assert (state["status"], state["error"], state["batch_id"]) == (str(last.status), last.error, last.batch_id)
        assert state["run"] == {"id": last.run_id, "rank": last.sequence}
    assert await objects.apply_statuses(events) == 0, "all of it again moves nothing"


async def test_first_of_two_final_statuses_counts(database: Database) -> None:
    objects = Objects(database)
    await objects.insert([an_object(run={"id": 1, "rank": 2}, status="PROCESSING")])
    base = {
        "object_id": "obj_1",
        "bucket_id": "bkt_1",
        "namespace_id": "ns_1",
        "revision": 1,
        "run_id": 1,
        "sequence": 3,
    }
    first = ObjectStatusChanged(**base, status=Status.COMPLETED, documents_total=2, occurred_at=START)
    second = ObjectStatusChanged(**base, status=Status.FAILED, error="late", occurred_at=START)
    assert [await objects.apply_statuses([first]), await objects.apply_statuses([second])] == [1, 0]
    found = await objects.get("bkt_1", "obj_1")
    assert found is not None
    assert (found["status"], found["error"], found["document_count"]) == ("COMPLETED", None, 2)
