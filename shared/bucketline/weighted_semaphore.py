"""Weighted semaphore for asyncio, used to limit the memory of concurrent transfers and requests."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WeightedSemaphore:
    """Limits concurrent work to ``total`` bytes. FIFO, so that small requests do not starve large ones."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Reserve ``size`` bytes, or all if there are fewer, until the block ends."""
        size = min(size, self._total)
        await self._acquire(size)
        try:
            yield
        finally:
            self._release(size)

    async def _acquire(self, size: int) -> None:
        if not self._queue and size <= self._free:
            self._free -= size
            return
        acquired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        row = (size, acquired)
        self._queue.append(row)
        try:
            await acquired
        except asyncio.CancelledError:
            if acquired.done() and not acquired.cancelled():
                self._release(size)
            else:
                self._queue.remove(row)
                self._wake_waiters()
            raise

    def _release(self, size: int) -> None:
        self._free += size
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while self._queue and self._queue[0][0] <= self._free:
            size, acquired = self._queue.popleft()
            self._free -= size
            acquired.set_result(None)
