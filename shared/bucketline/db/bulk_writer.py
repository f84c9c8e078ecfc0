"""Group commit: concurrent writes share one round trip, without waiting for a timer.

Writes that arrive while another is in flight are queued and then written together (up to ``max_size``). An idle service
therefore writes at once, and a busy service writes in large groups.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from bucketline.errors import DependencyUnavailable, ServiceUnavailable
from bucketline.observability.metrics import GROUP_SIZE
from bucketline.observability.tracing import Carrier, current_trace, recording_tracer, start_shared_span, start_span

T = TypeVar("T")
R = TypeVar("R")


class BulkWriter(Generic[T, R]):
    """Combines calls of :meth:`submit` into calls of ``write``.

    ``write`` gets the items in the order of their submission and returns one result per item: a value, or an
    exception that is raised to that caller only. If ``write`` itself raises, every caller of that group gets the
    error; after ``DependencyUnavailable`` all waiting callers do, since their writes would only time out too. At most
    ``max_waiting`` callers wait; further calls are refused with 503.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R | BaseException]]],
        *,
        name: str,
        max_size: int = 500,
        max_waiting: int = 20_000,
        lanes: int = 2,
    ) -> None:
        self._write = write
        self._name = name
        self._sizes = GROUP_SIZE.labels(name)
        self._max_size = max_size
        self._max_waiting = max_waiting
        self._lanes = lanes
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: list[tuple[T, asyncio.Future[R], Carrier | None]] = []

    async def submit(self, item: T) -> R:
        """Write the item and return its result. Cancelling the caller does not cancel the write."""
        if len(self._waiting) >= self._max_waiting:
            raise ServiceUnavailable("too many writes are waiting", retry_after_seconds=1)
        if recording_tracer() is None:
            return await self._enqueue(item, None)
        with start_span(f"commit {self._name}"):
            return await self._enqueue(item, current_trace())

    def _enqueue(self, item: T, trace: Carrier | None) -> asyncio.Future[R]:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, trace))
        if len(self._running) < self._lanes:
            # An empty context: the group must not become part of the trace of its first request.
            self._running.add(asyncio.create_task(self._lane(), context=contextvars.Context()))
        return future

    async def close(self) -> None:
        """Wait until all submitted items are written."""
        while self._running:
            await asyncio.wait(self._running)

    async def _lane(self) -> None:
        """Write groups until nothing waits.

        The lane removes itself instead of using a done callback, which runs later: items that are submitted in between
        would wait for a lane that has ended.
        """
        try:
            await self._drain()
        finally:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  a coroutine runs in a task
            self._running.discard(task)

    async def _drain(self) -> None:
        while self._waiting:
            group = self._waiting[: self._max_size]
            del self._waiting[: self._max_size]
            self._sizes.observe(len(group))
            try:
                with start_shared_span(f"write {self._name}", [trace for *_, trace in group]):
                    results = await self._write([item for item, *_ in group])
            except Exception as error:
                if isinstance(error, DependencyUnavailable):
                    group += self._waiting
                    self._waiting.clear()
                for _, future, _ in group:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future, _), result in zip(group, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
