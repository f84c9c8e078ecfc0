"""Fair shares of something scarce: whoever waits takes turns by group, however many of one group wait."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairShares:
    """``size`` shares. Groups take turns; within a group the first to come is the first to go.

    Nobody overtakes the group whose turn it is, so a large amount is not starved by small ones. An amount above
    ``size`` counts as ``size``.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    @property
    def busy(self) -> bool:
        """Whether the next to come would have to wait."""
        return self._free <= 0 or bool(self._waiting)

    @asynccontextmanager
    async def hold(self, group: str, amount: int = 1) -> AsyncIterator[None]:
        """The shares for the length of a block."""
        await self.take(group, amount)
        try:
            yield
        finally:
            self.give(amount)

    async def take(self, group: str, amount: int = 1) -> None:
        """Waits for the shares; give them back with :meth:`give`."""
        amount = min(amount, self._size)
        if not self._waiting and amount <= self._free:
            self._free -= amount
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(amount)  # they came at the same moment
            else:
                turn.cancel()
                self._hand_out()
            raise

    def give(self, amount: int = 1) -> None:
        self._free += min(amount, self._size)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting:
            group, line = next(iter(self._waiting.items()))
            while line and line[0][1].cancelled():
                line.popleft()
            if line:
                amount, turn = line[0]
                if amount > self._free:
                    return
                line.popleft()
                self._free -= amount
                turn.set_result(None)
            if line:
                self._waiting.move_to_end(group)
            else:
                del self._waiting[group]
