"""Durable background tasks: each is executed until it is over, whatever happens to the process.

A task is stored before anything is done. The process that stored it executes it at once; after a crash, or when an
execution fails, a replica takes it up again when it is due. An execution holds a lease, taken by compare-and-set and
extended by a heartbeat. A process that was suspended may outlive its lease, so steps must be idempotent and safe to
run twice at the same time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bucketline.backoff import backoff_seconds
from bucketline.clock import Clock
from bucketline.db.mongo import QueryTimeout, call_timeout
from bucketline.db.tasks import TaskDocument, Tasks
from bucketline.domain.status import Status
from bucketline.errors import ApiError, BucketlineError, DependencyUnavailable, RetryableError, ServiceUnavailable
from bucketline.ids import Ids
from bucketline.observability.logging import get_logger
from bucketline.periodic import PeriodicTasks

log = get_logger(__name__)

LEASE = timedelta(seconds=30)
HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 2.0
MAX_CONCURRENCY = 4
MAX_QUEUED = 1000
MAX_ATTEMPTS = 20
MAX_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True)
class TaskResult:
    """Ends the task. ``data`` is merged into the task's."""

    outputs: Sequence[str] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    status: Status = Status.COMPLETED
    error: str | None = None


@dataclass(frozen=True)
class Reschedule:
    """Continues the task at ``due``; the execution counts as progress. ``data`` is merged into the task's."""

    due: datetime
    data: Mapping[str, object] = field(default_factory=dict)


TaskOutcome = TaskResult | Reschedule
TaskStep = Callable[[TaskDocument], Awaitable[TaskOutcome]]


def is_transient(error: BaseException) -> bool:
    """Return whether the error comes from a dependency, and so will not repeat once that is available again."""
    return isinstance(error, DependencyUnavailable | ServiceUnavailable | RetryableError) and not isinstance(
        error, QueryTimeout
    )


