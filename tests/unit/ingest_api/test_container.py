"""The bulk write of new objects."""

from typing import Any, cast

from bucketline.clock import ManualClock
from bucketline.db.objects import ObjectDocument, Objects
from bucketline_ingest_api.container import insert_objects


class RefusingObjects:
    """Refuses every object named ``taken``."""

    async def insert(self, documents: list[ObjectDocument]) -> dict[int, str]:
        return {place: "unique_key" for place, document in enumerate(documents) if document["_id"] == "taken"}


def document(name: str, **fields: Any) -> ObjectDocument:
    return cast("ObjectDocument", cast("Any", {"_id": name, **fields}))


OBJECTS = cast("Objects", RefusingObjects())


async def test_insert_objects_with_taken_keys_returns_the_index_for_each() -> None:
    documents = [document(name) for name in ("a", "taken", "b", "taken")]
    assert await insert_objects(OBJECTS, ManualClock(), 4, documents) == [None, "unique_key", None, "unique_key"]


async def test_insert_objects_after_waiting_sets_pending_since_to_the_time_of_the_write() -> None:
    clock = ManualClock()
    new = document("a", pending=[], pending_since=clock.now())
    clock.advance(10)
    await insert_objects(OBJECTS, clock, 4, [new])
    assert new["pending_since"] == clock.now()
