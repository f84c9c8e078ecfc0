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
from bucketline.db.mongo import QueryTimeout
from bucketline.db.tasks import TaskDocument, Tasks
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BucketlineError, DependencyUnavailable, RetryableError, ServiceUnavailable
from bucketline.ids import Ids
from bucketline.observability.logging import get_logger
from bucketline.periodic import PeriodicTasks

log = get_logger(__name__)

LEASE = timedelta(seconds=30)
HEARTBEAT = 10.0
MAX_CONCURRENCY = 4
MAX_WAITING = 1000
MAX_ATTEMPTS = 20
MAX_PAUSE = 60.0
SWEEP_SECONDS = 2.0


@dataclass(frozen=True)
class TaskResult:
    """The task is over. ``data`` is added to the task's."""

    outputs: Sequence[str] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    status: Status = Status.COMPLETED
    error: str | None = None


@dataclass(frozen=True)
class Reschedule:
    """The task goes on at ``due``, as a turn that made progress. ``data`` is added to the task's."""

    due: datetime
    data: Mapping[str, object] = field(default_factory=dict)


TaskExecution = TaskResult | Reschedule
TaskStep = Callable[[TaskDocument], Awaitable[TaskExecution]]


def is_transient(error: BaseException) -> bool:
    """Whether this says nothing about the task: however long it lasts, the task goes on afterwards."""
    return isinstance(error, DependencyUnavailable | ServiceUnavailable | RetryableError) and not isinstance(
        error, QueryTimeout
    )


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
        self._steps: dict[str, TaskStep] = {}
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._gate = asyncio.Semaphore(MAX_CONCURRENCY)
        self._closing = False

    def register(self, kind: str, step: TaskStep) -> None:
        """What a turn of a task of this ``task_type`` does."""
        self._steps[kind] = step

    def start(self, background: PeriodicTasks) -> None:
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
        if self._closing or task_id in self._turns or len(self._turns) >= MAX_WAITING:
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
        room = 2 * MAX_CONCURRENCY - len(self._turns)
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
                await self._settle(task, claim, Reschedule(self._clock.now()))
            raise
        finally:
            beat.cancel()
        await self._settle(task, claim, turn)
        return True

    async def _turn(self, task: TaskDocument) -> TaskExecution | BaseException:
        step = self._steps.get(task["type"])
        if step is None:
            return TaskResult(status=Status.FAILED, error="this deployment cannot do such tasks")
        try:
            return await step(task)
        except Exception as error:
            if isinstance(error, ApiError) and not is_transient(error):
                return TaskResult(status=Status.FAILED, error=error.message)
            known = isinstance(error, BucketlineError)
            log.warning("a turn failed", task_id=task["_id"], task_type=task["type"], exc_info=None if known else error)
            return error

    async def _settle(self, task: TaskDocument, claim: str, turn: TaskExecution | BaseException) -> None:
        now = self._clock.now()
        changes: dict[str, object] = {"updated_at": now}
        due: datetime | None = None
        attempts = task.get("attempts", 1)
        if isinstance(turn, Reschedule):
            due, changes["attempts"] = turn.due, 0
        elif isinstance(turn, BaseException):
            if attempts < MAX_ATTEMPTS or is_transient(turn):
                due = now + timedelta(seconds=min(MAX_PAUSE, 0.5 * 2 ** min(attempts, 10)))
            else:
                turn = TaskResult(status=Status.FAILED, error="it was tried many times and did not succeed")
        if isinstance(turn, TaskResult):
            changes |= {"status": str(turn.status), "outputs": list(turn.outputs), "error": turn.error}
        if isinstance(turn, TaskResult | Reschedule):
            changes |= {f"data.{name}": value for name, value in turn.data.items()}
        await self._tasks.settle(task["_id"], claim, changes, due=due)

    async def _beat(self, task_id: str, claim: str) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            with suppress(BucketlineError):
                if not await self._tasks.extend(task_id, claim, until=self._clock.now() + LEASE):
                    return
