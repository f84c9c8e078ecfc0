"""Servers that end or no longer work are restarted, without a limit."""

import asyncio
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import eventually

from bucketline.devstack.process import ManagedProcess
from bucketline.devstack.servers import Server
from bucketline.devstack.supervisor import Event, Exited, Monitor, Ready, Restarting, RestartPolicy
from bucketline.errors import LocalStackError

QUICK = RestartPolicy(first_delay=0.01, longest_delay=0.02, steady_after=60.0, start_attempts=3)


class Sleeper(Server):
    """A server that says a line and then does nothing; or ends at once, if ``ill``."""

    def __init__(self, folder: Path) -> None:
        self._ill = folder / "ill"
        self.refusals = 0
        self.checks = 0
        self.answers: Iterator[bool] = iter(())
        program = "import os, sys, time; print('last line', flush=True); os.path.exists(sys.argv[1]) or time.sleep(60)"
        command = [sys.executable, "-c", program, str(self._ill)]
        self.process = ManagedProcess("sleeper", command, log_file=folder / "sleeper.log")

    def fall_ill(self) -> None:
        self._ill.touch()

    def recover(self) -> None:
        self._ill.unlink()

    async def start(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise LocalStackError("no room")
        await super().start()

    async def is_ready(self) -> bool:
        return "last line" in self.process.output_tail()

    async def needs_restart(self) -> bool:
        self.checks += 1
        return next(self.answers, False)


async def test_monitor_restarts_a_killed_server_until_it_is_ended(tmp_path: Path) -> None:
    server, events = Sleeper(tmp_path), list[Event]()
    monitor = Monitor("sleeper", server, events.append, policy=QUICK)
    await server.start()
    monitor.begin()
    first = server.pid
    await server.process.kill()
    await eventually(lambda: _true(any(isinstance(event, Ready) for event in events)))
    assert server.pid not in (None, first)
    gone, again, ready = events
    assert isinstance(gone, Exited)
    assert gone.code == -9
    assert f"{tmp_path}/sleeper.log" in gone.details
    assert "last line" in gone.details
    assert (again, type(ready)) == (Restarting("sleeper", 0.01), Ready)

    await monitor.end()
    await server.stop()
    assert len(events) == 3, "a wanted end is not reported"
    assert server.pid is None


async def test_monitor_restarts_a_server_that_keeps_ending_without_a_limit(tmp_path: Path) -> None:
    server, events = Sleeper(tmp_path), list[Event]()
    monitor = Monitor("sleeper", server, events.append, policy=QUICK)
    server.fall_ill()
    await server.start()
    monitor.begin()
    await eventually(lambda: _true(sum(isinstance(event, Exited) for event in events) > 3 * QUICK.start_attempts))
    delays = [event.delay for event in events if isinstance(event, Restarting)]
    assert delays[:3] == [0.01, 0.02, 0.02], "the delay grows to a limit"
    server.recover()
    before = len(events)
    await eventually(lambda: _true(server.pid is not None and isinstance(events[-1], Ready) and len(events) > before))
    await monitor.end()
    await server.stop()


async def test_monitor_retries_a_server_that_cannot_start(tmp_path: Path) -> None:
    server, events = Sleeper(tmp_path), list[Event]()
    monitor = Monitor("sleeper", server, events.append, policy=QUICK)
    await server.start()
    monitor.begin()
    server.refusals = 2 * QUICK.start_attempts
    await server.process.kill()
    await eventually(lambda: _true(any(isinstance(event, Ready) for event in events)))
    refused = [event for event in events if isinstance(event, Exited) and "no room" in event.details]
    assert len(refused) == 2 * QUICK.start_attempts
    await monitor.end()
    await server.stop()


@pytest.mark.parametrize("answers", [[True, True], [True, False, True, True], [False, False, True, True]])
async def test_monitor_restarts_a_server_after_two_failed_checks(tmp_path: Path, answers: list[bool]) -> None:
    server, events = Sleeper(tmp_path), list[Event]()
    server.answers = iter(answers)
    monitor = Monitor("sleeper", server, events.append, policy=QUICK, check_interval=0.02)
    await server.start()
    first = server.pid
    monitor.begin()
    await eventually(lambda: _true(any(isinstance(event, Ready) for event in events)))
    assert list(server.answers) == []
    exited = events[0]
    assert isinstance(exited, Exited)
    assert "no longer worked" in exited.details
    assert server.pid not in (None, first)
    await monitor.end()
    await server.stop()
    assert len(events) == 3


async def test_monitor_with_single_failed_checks_keeps_the_server_running(tmp_path: Path) -> None:
    server, events = Sleeper(tmp_path), list[Event]()
    server.answers = itertools.cycle([True, False])
    monitor = Monitor("sleeper", server, events.append, policy=QUICK, check_interval=0.01)
    await server.start()
    monitor.begin()
    await eventually(lambda: _true(server.checks >= 6))
    await monitor.end()
    assert events == []
    assert server.pid is not None
    await server.stop()


async def _true(value: bool) -> bool:
    await asyncio.sleep(0)
    return value
