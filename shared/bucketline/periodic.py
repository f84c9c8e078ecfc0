"""Periodic background tasks of a service: reconcilers, heartbeats, monitors.

A step that fails is logged and repeated with exponential backoff.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from bucketline.backoff import backoff_seconds
from bucketline.observability.logging import get_logger

log = get_logger(__name__)

MAX_PAUSE_SECONDS = 30.0


class PeriodicTasks:
    """The periodic tasks of one service."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    def every(self, seconds: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
        """Run ``step`` repeatedly, with pauses of about ``seconds`` (± 20 %, so that replicas spread out)."""
        self._tasks.append(asyncio.create_task(self._loop(seconds, name, step), name=name))

    async def stop(self, deadline: float = 5.0) -> None:
        """Stop all tasks. A running step may finish within ``deadline`` seconds and is canceled then."""
        self._stopping.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=deadline)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _loop(self, seconds: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
        pause, failures = seconds, 0
        while not await self._stopped_within(pause * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
            try:
                await step()
                pause, failures = seconds, 0
            except Exception as error:
                failures += 1
                pause = backoff_seconds(failures, initial=max(2 * seconds, 1.0), maximum=MAX_PAUSE_SECONDS)
                log.warning("periodic task failed", task=name, error=repr(error), retry_in_seconds=round(pause, 1))

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True
