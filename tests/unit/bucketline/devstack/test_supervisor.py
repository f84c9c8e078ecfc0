import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import TypeVar

import psutil
import pytest

from bucketline.devstack import process as process_module
from bucketline.devstack import supervisor as supervisor_module
from bucketline.devstack.reservations import LOOPBACK, reserve_port, reserve_ports
from bucketline.devstack.supervisor import (
    Event,
    Exited,
    Ready,
    Restarting,
    RestartPolicy,
    RestartsExhausted,
    Service,
    Supervisor,
    Waiting,
    bucketline_services,
)
from bucketline.errors import LocalStackError

DEADLINE = 20.0
QUICK_RESTARTS = RestartPolicy(first_delay=0.01, longest_delay=0.02, idle_timeout=DEADLINE, start_attempts=3)

SERVES = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["BUCKETLINE_HTTP_PORT"])), Handler)
print(os.environ.get("GREETING", "hello"), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("bye", flush=True)))
server.serve_forever()
"""
DEAF = SERVES.replace('lambda *_: sys.exit(print("bye", flush=True))', "signal.SIG_IGN")
CRASHES = "import sys\nsys.exit('no configuration')\n"

E = TypeVar("E", bound=Event)


class Watcher:
    """Collects what a supervisor reports."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.lines: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def on_line(self, instance: str, line: str) -> None:
        self.lines.append((instance, line))
        self._changed.set()

    def of(self, kind: type[E], instance: str) -> list[E]:
        return [
            event for event in self.events if isinstance(event, kind) and getattr(event, "instance", None) == instance
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def service(name: str, source: str, **options: object) -> Service:
    return Service(name, (sys.executable, "-IS", "-c", source), **options)  # type: ignore[arg-type]


def supervise(watcher: Watcher, *services: Service, stop_timeout: float = 15.0) -> Supervisor:
    return Supervisor(
        services,
        on_line=watcher.on_line,
        on_event=watcher.on_event,
        policy=QUICK_RESTARTS,
        stop_timeout=stop_timeout,
    )


async def test_supervisor_services_are_ready_inside_and_gone_afterwards() -> None:
    watcher = Watcher()
    services = [service("one", SERVES, environment={"GREETING": "moin"}), service("two", SERVES, replicas=2)]
    async with supervise(watcher, *services) as supervisor:
        pids = supervisor.pids()
        assert sorted(pids) == ["one", "two.1", "two.2"]
        assert len({supervisor.url(name) for name in pids}) == 3
        assert all(len(watcher.of(Ready, name)) == 1 for name in pids)
        await watcher.until(lambda: len(watcher.lines) == 3)
        assert sorted(watcher.lines) == [("one", "moin"), ("two.1", "hello"), ("two.2", "hello")]
    assert not any(map(psutil.pid_exists, pids.values()))
    assert {(name, "bye") for name in pids} < set(watcher.lines)
    assert [event for event in watcher.events if isinstance(event, Exited) and event.code != 0] == []
    assert not any(isinstance(event, Restarting) for event in watcher.events)


async def test_kill_service_is_restarted_on_its_port() -> None:
    watcher = Watcher()
    async with supervise(watcher, service("one", SERVES)) as supervisor:
        before, url = supervisor.pids()["one"], supervisor.url("one")
        await supervisor.kill("one")
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)
        assert supervisor.pids()["one"] != before
        assert supervisor.url("one") == url
    event_types = [type(event) for event in watcher.events]
    assert event_types == [Ready, Exited, Restarting, Ready, Exited]
    assert watcher.of(Exited, "one")[0].code == -SIGKILL


async def test_kill_service_with_replicas_kills_all_of_them_only() -> None:
    watcher = Watcher()
    async with supervise(watcher, service("one", SERVES, replicas=2), service("two", SERVES)) as supervisor:
        await supervisor.kill("one")
        await watcher.until(lambda: all(len(watcher.of(Ready, name)) == 2 for name in supervisor.names("one")))
        assert len(watcher.of(Ready, "two")) == 1
        with pytest.raises(LocalStackError, match="there is no service three"):
            await supervisor.kill("three")


async def test_terminate_restarts_the_service_without_a_delay() -> None:
    watcher = Watcher()
    async with supervise(watcher, service("one", SERVES)) as supervisor:
        await supervisor.terminate("one")
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)
    assert watcher.of(Exited, "one")[0].code == 0
    assert watcher.of(Restarting, "one") == []


async def test_start_with_a_service_that_keeps_crashing_fails_with_its_output() -> None:
    watcher = Watcher()
    supervisor = supervise(watcher, service("good", SERVES), service("bad", CRASHES))
    with pytest.raises(LocalStackError, match=r"bad did not start in 3 attempts: bad ended with code 1") as caught:
        async with supervisor:
            pytest.fail("started")
    assert "no configuration" in caught.value.message
    assert [event.code for event in watcher.of(Exited, "bad")] == [1, 1, 1]
    assert [event.delay for event in watcher.of(Restarting, "bad")] == [0.01, 0.02]
    assert len(watcher.of(RestartsExhausted, "bad")) == 1
    assert supervisor.pids() == {}


async def test_restart_after_a_steady_time_resets_the_failures() -> None:
    watcher = Watcher()
    policy = RestartPolicy(first_delay=0.01, steady_after=0.0, start_attempts=2)
    supervisor = Supervisor([service("one", SERVES)], on_event=watcher.on_event, policy=policy)
    async with supervisor:
        for times in (2, 3, 4):
            await supervisor.kill("one")
            await watcher.until(lambda times=times: len(watcher.of(Ready, "one")) == times)  # type: ignore[misc]
    assert watcher.of(RestartsExhausted, "one") == []


