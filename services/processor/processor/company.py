"""Who works in this process: many beside each other, or one alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Company:
    """Whoever wants to be alone waits for those who have begun; nobody begins meanwhile, nor while one is alone.

    Those who waited for that have their turn before the next is alone. Who is beside others must not ask again, nor
    ask to be alone, before leaving.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._inside = 0

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Beside any number of others."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """With nobody else."""
        async with self._turn:
            # Whoever was woken when the last one left goes first: this may be the same one again, at once.
            await asyncio.sleep(0)
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()
