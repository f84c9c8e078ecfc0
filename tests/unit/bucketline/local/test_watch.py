"""A server that ends unasked comes back, a few times."""

import asyncio
import sys
from pathlib import Path

from tests.conditions import eventually

from bucketline.local.process import ManagedProcess
from bucketline.local.services import Event, Exited, GaveUp, Patience, Ready, Restarting
from bucketline.local.watch import Watch

QUICK = Patience(first_delay=0.01, longest_delay=0.02, steady_after=60.0, attempts=3)


class Sleeper:
    """A server that says a line and then does nothing; or ends at once, if ``ill``."""

    def __init__(self, folder: Path) -> None:
        self._ill = folder / "ill"
        program = "import os, sys, time; print('last line', flush=True); os.path.exists(sys.argv[1]) or time.sleep(60)"
        command = [sys.executable, "-c", program, str(self._ill)]
        self.process = ManagedProcess("sleeper", command, log_file=folder / "sleeper.log")

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def fall_ill(self) -> None:
        self._ill.touch()

    async def start(self) -> None:
        await self.process.start()

        async def said() -> bool:
            return "last line" in self.process.output_tail()

        await eventually(said)

    async def stop(self) -> None:
        await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()


async def test_a_server_comes_back_until_it_is_stopped(tmp_path: Path) -> None:
    server, told = Sleeper(tmp_path), list[Event]()
    watch = Watch("sleeper", server, told.append, QUICK)
    await server.start()
    watch.begin()
    first = server.pid
    await server.process.kill()
    await eventually(lambda: _true(any(isinstance(event, Ready) for event in told)))
    assert server.pid not in (None, first)
    gone, again, ready = told
    assert isinstance(gone, Exited)
    assert gone.code == -9
    assert f"{tmp_path}/sleeper.log" in gone.last_words
    assert "last line" in gone.last_words
    assert (again, type(ready)) == (Restarting("sleeper", 0.01), Ready)

    await watch.end()
    await server.stop()
    assert len(told) == 3, "an end that was asked for is none to tell of"
    assert server.pid is None


async def test_a_server_that_keeps_ending_stays_down(tmp_path: Path) -> None:
    server, told = Sleeper(tmp_path), list[Event]()
    watch = Watch("sleeper", server, told.append, QUICK)
    server.fall_ill()
    await server.start()
    watch.begin()
    await eventually(lambda: _true(any(isinstance(event, GaveUp) for event in told)))
    assert sum(isinstance(event, Exited) for event in told) == QUICK.attempts
    assert sum(isinstance(event, Restarting) for event in told) == QUICK.attempts - 1
    await watch.end()
    assert server.pid is None


async def _true(value: bool) -> bool:
    await asyncio.sleep(0)
    return value
