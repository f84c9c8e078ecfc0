"""Restarts servers of the stack that end unasked, after a crash or for lack of memory, or that stop working."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from bucketline.devstack.server import Server
from bucketline.devstack.service_specs import Event, Exited, Ready, Restarting, RestartPolicy
from bucketline.errors import LocalStackError

PATIENCE = RestartPolicy(first_delay=0.5, longest_delay=30.0, steady_after=30.0)
CHECK_INTERVAL = 15.0
MAX_FAILED_CHECKS = 2


class ServerMonitor:
    """Watches from ``begin`` to ``end``, which come after a start and before a stop that are wanted.

    Restarts the server whenever it ends, and when ``needs_restart`` has said so ``MAX_FAILED_CHECKS`` times in a row;
    waits longer between the attempts, and never stops trying. Sends ``on_event`` each end, with the log file and its
    last lines, and each new start.
    """

    def __init__(
        self,
        name: str,
        server: Server,
        on_event: Callable[[Event], None],
        *,
        patience: RestartPolicy = PATIENCE,
        needs_restart: Callable[[], Awaitable[bool]] | None = None,
        check_interval: float = CHECK_INTERVAL,
    ) -> None:
        self._name = name
        self._server = server
        self._on_event = on_event
        self._patience = patience
        self._needs_restart = needs_restart
        self._check_interval = check_interval
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to watch the server, which runs now."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name=f"watch {self._name}")

    async def end(self) -> None:
        """Stop watching, before the server is stopped on purpose. Harmless a second time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _watch(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            self._on_event(await self._end_of_process())
            if time.monotonic() - began >= self._patience.steady_after:
                failures = 0
            started = False
            while not started:
                failures += 1
                delay = self._patience.delay(failures)
                self._on_event(Restarting(self._name, delay))
                await asyncio.sleep(delay)
                started = await self._restart()

    async def _end_of_process(self) -> Exited:
        """Wait for the end of the process, and cause it when the server no longer works."""
        ended = asyncio.create_task(self._server.process.wait())
        failed = 0
        try:
            while not (await asyncio.wait({ended}, timeout=self._check_interval))[0]:
                if self._needs_restart is not None and not ended.done():
                    failed = failed + 1 if await self._needs_restart() else 0
                if failed >= MAX_FAILED_CHECKS:
                    with contextlib.suppress(LocalStackError):  # it survived SIGKILL: try again
                        await self._server.kill()
            cause = " by us, because it no longer worked" if failed >= MAX_FAILED_CHECKS else ""
            return Exited(self._name, ended.result(), cause + self._server.process.last_words())
        finally:
            ended.cancel()

    async def _restart(self) -> bool:
        began = time.monotonic()
        try:
            await self._server.kill()  # what a process that is gone leaves behind may be in the way
            await self._server.start()
        except (LocalStackError, OSError) as error:
            self._on_event(Exited(self._name, self._server.process.returncode or 0, f"; it did not start: {error}"))
            return False
        self._on_event(Ready(self._name, time.monotonic() - began))
        return True
