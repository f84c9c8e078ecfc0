"""Weighted semaphore that is shared fairly between groups."""

import asyncio
from collections import Counter, OrderedDict, deque


class FairSemaphore:
    """Serves the groups that wait round-robin, and the requests within a group in order of arrival.

    The next group in line is never overtaken, so small requests do not starve a large one. A request above ``size``
    counts as ``size``.

    With ``reserve`` a group gets no more once it holds as much as is free: a single group gets half, two groups get a
    third each, and so on. The next group to arrive always finds some, however long the others hold theirs.
    """

    def __init__(self, size: int, *, reserve: bool = False) -> None:
        self._size = size
        self._reserve = reserve
        self._free = size
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    def try_acquire(self, group: str, amount: int = 1) -> bool:
        """Acquire without waiting; return whether that was possible."""
        amount = min(amount, self._size)
        if self._waiting or amount > self._free or self._has_enough(group):
            return False
        self._grant(group, amount)
        return True

    async def acquire(self, group: str, amount: int = 1) -> None:
        """Wait for ``amount``; return it with :meth:`release`."""
        if self.try_acquire(group, amount):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append((min(amount, self._size), granted))
        self._serve()  # All groups that were waiting may have enough.
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(group, amount)  # It was granted in the same moment.
            else:
                granted.cancel()
                self._serve()
            raise

    def release(self, group: str, amount: int = 1) -> None:
        """Return ``amount`` and serve the groups that wait."""
        amount = min(amount, self._size)
        self._free += amount
        self._held[group] -= amount
        if not self._held[group]:
            del self._held[group]
        self._serve()

    def _has_enough(self, group: str) -> bool:
        return self._reserve and self._held[group] >= self._free

    def _grant(self, group: str, amount: int) -> None:
        self._free -= amount
        self._held[group] += amount

    def _serve(self) -> None:
        skipped = 0
        while skipped < len(self._waiting):
            group, queue = next(iter(self._waiting.items()))
            while queue and queue[0][1].cancelled():
                queue.popleft()
            if queue and self._has_enough(group):
                skipped += 1
            elif queue:
                amount, granted = queue[0]
                if amount > self._free:
                    return
                queue.popleft()
                self._grant(group, amount)
                granted.set_result(None)
                skipped = 0
            if queue:
                self._waiting.move_to_end(group)
            else:
                del self._waiting[group]
