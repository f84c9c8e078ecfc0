"""Fetching beside the bus: what is due is claimed from MongoDB and carried by a bounded number of turns.

The queue is the objects themselves (``mirror.due_at``), so nothing is lost with a process: its claims run out, and
another replica takes over. Large content has a lane of its own and waits there for others of its size; small content
never waits for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Literal, Self

import structlog
from pymongo import UpdateOne

from bucketline.db.objects import ObjectDocument, Objects
from bucketline.errors import BucketlineError
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import OBJECTS_DUE, SWEPT
from bucketline.observability.tracing import Attribute, start_span
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import NeedsLargeQueue
from bucketline_dedup.mirror_attempt import MirrorAttempts
from bucketline_dedup.mirror_inline import is_inline
from bucketline_dedup.outcomes import OTHERS_FIELDS
from bucketline_dedup.settings import DedupSettings

log = get_logger(__name__)

QueueName = Literal["small", "large"]
QUEUES: tuple[QueueName, ...] = ("small", "large")

PAGE = 200
"""Objects that are read in one go. Each may hold up to 256 KiB of inline content."""

MAX_COUNTED = 10_000

Bulk = Callable[[Sequence[ObjectDocument]], Awaitable[None]]
"""Deals with claimed objects that need no fetching, or owe nothing but their events."""


class MirrorScheduler:
    """Use as a context manager. Leaving it gives every claim back within ``stop_grace`` seconds."""

    def __init__(
        self, runtime: ServiceContext, objects: Objects, turns: MirrorAttempts, bulk: Bulk, settings: DedupSettings
    ) -> None:
        self._runtime = runtime
        self._objects = objects
        self._turns = turns
        self._bulk = bulk
        self._settings = settings
        self._large = asyncio.Semaphore(settings.max_large_transfers)
        self._running: dict[str, tuple[ObjectDocument, asyncio.Task[None]]] = {}
        self._counts = dict.fromkeys(QUEUES, 0)
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        for lane in QUEUES:
            OBJECTS_DUE.labels(lane)

    def wake(self) -> None:
        """Something became due."""
        self._wake.set()

    async def __aenter__(self) -> Self:
        self._loops = [asyncio.create_task(self._pump()), asyncio.create_task(self._keep())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        tasks = [task for _, task in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.shutdown_grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def step(self) -> int:
        """Claims and begins what is due and has room; returns how many objects."""
        return await self._claim("small") + await self._claim("large")

    async def backlog(self) -> int:
        """Tells how many objects of each lane are due and in nobody's hands; the index alone answers."""
        counted = 0
        for lane in QUEUES:
            waiting = await self._objects.collection.count(self._due(lane), limit=MAX_COUNTED)
            OBJECTS_DUE.labels(lane).set(waiting)
            counted += waiting
        return counted

    def _due(self, lane: QueueName) -> Mapping[str, object]:
        return {
            "mirror.lane": None if lane == "small" else lane,
            "mirror.due_at": {"$lte": self._runtime.clock.now()},
        }

    async def _pump(self) -> None:
        while True:
            self._wake.clear()
            try:
                begun = await self.step()
            except BucketlineError as error:
                log.warning("nothing could be claimed", error=error.message)
                begun = 0
            if begun < PAGE:
                try:
                    async with asyncio.timeout(self._runtime.settings.reconcile.interval_seconds):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _claim(self, lane: QueueName) -> int:
        room = self._settings.max_concurrency if lane == "small" else self._settings.max_large_transfers
        room -= self._counts[lane]
        if lane == "large" and self._large.locked():
            room = 0
        if room <= 0:
            return 0
        due = await self._objects.collection.find(
            self._due(lane),
            limit=PAGE if lane == "small" else room,
            sort=[("mirror.due_at", 1)],
            without=OTHERS_FIELDS,
        )
        chosen = []
        for obj in due:
            if _needs_a_turn(obj):
                room -= 1
                if room < 0:
                    continue
            chosen.append(obj)
        mine = await self._claimed(chosen)
        for obj in mine:
            if _needs_a_turn(obj):
                self._begin(obj, lane)
        # afterwards: it may fail, and the turns must not wait until their claims run out
        bulk = [obj for obj in mine if not _needs_a_turn(obj)]
        if bulk:
            SWEPT.labels("mirror").inc(len(bulk))
            await self._bulk(bulk)
        return len(mine)

    async def _claimed(self, objects: Sequence[ObjectDocument]) -> list[ObjectDocument]:
        """Those that nobody else took in the meantime, with our claim in them."""
        if not objects:
            return []
        token = self._runtime.ids.new("req")
        until = self._runtime.clock.now() + timedelta(seconds=self._settings.lease_seconds)
        outcome = await self._objects.collection.bulk(
            [
                UpdateOne(
                    {
                        "_id": obj["_id"],
                        "blobs_revision": obj["blobs_revision"],
                        "mirror.due_at": obj["mirror"]["due_at"],
                    },
                    {"$set": {"mirror.claim": token, "mirror.due_at": until}},
                )
                for obj in objects
            ]
        )
        ids = {obj["_id"] for obj in objects}
        if outcome.matched < len(objects):
            rows = await self._objects.collection.find(
                {"_id": {"$in": list(ids)}, "mirror.claim": token}, limit=len(ids), fields=["_id"]
            )
            ids = {row["_id"] for row in rows}
        return [
            {**obj, "mirror": {**obj["mirror"], "claim": token, "due_at": until}}
            for obj in objects
            if obj["_id"] in ids
        ]

    def _begin(self, obj: ObjectDocument, lane: QueueName) -> None:
        known = self._running.get(obj["_id"])
        if known is not None:
            # our own lease ran out: the older turn has lost the object to this one
            known[1].cancel()
        self._counts[lane] += 1
        task = asyncio.create_task(self._turn(obj, _Capacity(self._large, waits=lane == "large")))
        self._running[obj["_id"]] = (obj, task)
        task.add_done_callback(lambda done: self._ended(obj, lane, done))

    def _ended(self, obj: ObjectDocument, lane: QueueName, task: "asyncio.Task[None]") -> None:
        self._counts[lane] -= 1
        if self._running.get(obj["_id"], (None, None))[1] is task:
            del self._running[obj["_id"]]
        self._wake.set()

    async def _turn(self, obj: ObjectDocument, room: "_Capacity") -> None:
        about: dict[str, Attribute] = {
            "bucketline.object_id": obj["_id"],
            "bucketline.attempt": obj["mirror"]["attempts"] + 1,
        }
        try:
            with (
                structlog.contextvars.bound_contextvars(object_id=obj["_id"]),
                start_span("mirror object", parent=obj.get("trace"), attributes=about),
            ):
                await self._turns.take(obj, room)
        except asyncio.CancelledError:
            await self._give_up(obj)
            raise
        except Exception as error:
            # the claim runs out, and the object is taken up again
            log.warning("a turn was broken off", object_id=obj["_id"], error=repr(error))

    async def _give_up(self, obj: ObjectDocument) -> None:
        try:
            async with asyncio.timeout(2):
                await self._turns.put_back(obj, seconds=0)
        except (BucketlineError, TimeoutError) as error:
            log.info("a claim was left to run out", object_id=obj["_id"], error=repr(error))

    async def _keep(self) -> None:
        """Renews the claims of running turns, and ends the turns of objects that were changed or taken."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            try:
                await self._renew()
            except BucketlineError as error:
                log.warning("claims were not renewed", error=error.message)

    async def _renew(self) -> None:
        turns = dict(self._running)
        if not turns:
            return
        until = self._runtime.clock.now() + timedelta(seconds=self._settings.lease_seconds)
        rows = await self._objects.collection.find(
            {"_id": {"$in": list(turns)}}, limit=len(turns), fields=["mirror.claim", "blobs_revision"]
        )
        held = {row["_id"]: row for row in rows}
        kept = []
        for object_id, (obj, task) in turns.items():
            row = held.get(object_id)
            if (
                row is None
                or row["blobs_revision"] != obj["blobs_revision"]
                or row["mirror"].get("claim") != obj["mirror"].get("claim")
            ):
                if not task.done() and self._running.get(object_id, (None, None))[1] is task:
                    task.cancel()
            else:
                kept.append((object_id, obj["mirror"].get("claim")))
        await self._objects.collection.bulk(
            [
                UpdateOne(
                    {"_id": object_id, "mirror.claim": claim, "mirror.state": "pending"},
                    {"$set": {"mirror.due_at": until}},
                )
                for object_id, claim in kept
            ]
        )


class _Capacity:
    """A place for large content: at once or not at all in the small lane, by waiting in the large one."""

    def __init__(self, large: asyncio.Semaphore, *, waits: bool) -> None:
        self._large = large
        self._waits = waits

    @asynccontextmanager
    async def large(self) -> AsyncIterator[None]:
        if self._large.locked() and not self._waits:
            raise NeedsLargeQueue("large content waits for its lane")
        async with self._large:
            yield


def _needs_a_turn(obj: ObjectDocument) -> bool:
    mirror = obj["mirror"]
    return mirror["state"] == "pending" and (mirror["attempts"] > 0 or not is_inline(obj))
