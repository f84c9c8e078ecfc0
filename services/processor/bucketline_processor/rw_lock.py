"""Who works in this process: many beside each other, or one alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class RWLock:
    """A lock that is held shared (:meth:`beside`) or exclusively (:meth:`alone`).

    - Any number may hold it shared at once. One holds it exclusively, and then nobody else holds it at all.
    - A request for exclusive goes before later requests for shared: those wait from then on, and it is granted as soon
      as the last shared holder has left.
    - When an exclusive holder leaves, all who wait for shared get it before the next who waits for exclusive.
    - Not reentrant: whoever holds it, either way, and asks for it again may wait for ever.
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
        """Holds it shared."""
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
        """Holds it exclusively."""
        async with self._turn:
            # Whoever was woken when the last one left goes first: this may be the same one again, at once.
            await asyncio.sleep(0)
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()
