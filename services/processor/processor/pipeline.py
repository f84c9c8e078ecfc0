"""A work unit on its way: objects × collections → extractor → documents → status.

Documents are written before the status that counts them is said, and what concurrent objects finish at the same time
shares one write and one publish. Doing a unit again changes nothing: ids are derived, and of two final statuses of an
item the first counts everywhere.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bucketline.domain.status import RANK_FINAL, RANK_PROCESSING, Status
from bucketline.events.catalog import ObjectStatusChanged
from bucketline.runtime import Runtime
from bucketline.storage.batches import Item, UnitDocument
from bucketline.storage.documents import DocumentDocument, Documents
from bucketline.storage.group_commit import GroupCommit
from bucketline.storage.objects import ObjectDocument, Objects
from bucketline.telemetry.tracing import span
from processor.extraction import Extracted, Extraction
from processor.settings import ProcessorSettings

MOST_ERROR = 2000


@dataclass(frozen=True)
class Finished:
    """An item with all that is to be written and said of it."""

    event: ObjectStatusChanged
    trace: dict[str, str]
    documents: list[DocumentDocument] = field(default_factory=list)
    replaced: list[tuple[str, str, int]] = field(default_factory=list)


class Pipeline:
    """Works on units; as many objects side by side as the settings allow."""

    def __init__(self, runtime: Runtime, extraction: Extraction, settings: ProcessorSettings) -> None:
        self._runtime = runtime
        self._extraction = extraction
        self._objects = Objects(runtime.database)
        self._documents = Documents(runtime.database)
        self._slots = asyncio.Semaphore(settings.objects)
        self._finisher: GroupCommit[Finished, None] = GroupCommit(self._finish, name="documents", max_size=500)

    async def run(self, unit: UnitDocument, trace: dict[str, str]) -> None:
        """Returns when every item has its final status on the bus.

        Items that have a result already are left out. Raises what a store or the bus raises: the unit stays open then,
        and is done again.
        """
        places = [place for place in range(unit["size"]) if str(place) not in unit["results"]]
        objects = await self._objects.many([unit["items"][place]["object_id"] for place in places])
        await self._say_started(unit, places, objects, trace)
        async with asyncio.TaskGroup() as group:
            for place in places:
                obj = objects.get(unit["items"][place]["object_id"])
                group.create_task(self._item(unit, place, obj, trace))

    async def _item(self, unit: UnitDocument, place: int, obj: ObjectDocument | None, trace: dict[str, str]) -> None:
        item = unit["items"][place]
        started = time.perf_counter()
        parent = (obj.get("trace") if obj else None) or trace
        async with self._slots:
            with span("process object", parent=parent, attributes={"bucketline.object_id": item["object_id"]}):
                extracted = await self._extracted(unit, item, obj)
        event = _moved(
            unit,
            place,
            extracted.status,
            RANK_FINAL,
            at=self._runtime.clock.now(),
            error=extracted.error[:MOST_ERROR] if extracted.error else None,
            error_type=extracted.error_type,
            document_count=extracted.count,
            duration_ms=(time.perf_counter() - started) * 1000,
        )
        await self._finisher.submit(Finished(event, parent, extracted.documents, extracted.replaced))

    async def _extracted(self, unit: UnitDocument, item: Item, obj: ObjectDocument | None) -> Extracted:
        if obj is None or obj["run"]["id"] > item["run"]:
            # Deleted, or changed and on its way again: this run of it is over.
            return Extracted(Status.SKIPPED)
        if obj["mirror"]["state"] == "failed":
            return Extracted(Status.FAILED, error=obj["mirror"].get("error") or "a blob failed", error_type="permanent")
        return await self._extraction.run(obj, item, unit["collection_ids"], unit["dedup_strategy"])

    async def _say_started(
        self, unit: UnitDocument, places: Sequence[int], objects: dict[str, ObjectDocument], trace: dict[str, str]
    ) -> None:
        now = self._runtime.clock.now()
        envelopes = []
        for place in places:
            obj = objects.get(unit["items"][place]["object_id"])
            if obj is not None:
                event = _moved(unit, place, Status.PROCESSING, RANK_PROCESSING, at=now)
                envelopes.append(self._runtime.seal(event, trace=obj.get("trace") or trace))
        await self._runtime.bus.publisher.publish(envelopes)

    async def _finish(self, group: Sequence[Finished]) -> list[None]:
        await self._documents.put([document for one in group for document in one.documents])
        await self._documents.drop_older([made for one in group for made in one.replaced])
        await self._runtime.bus.publisher.publish([self._runtime.seal(one.event, trace=one.trace) for one in group])
        return [None] * len(group)


def _moved(unit: UnitDocument, place: int, status: Status, rank: int, **rest: object) -> ObjectStatusChanged:
    item = unit["items"][place]
    return ObjectStatusChanged.model_validate(
        {
            **item,
            "unit_id": unit["_id"],
            "index": place,
            "rank": rank,
            "status": status,
            "attempt": unit["attempts"],
            **rest,
        }
    )
