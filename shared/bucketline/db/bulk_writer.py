"""Group commit: concurrent writes share one round trip, and nobody waits for a timer.

While one write is in flight, those that arrive queue up; when it returns, all of them (up to ``max_size``) go
together. So an idle service writes at once, and a busy one writes in large groups by itself.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from bucketline.errors import ServiceUnavailable
from bucketline.observability.metrics import GROUP_SIZE
from bucketline.observability.tracing import Carrier, current_trace, recording_tracer, start_shared_span, start_span

T = TypeVar("T")
R = TypeVar("R")


class BulkWriter(Generic[T, R]):
    """Coalesces calls of :meth:`submit` into calls of ``write``.

    ``write`` gets the items in the order of their submission and answers with one result an item: a value, or an
    exception that is raised to that caller alone. If ``write`` itself raises, every caller of that group gets the
    error. At most ``max_waiting`` callers wait; one more is refused with 503.
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
        """The result of this item's write. Cancelling the caller does not take the write back."""
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
            # A context of its own: the group is not part of whichever request happened to be the first.
            self._running.add(asyncio.create_task(self._lane(), context=contextvars.Context()))
        return future

    async def close(self) -> None:
        """Waits until everything submitted has been written."""
        while self._running:
            await asyncio.wait(self._running)

    async def _lane(self) -> None:
        """Leaves at the very moment in which nothing waits: a done callback would run later, and what is submitted
        in between would count on a lane that has gone."""
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
