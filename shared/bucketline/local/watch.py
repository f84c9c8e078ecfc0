"""A server of the stack that ends although nobody asked it to, of a crash or for want of memory, is started again."""

import asyncio
import time
from collections.abc import Callable

from bucketline.errors import LocalStackError
from bucketline.local.server import Server
from bucketline.local.services import Event, Exited, GaveUp, Patience, Ready, Restarting

PATIENCE = Patience(first_delay=0.5, longest_delay=10.0, steady_after=30.0, attempts=5)


class Watch:
    """From ``begin`` to ``end``, which come after a start and before a stop that are wanted.

    Tells ``on_event`` of each end, with where the log is and its last lines, of each new start, and when it has had
    enough of them in a row.
    """

    def __init__(
        self, name: str, server: Server, on_event: Callable[[Event], None], patience: Patience = PATIENCE
    ) -> None:
        self._name = name
        self._server = server
        self._on_event = on_event
        self._patience = patience
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The server runs now."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name=f"watch {self._name}")

    async def end(self) -> None:
        """Whatever happens to the server from now on was asked for. Harmless a second time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _watch(self) -> None:
        started, failures, reason = True, 0, ""
        while failures < self._patience.attempts:
            began = time.monotonic()
            try:
                if started:
                    code = await self._server.process.wait()
                    started = False
                    reason = f"it ended with code {code}"
                    self._on_event(Exited(self._name, code, self._server.process.last_words()))
                    if time.monotonic() - began >= self._patience.steady_after:
                        failures = 0
                else:
                    await self._server.kill()  # what a process that is gone leaves behind may be in the way
                    await self._server.start()
                    started = True
                    self._on_event(Ready(self._name, time.monotonic() - began))
                    continue
            except (LocalStackError, OSError) as error:
                reason = str(error)
            failures += 1
            if failures < self._patience.attempts:
                delay = self._patience.delay(failures)
                self._on_event(Restarting(self._name, delay))
                await asyncio.sleep(delay)
        self._on_event(GaveUp(self._name, f"{failures} times in a row it did not stay up; at last {reason}"))
