"""Fair shares of something scarce: whoever waits takes turns by group, however many of one group wait."""

import asyncio
from collections import Counter, OrderedDict, deque


class FairSemaphore:
    """``size`` shares. Groups take turns; within a group the first to come is the first to go.

    Nobody overtakes the group whose turn it is, so a large amount is not starved by small ones. An amount above
    ``size`` counts as ``size``.

    With ``spare`` a group gets no more while it has as much as is free: one alone has half, two have a third each, and
    so on. The next group to come finds some, however long the others keep theirs.
    """

    def __init__(self, size: int, *, spare: bool = False) -> None:
        self._size = size
        self._spare = spare
        self._free = size
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    def take_now(self, group: str, amount: int = 1) -> bool:
        """Takes the shares if nobody waits and they are there; whether it did."""
        amount = min(amount, self._size)
        if self._waiting or amount > self._free or self._has_enough(group):
            return False
        self._lend(group, amount)
        return True

    async def take(self, group: str, amount: int = 1) -> None:
        """Waits for the shares; give them back with :meth:`give`."""
        if self.take_now(group, amount):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append((min(amount, self._size), turn))
        self._hand_out()  # all who wait may be of groups that have enough
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(group, amount)  # they came at the same moment
            else:
                turn.cancel()
                self._hand_out()
            raise

    def give(self, group: str, amount: int = 1) -> None:
        amount = min(amount, self._size)
        self._free += amount
        self._held[group] -= amount
        if not self._held[group]:
            del self._held[group]
        self._hand_out()

    def _has_enough(self, group: str) -> bool:
        return self._spare and self._held[group] >= self._free

    def _lend(self, group: str, amount: int) -> None:
        self._free -= amount
        self._held[group] += amount

    def _hand_out(self) -> None:
        passed = 0
        while passed < len(self._waiting):
            group, line = next(iter(self._waiting.items()))
            while line and line[0][1].cancelled():
                line.popleft()
            if line and self._has_enough(group):
                passed += 1
            elif line:
                amount, turn = line[0]
                if amount > self._free:
                    return
                line.popleft()
                self._lend(group, amount)
                turn.set_result(None)
                passed = 0
            if line:
                self._waiting.move_to_end(group)
            else:
                del self._waiting[group]
