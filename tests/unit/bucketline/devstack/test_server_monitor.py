"""Servers that end unasked or no longer work come back, without a limit."""

import asyncio
import sys
from pathlib import Path

import pytest
from tests.waiting import eventually

from bucketline.devstack.process import ManagedProcess
from bucketline.devstack.server_monitor import ServerMonitor
from bucketline.devstack.service_specs import Event, Exited, Ready, Restarting, RestartPolicy
from bucketline.errors import LocalStackError

QUICK = RestartPolicy(first_delay=0.01, longest_delay=0.02, steady_after=60.0, attempts=3)


class Sleeper:
    """A server that says a line and then does nothing; or ends at once, if ``ill``."""

    def __init__(self, folder: Path) -> None:
        self._ill = folder / "ill"
        self.refusals = 0
        program = "import os, sys, time; print('last line', flush=True); os.path.exists(sys.argv[1]) or time.sleep(60)"
        command = [sys.executable, "-c", program, str(self._ill)]
        self.process = ManagedProcess("sleeper", command, log_file=folder / "sleeper.log")

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def fall_ill(self) -> None:
        self._ill.touch()

    def recover(self) -> None:
        self._ill.unlink()

    async def start(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise LocalStackError("no room")
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
    watch = ServerMonitor("sleeper", server, told.append, patience=QUICK)
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


async def test_a_server_that_keeps_ending_is_restarted_without_a_limit(tmp_path: Path) -> None:
    server, told = Sleeper(tmp_path), list[Event]()
    watch = ServerMonitor("sleeper", server, told.append, patience=QUICK)
    server.fall_ill()
    await server.start()
    watch.begin()
    await eventually(lambda: _true(sum(isinstance(event, Exited) for event in told) > 3 * QUICK.attempts))
    delays = [event.delay for event in told if isinstance(event, Restarting)]
    assert delays[:3] == [0.01, 0.02, 0.02], "the delay grows to a limit"
    server.recover()
    before = len(told)
    await eventually(lambda: _true(server.pid is not None and isinstance(told[-1], Ready) and len(told) > before))
    await watch.end()
    await server.stop()


async def test_a_server_that_cannot_start_is_tried_again(tmp_path: Path) -> None:
    server, told = Sleeper(tmp_path), list[Event]()
    watch = ServerMonitor("sleeper", server, told.append, patience=QUICK)
    await server.start()
    watch.begin()
    server.refusals = 2 * QUICK.attempts
    await server.process.kill()
    await eventually(lambda: _true(any(isinstance(event, Ready) for event in told)))
    refused = [event for event in told if isinstance(event, Exited) and "no room" in event.last_words]
    assert len(refused) == 2 * QUICK.attempts
    await watch.end()
    await server.stop()


@pytest.mark.parametrize("answers", [[True, True], [True, False, True, True], [False, False, True, True]])
async def test_a_server_that_no_longer_works_is_restarted_after_two_failed_checks(
    tmp_path: Path, answers: list[bool]
) -> None:
    server, told = Sleeper(tmp_path), list[Event]()
    remaining = list(answers)

    async def needs_restart() -> bool:
        return remaining.pop(0) if remaining else False

    watch = ServerMonitor(
        "sleeper", server, told.append, patience=QUICK, needs_restart=needs_restart, check_interval=0.02
    )
    await server.start()
    first = server.pid
    watch.begin()
    await eventually(lambda: _true(any(isinstance(event, Ready) for event in told)))
    assert remaining == []
    ended = told[0]
    assert isinstance(ended, Exited)
    assert "no longer worked" in ended.last_words
    assert server.pid not in (None, first)
    await watch.end()
    await server.stop()
    assert len(told) == 3


async def test_a_server_with_a_single_failed_check_keeps_running(tmp_path: Path) -> None:
    server, told = Sleeper(tmp_path), list[Event]()
    checks: list[bool] = []

    async def needs_restart() -> bool:
        checks.append(len(checks) % 2 == 0)
        return checks[-1]

    watch = ServerMonitor(
        "sleeper", server, told.append, patience=QUICK, needs_restart=needs_restart, check_interval=0.01
    )
    await server.start()
    watch.begin()
    await eventually(lambda: _true(len(checks) >= 6))
    await watch.end()
    assert told == []
    assert server.pid is not None
    await server.stop()


async def _true(value: bool) -> bool:
    await asyncio.sleep(0)
    return value
