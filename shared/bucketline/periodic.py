"""Work beside the requests and records: sweepers, keepers, watchers.

A loop that fails is logged and goes on after a pause that doubles up to a limit; it never ends silently.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from bucketline.observability.logging import get_logger

log = get_logger(__name__)

MAX_PAUSE = 30.0


class PeriodicTasks:
    """The loops of one service. ``stop`` ends them all and waits until they have."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    def every(self, seconds: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
        """Runs ``step`` again and again, about ``seconds`` after it ended (± 20 %, so that replicas spread)."""
        self._tasks.append(asyncio.create_task(self._loop(seconds, name, step), name=name))

    async def stop(self, deadline: float = 5.0) -> None:
        """Lets a running step finish within ``deadline`` seconds, then cancels it."""
        self._stopping.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=deadline)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _loop(self, seconds: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
        pause = seconds
        while not await self._stopped_within(pause * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
            try:
                await step()
                pause = seconds
            except Exception as error:
                pause = min(max(pause, 0.5) * 2, MAX_PAUSE)
                log.warning("background step failed", step=name, error=repr(error), again_in=round(pause, 1))

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True
