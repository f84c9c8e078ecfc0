"""Durable tasks: whatever happens to the process, each is driven until it is over.

A task is written before anything is done. The process that wrote it takes a turn at once; after a crash, or when a
turn fails, the sweeper of any replica takes the next when it is due. A turn is held by compare-and-set with a lease
that a heartbeat extends, so usually one process works on a task at a time. Usually is not always: a step must bear to
be done twice, and at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bucketline.clock import Clock
from bucketline.db.query_timeout import TimeIsUp
from bucketline.db.tasks import TaskDocument, Tasks
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BucketlineError, ServiceUnavailable, StoreUnavailable, Transient
from bucketline.ids import Ids
from bucketline.observability.logging import get_logger
from bucketline.periodic import Background

log = get_logger(__name__)

LEASE = timedelta(seconds=30)
HEARTBEAT = 10.0
AT_ONCE = 4
MOST_WAITING = 1000
MOST_ATTEMPTS = 20
LONGEST_PAUSE = 60.0
SWEEP_SECONDS = 2.0


@dataclass(frozen=True)
class Finished:
    """The task is over. ``data`` is added to the task's."""

    outputs: Sequence[str] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    status: Status = Status.COMPLETED
    error: str | None = None


@dataclass(frozen=True)
class Later:
    """The task goes on at ``due``, as a turn that made progress. ``data`` is added to the task's."""

    due: datetime
    data: Mapping[str, object] = field(default_factory=dict)


Turn = Finished | Later
Step = Callable[[TaskDocument], Awaitable[Turn]]


def passing(error: BaseException) -> bool:
    """Whether this says nothing about the task: however long it lasts, the task goes on afterwards."""
    return isinstance(error, StoreUnavailable | ServiceUnavailable | Transient) and not isinstance(error, TimeIsUp)