class TaskRunner:
    """Stores tasks and executes those that are due.

    A step that raises is retried with exponential backoff, for as long as a dependency is unavailable. After
    :data:`MAX_ATTEMPTS` consecutive failures of other kinds, or at once when the step raises another
    :class:`ApiError` (the request itself cannot be met), the task is FAILED.
    """

    def __init__(self, tasks: Tasks, *, clock: Clock, ids: Ids) -> None:
        self._tasks = tasks
        self._clock = clock
        self._ids = ids
        self._steps: dict[str, TaskStep] = {}
        self._executions: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENCY)
        self._closing = False

    def register(self, task_type: str, step: TaskStep) -> None:
        """Set the step that executes tasks of this type."""
        self._steps[task_type] = step

    def start(self, background: PeriodicTasks) -> None:
        """Poll for tasks that are due, in the background."""
        background.every(POLL_SECONDS, "tasks", self.poll)

    async def create(
        self,
        task_type: str,
        *,
        organization_id: str,
        namespace_id: str | None,
        inputs: Sequence[str],
        data: Mapping[str, object] | None = None,
        task_id: str | None = None,
        delay: float = 0.0,
        hidden: bool = False,
    ) -> TaskDocument:
        """Store a task that is due in ``delay`` seconds, and return it; :meth:`enqueue` it to start at once.

        A ``hidden`` task is internal: no list shows it.
        """
        now = self._clock.now()
        task: TaskDocument = {
            "_id": task_id or self._ids.new("task"),
            "type": task_type,
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
        await self._tasks.create(task)
        return task

    def enqueue(self, task_id: str) -> None:
        """Execute the task in the background. Never raises; when the queue is full, a later poll takes the task."""
        if self._closing or task_id in self._executions or len(self._executions) >= MAX_QUEUED:
            return
        execution = asyncio.create_task(self._execute_logged(task_id), name=f"task {task_id}")
        self._executions[task_id] = execution
        execution.add_done_callback(lambda _: self._executions.pop(task_id, None))

    async def restart(self, task_id: str | None) -> TaskDocument | None:
        """Return the task, which starts over if it had FAILED; None when there is no such task."""
        if task_id is None:
            return None
        restarted = await self._tasks.restart(task_id, self._clock.now())
        if restarted is None:
            return await self._tasks.get_by_id(task_id)
        self.enqueue(task_id)
        return restarted

    async def wait(self, task_id: str, seconds: float) -> None:
        """Wait for the execution in this process to end, at most ``seconds``."""
        if (execution := self._executions.get(task_id)) is not None:
            await asyncio.wait([execution], timeout=seconds)

    async def poll(self) -> int:
        """Enqueue tasks that are due; return how many there were."""
        free = 2 * MAX_CONCURRENCY - len(self._executions)
        due = await self._tasks.find_due(self._clock.now(), limit=free) if free > 0 else []
        for task_id in due:
            self.enqueue(task_id)
        return len(due)

    async def close(self) -> None:
        """Cancel the executions of this process and make their tasks due again."""
        self._closing = True
        executions = list(self._executions.values())
        for execution in executions:
            execution.cancel()
        await asyncio.gather(*executions, return_exceptions=True)

    async def execute(self, task_id: str) -> bool:
        """Execute the task once if it is due and not leased; return whether it was."""
        now = self._clock.now()
        lease = self._ids.new("req")
        task = await self._tasks.claim(task_id, lease, now=now, until=now + LEASE)
        if task is None:
            return False
        heartbeat = asyncio.create_task(self._heartbeat(task_id, lease))
        try:
            outcome = await self._run_step(task)
        except asyncio.CancelledError:
            with suppress(BucketlineError):
                await self._store_outcome(task, lease, Reschedule(self._clock.now()))
            raise
        finally:
            heartbeat.cancel()
        await self._store_outcome(task, lease, outcome)
        return True

    async def _execute_logged(self, task_id: str) -> None:
        async with self._slots:
            try:
                # The request that enqueued the task must answer soon, the task need not.
                with call_timeout(None):
                    await self.execute(task_id)
            except BucketlineError as error:
                log.warning("task execution deferred", task_id=task_id, error=error.message)
            except Exception as error:
                log.error("task execution deferred", task_id=task_id, exc_info=error)

    async def _run_step(self, task: TaskDocument) -> TaskOutcome | BaseException:
        step = self._steps.get(task["type"])
        if step is None:
            message = f"this deployment does not know tasks of type {task['type']!r}"
            return TaskResult(status=Status.FAILED, error=message)
        try:
            return await step(task)
        except Exception as error:
            if isinstance(error, ApiError) and not is_transient(error):
                return TaskResult(status=Status.FAILED, error=error.message)
            expected = isinstance(error, BucketlineError)
            log.warning(
                "task execution failed",
                task_id=task["_id"],
                task_type=task["type"],
                error=str(error),
                exc_info=None if expected else error,
            )
            return error

    async def _store_outcome(self, task: TaskDocument, lease: str, outcome: TaskOutcome | BaseException) -> None:
        now = self._clock.now()
        changes: dict[str, object] = {"updated_at": now}
        due: datetime | None = None
        attempts = task.get("attempts", 1)
        if isinstance(outcome, Reschedule):
            due, changes["attempts"] = outcome.due, 0
        elif isinstance(outcome, BaseException):
            if attempts < MAX_ATTEMPTS or is_transient(outcome):
                due = now + timedelta(seconds=backoff_seconds(attempts, initial=1.0, maximum=MAX_BACKOFF_SECONDS))
            else:
                outcome = TaskResult(status=Status.FAILED, error=f"the task failed {attempts} times in a row")
        if isinstance(outcome, TaskResult):
            changes |= {"status": str(outcome.status), "outputs": list(outcome.outputs), "error": outcome.error}
        if isinstance(outcome, TaskResult | Reschedule):
            changes |= {f"data.{name}": value for name, value in outcome.data.items()}
        await self._tasks.end_attempt(task["_id"], lease, changes, due=due)

    async def _heartbeat(self, task_id: str, lease: str) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            with suppress(BucketlineError):
                if not await self._tasks.renew_lease(task_id, lease, until=self._clock.now() + LEASE):
                    return