async def test_start_with_a_service_that_is_never_ready_fails() -> None:
    watcher = Watcher()
    policy = RestartPolicy(idle_timeout=0.2, first_delay=0.01, start_attempts=2)
    not_ready = service("mute", "import signal\nsignal.pause()\n")
    supervisor = Supervisor([not_ready], on_event=watcher.on_event, policy=policy)
    await supervisor.start()
    with pytest.raises(LocalStackError, match="mute did not start in 2 attempts: mute was not ready"):
        async with asyncio.timeout(DEADLINE):
            await supervisor.wait_ready()
    await supervisor.stop()
    assert [event.code for event in watcher.of(Exited, "mute")] == [-SIGKILL, -SIGKILL]


SLOW = (
    """
import os, time
end = time.process_time() + float(os.environ["WORK"])
while time.process_time() < end: pass
"""
    + SERVES
)


async def test_start_with_a_working_service_has_no_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor_module, "WAITING_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(process_module, "MIN_CPU_SECONDS", 0.01)
    watcher = Watcher()
    policy = RestartPolicy(idle_timeout=1.0, first_delay=0.01, start_attempts=1)
    slow = service("slow", SLOW, environment={"WORK": "2"})
    quick = service("quick", SERVES)
    async with Supervisor([slow, quick], on_event=watcher.on_event, policy=policy):
        assert watcher.of(Exited, "slow") == []
    waits = [event for event in watcher.events if isinstance(event, Waiting)]
    assert len(waits) >= 4
    assert waits[-1].instances == ("slow",)
    assert waits[-1].seconds > waits[0].seconds > 0


async def test_restart_of_a_service_that_was_ready_has_no_limit(tmp_path: Path) -> None:
    ill = tmp_path / "ill"
    crashes_when_ill = f"import os, sys\nif os.path.exists({str(ill)!r}): sys.exit('ill')\n{SERVES}"
    watcher = Watcher()
    async with supervise(watcher, service("one", crashes_when_ill)) as supervisor:
        ill.touch()
        await supervisor.kill("one")
        await watcher.until(lambda: len(watcher.of(Exited, "one")) > 3 * QUICK_RESTARTS.start_attempts)
        assert max(event.delay for event in watcher.of(Restarting, "one")) == QUICK_RESTARTS.longest_delay
        ill.unlink()
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)
    assert watcher.of(RestartsExhausted, "one") == []


async def test_restart_with_a_missing_program_is_retried_until_it_is_back(tmp_path: Path) -> None:
    program, away = tmp_path / "program", tmp_path / "away"
    program.write_text(f"#!{sys.executable} -IS\n{SERVES}")
    program.chmod(0o755)
    watcher = Watcher()
    async with supervise(watcher, Service("one", (str(program),))) as supervisor:
        program.rename(away)
        await supervisor.kill("one")
        await watcher.until(lambda: len(watcher.of(Exited, "one")) > 2 * QUICK_RESTARTS.start_attempts)
        away.rename(program)
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)


async def test_stop_kills_services_that_ignore_sigterm_in_time() -> None:
    watcher = Watcher()
    loop = asyncio.get_running_loop()
    supervisor = supervise(watcher, *(service(name, DEAF) for name in "abc"), stop_timeout=3.0)
    async with supervisor:
        began = loop.time()
    assert loop.time() - began < 8.5, "one after the other they would take nine seconds"
    assert [event.code for name in "abc" for event in watcher.of(Exited, name)] == [-SIGKILL] * 3
    await supervisor.stop()


async def test_service_with_a_port_gets_it_and_releases_it() -> None:
    lease = reserve_ports(1)
    (port,) = lease.ports
    lease.release()
    async with supervise(Watcher(), service("one", SERVES, port=port)) as supervisor:
        assert supervisor.url("one") == f"http://127.0.0.1:{port}"
    reserve_port(port).release()


async def test_service_with_a_port_reserved_by_the_caller_uses_it() -> None:
    lease = reserve_ports(1)
    (port,) = lease.ports
    one = service("one", SERVES, port=port)
    async with Supervisor([one], policy=QUICK_RESTARTS, reserved_ports=lease.ports) as supervisor:
        assert supervisor.url("one") == f"http://127.0.0.1:{port}"
    with pytest.raises(LocalStackError, match=f"port {port} .* a local stack that is starting or stopping"):
        reserve_port(port)
    lease.release()


async def test_start_with_a_port_in_use_starts_nothing() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        watcher = Watcher()
        taken = service("two", SERVES, port=listener.getsockname()[1])
        with pytest.raises(LocalStackError, match="is in use"):
            async with supervise(watcher, service("one", SERVES), taken):
                pytest.fail("started")
    assert watcher.events == []


def test_bucketline_services_share_the_environment() -> None:
    shared = {"BUCKETLINE_MONGODB_URL": "mongodb://there"}
    services = bucketline_services(shared, replicas={"processor": 2}, ports={"ingest-api": 8080})
    assert [each.name for each in services] == ["ingest-api", "dedup", "batcher", "processor"]
    assert [each.replicas for each in services] == [1, 1, 1, 2]
    assert [each.port for each in services] == [8080, None, None, None]
    assert all(each.environment == shared for each in services)
    assert all(Path(each.command[0]) == Path(sys.executable) for each in services)
    assert services[1].command[1:] == ("-m", "bucketline.cli.main", "serve", "dedup")
