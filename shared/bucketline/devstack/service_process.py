"""One process of a service, kept running."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from bucketline.devstack.process import ManagedProcess
from bucketline.devstack.readiness import http_status
from bucketline.devstack.service_specs import (
    Event,
    Exited,
    Ready,
    Restarting,
    RestartPolicy,
    RestartsExhausted,
    Service,
    Started,
)
from bucketline.errors import LocalStackError

READY_PATH = "/ready"

KILL_SHARE = 0.15
"""Of the stop deadline: what is kept for SIGKILL and for collecting the dead."""


class ServiceProcess:
    """Restarts its process whenever it ends, until ``end``. Sends every change to ``on_event``.

    The first start is given up after a number of attempts, which fails ``first_ready``; later ones never are.
    """

    def __init__(
        self,
        name: str,
        service: Service,
        port: int,
        *,
        on_line: Callable[[str], None],
        on_event: Callable[[Event], None],
        patience: RestartPolicy,
        stop_deadline: float,
    ) -> None:
        self.name = name
        self.service = service
        self.port = port
        self.first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.process = ManagedProcess(
            name,
            service.command,
            environment={**service.environment, "BUCKETLINE_HTTP_PORT": str(port)},
            inherit=True,
            on_line=on_line,
            stop_deadline=stop_deadline * (1 - KILL_SHARE),
        )
        self._on_event = on_event
        self._patience = patience
        self._asked_to_end = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts keeping it running."""
        self._task = asyncio.create_task(self._keep_running(), name=f"keep {self.name} running")

    async def replace(self) -> None:
        """Ends the process in order; it is started again at once, and that does not count as a failure."""
        self._asked_to_end = self.process.running
        await self.process.stop()

    async def end(self) -> None:
        """Ends it for good. Returns when it is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self.process.running:
            code = await self.process.stop()
            self._on_event(Exited(self.name, code if code is not None else 0))
        if not self.first_ready.done():
            self.first_ready.cancel()
        elif not self.first_ready.cancelled():
            self.first_ready.exception()  # retrieved: nobody has to be waiting for it

    async def _keep_running(self) -> None:
        failures = 0
        while True:
            self._asked_to_end = False
            try:
                code, steady = await self._one_life()
                reason = f"ended {failures + 1} times in a row, last with code {code}"
            except LocalStackError as error:
                steady, reason = False, f"did not start: {error.message}"
            if self._asked_to_end:
                failures = 0
                continue
            failures = 1 if steady else failures + 1
            if failures >= self._patience.attempts and not self.first_ready.done():
                self._give_up(reason)
                return
            delay = self._patience.delay(failures)
            self._on_event(Restarting(self.name, delay))
            await asyncio.sleep(delay)

    async def _one_life(self) -> tuple[int, bool]:
        """From start to end: the code, and whether it had been ready for so long that the past does not count."""
        began = time.monotonic()
        await self.process.start()
        self._on_event(Started(self.name, self.process.pid or 0, self.port))
        ready_at: float | None = None
        try:
            await self.process.ready(self._is_ready, idle_deadline=self._patience.idle_deadline)
        except LocalStackError:
            await self.process.kill()
        else:
            ready_at = time.monotonic()
            self._on_event(Ready(self.name, ready_at - began))
            with contextlib.suppress(asyncio.InvalidStateError):
                self.first_ready.set_result(None)
        code = await self.process.wait()
        self._on_event(Exited(self.name, code))
        return code, ready_at is not None and time.monotonic() - ready_at >= self._patience.steady_after

    async def _is_ready(self) -> bool:
        return await http_status(self.port, READY_PATH) == 200

    def _give_up(self, reason: str) -> None:
        self._on_event(RestartsExhausted(self.name, reason))
        tail = self.process.output_tail()
        self.first_ready.set_exception(
            LocalStackError(f"{self.name} {reason}" + (f"; its last lines:\n{tail}" if tail else ""))
        )
