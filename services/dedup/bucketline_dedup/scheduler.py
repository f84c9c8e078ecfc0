"""Claims objects that are due from MongoDB and runs a bounded number of attempts to mirror them.

The queue is the objects themselves (``mirror.due_at``), so it survives a process: its claims expire, and another
replica takes over. Large content has a queue of its own, so that small content never waits for it.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

from bucketline.db.mirror_queue import MirrorQueue, QueueName
from bucketline.db.objects import ObjectDocument
from bucketline.errors import BucketlineError
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import OBJECTS_DUE, SWEPT
from bucketline.observability.tracing import Attribute, start_span
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import LargeTransferSlot
from bucketline_dedup.mirror import ObjectMirror, needs_fetching
from bucketline_dedup.service import MirrorService
from bucketline_dedup.settings import DedupSettings

log = get_logger(__name__)

QUEUES: tuple[QueueName, ...] = ("small", "large")

PAGE_SIZE = 200
"""Objects that are read at a time. Each may hold up to 256 KiB of inline content."""

MAX_COUNTED = 10_000


class MirrorScheduler:
    """Runs attempts while it is entered; leaving it releases every claim within ``shutdown_grace_seconds``.

    ``work_available`` makes it look for due objects at once. Objects that need no fetching go to ``mirroring`` in bulk.
    """

    def __init__(
        self,
        context: ServiceContext,
        queue: MirrorQueue,
        mirroring: MirrorService,
        mirror: ObjectMirror,
        settings: DedupSettings,
        *,
        work_available: asyncio.Event,
    ) -> None:
        self._context = context
        self._queue = queue
        self._mirroring = mirroring
        self._mirror = mirror
        self._settings = settings
        self._large_slots = asyncio.Semaphore(settings.max_large_transfers)
        self._running: dict[str, tuple[ObjectDocument, asyncio.Task[None]]] = {}
        self._counts = dict.fromkeys(QUEUES, 0)
        self._work_available = work_available
        self._loops: list[asyncio.Task[None]] = []
        for name in QUEUES:
            OBJECTS_DUE.labels(name)

    async def __aenter__(self) -> Self:
        self._loops = [asyncio.create_task(self._claim_loop()), asyncio.create_task(self._renew_loop())]
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

    async def claim_due(self) -> int:
        """Claim due objects up to the capacity and start their attempts; return how many."""
        return await self._claim("small") + await self._claim("large")

    async def update_backlog_metric(self) -> int:
        """Count the objects of each queue that are due and not claimed, using the index only."""
        total = 0
        for queue in QUEUES:
            due = await self._queue.count_due(self._context.clock.now(), queue, limit=MAX_COUNTED)
            OBJECTS_DUE.labels(queue).set(due)
            total += due
        return total

    async def _claim_loop(self) -> None:
        while True:
            self._work_available.clear()
            try:
                claimed = await self.claim_due()
            except BucketlineError as error:
                log.warning("objects not claimed", error=error.message)
                claimed = 0
            if claimed < PAGE_SIZE:
                try:
                    async with asyncio.timeout(self._context.settings.reconcile.interval_seconds):
                        await self._work_available.wait()
                except TimeoutError:
                    pass

    async def _claim(self, queue: QueueName) -> int:
        capacity = self._settings.max_concurrency if queue == "small" else self._settings.max_large_transfers
        capacity -= self._counts[queue]
        if queue == "large" and self._large_slots.locked():
            capacity = 0
        if capacity <= 0:
            return 0
        due = await self._queue.find_due(
            self._context.clock.now(), queue, limit=PAGE_SIZE if queue == "small" else capacity
        )
        attempts = [obj for obj in due if _needs_attempt(obj)][:capacity]
        mine = await self._claim_all(attempts + [obj for obj in due if not _needs_attempt(obj)])
        for obj in mine:
            if _needs_attempt(obj):
                self._start(obj, queue)
        # Last, because it may fail, and attempts must not wait until their claims expire.
        finishable = [obj for obj in mine if not _needs_attempt(obj)]
        if finishable:
            SWEPT.labels("mirror").inc(len(finishable))
            await self._mirroring.finish_claimed(finishable)
        return len(mine)

    async def _claim_all(self, objects: Sequence[ObjectDocument]) -> list[ObjectDocument]:
        """Claim objects that no other replica has claimed since they were read; return them with our claim."""
        if not objects:
            return []
        token = self._context.ids.new("req")
        until = self._context.clock.now() + timedelta(seconds=self._settings.lease_seconds)
        ids = await self._queue.claim(objects, token, until=until)
        return [
            {**obj, "mirror": {**obj["mirror"], "claim": token, "due_at": until}}
            for obj in objects
            if obj["_id"] in ids
        ]

    def _start(self, obj: ObjectDocument, queue: QueueName) -> None:
        previous = self._running.get(obj["_id"])
        if previous is not None:
            # Our own lease expired: the older attempt has lost the object to this one.
            previous[1].cancel()
        self._counts[queue] += 1
        task = asyncio.create_task(self._attempt(obj, LargeTransferSlot(self._large_slots, wait=queue == "large")))
        self._running[obj["_id"]] = (obj, task)
        task.add_done_callback(lambda done: self._on_done(obj, queue, done))

    def _on_done(self, obj: ObjectDocument, queue: QueueName, task: "asyncio.Task[None]") -> None:
        self._counts[queue] -= 1
        if self._running.get(obj["_id"], (None, None))[1] is task:
            del self._running[obj["_id"]]
        self._work_available.set()

    async def _attempt(self, obj: ObjectDocument, slot: LargeTransferSlot) -> None:
        attributes: dict[str, Attribute] = {
            "bucketline.object_id": obj["_id"],
            "bucketline.attempt": obj["mirror"]["attempts"] + 1,
        }
        try:
            with (
                structlog.contextvars.bound_contextvars(object_id=obj["_id"]),
                start_span("mirror object", parent=obj.get("trace"), attributes=attributes),
            ):
                await self._mirror.run(obj, slot)
        except asyncio.CancelledError:
            await self._release(obj)
            raise
        except Exception as error:
            # The claim expires, and the object is due again.
            log.warning("mirror attempt failed", object_id=obj["_id"], error=repr(error))

    async def _release(self, obj: ObjectDocument) -> None:
        """Give up the claim of an object whose attempt was interrupted; it is due at once."""
        try:
            async with asyncio.timeout(2):
                await self._queue.reschedule(obj, due_at=self._context.clock.now())
        except (BucketlineError, TimeoutError) as error:
            log.info("claim not released", object_id=obj["_id"], error=repr(error))

    async def _renew_loop(self) -> None:
        """Renew the claims of running attempts, and cancel the attempts of objects that were changed or taken."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            try:
                await self._renew()
            except BucketlineError as error:
                log.warning("claims not renewed", error=error.message)

    async def _renew(self) -> None:
        running = dict(self._running)
        if not running:
            return
        until = self._context.clock.now() + timedelta(seconds=self._settings.lease_seconds)
        held = await self._queue.renew([obj for obj, _ in running.values()], until=until)
        for object_id, (_, task) in running.items():
            if object_id not in held and not task.done() and self._running.get(object_id, (None, None))[1] is task:
                task.cancel()


def _needs_attempt(obj: ObjectDocument) -> bool:
    mirror = obj["mirror"]
    return mirror["state"] == "pending" and (mirror["attempts"] > 0 or needs_fetching(obj))