class TaskRunner:
    """Starts tasks and drives those that are due.

    A step that raises is tried again, after a pause that doubles up to a minute, for as long as a store or the bus is
    away. After 20 turns in a row that failed for other reasons, or at once when it raises another :class:`ApiError`
    (the request itself cannot be met), the task is FAILED.
    """

    def __init__(self, tasks: Tasks, *, clock: Clock, ids: Ids) -> None:
        self._tasks = tasks
        self._clock = clock
        self._ids = ids
        self._steps: dict[str, Step] = {}
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._closing = False

    def register(self, kind: str, step: Step) -> None:
        """What a turn of a task of this ``task_type`` does."""
        self._steps[kind] = step

    def start(self, background: Background) -> None:
        background.every(SWEEP_SECONDS, "tasks", self.sweep)

    async def create(
        self,
        kind: str,
        *,
        organization_id: str,
        namespace_id: str | None,
        inputs: Sequence[str],
        data: Mapping[str, object] | None = None,
        task_id: str | None = None,
        delay: float = 0.0,
        hidden: bool = False,
    ) -> TaskDocument:
        """Writes a task, first due in ``delay`` seconds; :meth:`soon` does not wait for the sweeper.

        A ``hidden`` one is nobody's business but ours.
        """
        now = self._clock.now()
        task: TaskDocument = {
            "_id": task_id or self._ids.new("task"),
            "type": kind,
            "status": str(Status.PENDING),
            "organization_id": organization_id,
            "namespace_id": namespace_id,
            "inputs": list(inputs),
            "outputs": [],
            "data": dict(data or {}),
            "error": None,
            "created_at": now,
            "updated_at": now,
            "due_at": now + timedelta(seconds=delay),
            "attempts": 0,
        }
        if hidden:
            task["hidden"] = True
        await self._tasks.collection.insert(task)
        return task

    def soon(self, task_id: str) -> None:
        """Takes a turn in the background. Never raises; above the limit the sweeper is left to do it."""
        if self._closing or task_id in self._turns or len(self._turns) >= MOST_WAITING:
            return
        turn = asyncio.create_task(self._guarded(task_id), name=f"task {task_id}")
        self._turns[task_id] = turn
        turn.add_done_callback(lambda _: self._turns.pop(task_id, None))

    async def resume(self, task_id: str) -> TaskDocument | None:
        """The task, begun anew if it had FAILED; None if nobody remembers it."""
        revived = await self._tasks.revive(task_id, self._clock.now())
        if revived is None:
            return await self._tasks.get(task_id)
        self.soon(task_id)
        return revived

    async def wait(self, task_id: str, seconds: float) -> None:
        """Until the turn that runs here ends, or the time is over."""
        if (turn := self._turns.get(task_id)) is not None:
            await asyncio.wait([turn], timeout=seconds)

    async def sweep(self) -> int:
        """Takes turns of what is due; returns how many were due."""
        room = 2 * AT_ONCE - len(self._turns)
        due = await self._tasks.due(self._clock.now(), limit=room) if room > 0 else []
        for task_id in due:
            self.soon(task_id)
        return len(due)

    async def close(self) -> None:
        """Gives up the turns that run; another replica, or the next start, goes on when their leases end."""
        self._closing = True
        turns = list(self._turns.values())
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)

    async def _guarded(self, task_id: str) -> None:
        async with self._gate:
            try:
                await self.drive(task_id)
            except BucketlineError as error:
                log.warning("a task is left to the sweeper", task_id=task_id, error=error.message)
            except Exception as error:
                log.error("a task is left to the sweeper", task_id=task_id, exc_info=error)

    async def drive(self, task_id: str) -> bool:
        """One turn, if the task is due and nobody has it; whether it was taken."""
        now = self._clock.now()
        claim = self._ids.new("req")
        task = await self._tasks.claim(task_id, claim, now=now, until=now + LEASE)
        if task is None:
            return False
        beat = asyncio.create_task(self._beat(task_id, claim))
        try:
            turn = await self._turn(task)
        except asyncio.CancelledError:
            with suppress(BucketlineError):
                await self._settle(task, claim, Later(self._clock.now()))
            raise
        finally:
            beat.cancel()
        await self._settle(task, claim, turn)
        return True

    async def _turn(self, task: TaskDocument) -> Turn | BaseException:
        step = self._steps.get(task["type"])
        if step is None:
            return Finished(status=Status.FAILED, error="this deployment cannot do such tasks")
        try:
            return await step(task)
        except Exception as error:
            if isinstance(error, ApiError) and not passing(error):
                return Finished(status=Status.FAILED, error=error.message)
            known = isinstance(error, BucketlineError)
            log.warning("a turn failed", task_id=task["_id"], task_type=task["type"], exc_info=None if known else error)
            return error

    async def _settle(self, task: TaskDocument, claim: str, turn: Turn | BaseException) -> None:
        now = self._clock.now()
        changes: dict[str, object] = {"updated_at": now}
        due: datetime | None = None
        attempts = task.get("attempts", 1)
        if isinstance(turn, Later):
            due, changes["attempts"] = turn.due, 0
        elif isinstance(turn, BaseException):
            if attempts < MOST_ATTEMPTS or passing(turn):
                due = now + timedelta(seconds=min(LONGEST_PAUSE, 0.5 * 2 ** min(attempts, 10)))
            else:
                turn = Finished(status=Status.FAILED, error="it was tried many times and did not succeed")
        if isinstance(turn, Finished):
            changes |= {"status": str(turn.status), "outputs": list(turn.outputs), "error": turn.error}
        if isinstance(turn, Finished | Later):
            changes |= {f"data.{name}": value for name, value in turn.data.items()}
        await self._tasks.settle(task["_id"], claim, changes, due=due)

    async def _beat(self, task_id: str, claim: str) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            with suppress(BucketlineError):
                if not await self._tasks.extend(task_id, claim, until=self._clock.now() + LEASE):
                    return
