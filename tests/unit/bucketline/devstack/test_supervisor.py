import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import TypeVar

import psutil
import pytest

from bucketline.devstack import ports
from bucketline.devstack import process as process_module
from bucketline.devstack import supervisor as supervisor_module
from bucketline.devstack.service_specs import (
    Event,
    Exited,
    Ready,
    Restarting,
    RestartPolicy,
    RestartsExhausted,
    Service,
    Started,
    Waiting,
    bucketline_services,
)
from bucketline.devstack.supervisor import Supervisor
from bucketline.errors import LocalStackError

DEADLINE = 20.0
IMPATIENT = RestartPolicy(first_delay=0.01, longest_delay=0.02, idle_deadline=DEADLINE, attempts=3)

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
    """What a supervisor told, and the wait for it."""

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
        return [event for event in self.events if isinstance(event, kind) and event.instance == instance]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def service(name: str, source: str, **options: object) -> Service:
    return Service(name, (sys.executable, "-IS", "-c", source), **options)  # type: ignore[arg-type]


def supervise(watcher: Watcher, *services: Service, stop_deadline: float = 15.0) -> Supervisor:
    return Supervisor(
        services,
        on_line=watcher.on_line,
        on_event=watcher.on_event,
        patience=IMPATIENT,
        stop_deadline=stop_deadline,
    )


async def test_services_are_ready_inside_and_gone_after() -> None:
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


async def test_a_killed_service_is_started_again_on_its_port() -> None:
    watcher = Watcher()
    async with supervise(watcher, service("one", SERVES)) as supervisor:
        before, url = supervisor.pids()["one"], supervisor.url("one")
        await supervisor.kill("one")
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)
        assert supervisor.pids()["one"] != before
        assert supervisor.url("one") == url
    first, second = watcher.of(Started, "one")
    assert first.port == second.port
    told = [type(event) for event in watcher.events]
    assert told == [Started, Ready, Exited, Restarting, Started, Ready, Exited]
    assert watcher.of(Exited, "one")[0].code == -SIGKILL


async def test_killing_a_service_kills_all_its_replicas_and_nothing_else() -> None:
    watcher = Watcher()
    async with supervise(watcher, service("one", SERVES, replicas=2), service("two", SERVES)) as supervisor:
        await supervisor.kill("one")
        await watcher.until(lambda: all(len(watcher.of(Ready, name)) == 2 for name in supervisor.names("one")))
        assert len(watcher.of(Started, "two")) == 1
        with pytest.raises(LocalStackError, match="no service three"):
            await supervisor.kill("three")


async def test_terminate_ends_in_order_and_starts_again_without_a_delay() -> None:
    watcher = Watcher()
    async with supervise(watcher, service("one", SERVES)) as supervisor:
        await supervisor.terminate("one")
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)
    assert watcher.of(Exited, "one")[0].code == 0
    assert watcher.of(Restarting, "one") == []


async def test_a_service_that_keeps_crashing_is_given_up_with_its_last_words() -> None:
    watcher = Watcher()
    supervisor = supervise(watcher, service("good", SERVES), service("bad", CRASHES))
    with pytest.raises(LocalStackError, match=r"bad ended 3 times in a row, last with code 1") as caught:
        async with supervisor:
            pytest.fail("started")
    assert "no configuration" in caught.value.message
    assert [event.code for event in watcher.of(Exited, "bad")] == [1, 1, 1]
    assert [event.delay for event in watcher.of(Restarting, "bad")] == [0.01, 0.02]
    assert len(watcher.of(RestartsExhausted, "bad")) == 1
    assert supervisor.pids() == {}


async def test_a_crash_after_a_steady_time_starts_the_count_anew() -> None:
    watcher = Watcher()
    patience = RestartPolicy(first_delay=0.01, steady_after=0.0, attempts=2)
    supervisor = Supervisor([service("one", SERVES)], on_event=watcher.on_event, patience=patience)
    async with supervisor:
        for times in (2, 3, 4):
            await supervisor.kill("one")
            await watcher.until(lambda times=times: len(watcher.of(Ready, "one")) == times)  # type: ignore[misc]
    assert watcher.of(RestartsExhausted, "one") == []


async def test_a_service_that_is_never_ready_is_killed_and_counts_as_crashed() -> None:
    watcher = Watcher()
    patience = RestartPolicy(idle_deadline=0.2, first_delay=0.01, attempts=2)
    not_ready = service("mute", "import signal\nsignal.pause()\n")
    supervisor = Supervisor([not_ready], on_event=watcher.on_event, patience=patience)
    await supervisor.start()
    with pytest.raises(LocalStackError, match="mute ended 2 times"):
        async with asyncio.timeout(DEADLINE):
            await supervisor.ready()
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


async def test_a_service_that_works_longer_than_the_idle_deadline_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor_module, "WAITING_INTERVAL", 0.2)
    monkeypatch.setattr(process_module, "WORKING_CPU_SECONDS", 0.01)
    watcher = Watcher()
    patience = RestartPolicy(idle_deadline=1.0, first_delay=0.01, attempts=1)
    slow = service("slow", SLOW, environment={"WORK": "2"})
    quick = service("quick", SERVES)
    async with Supervisor([slow, quick], on_event=watcher.on_event, patience=patience):
        assert len(watcher.of(Started, "slow")) == 1
    waits = [event for event in watcher.events if isinstance(event, Waiting)]
    assert len(waits) >= 4
    assert waits[-1].instances == ("slow",)
    assert waits[-1].seconds > waits[0].seconds > 0


async def test_a_service_that_was_ready_once_is_restarted_without_a_limit(tmp_path: Path) -> None:
    ill = tmp_path / "ill"
    crashes_when_ill = f"import os, sys\nif os.path.exists({str(ill)!r}): sys.exit('ill')\n{SERVES}"
    watcher = Watcher()
    async with supervise(watcher, service("one", crashes_when_ill)) as supervisor:
        ill.touch()
        await supervisor.kill("one")
        await watcher.until(lambda: len(watcher.of(Exited, "one")) > 3 * IMPATIENT.attempts)
        assert max(event.delay for event in watcher.of(Restarting, "one")) == IMPATIENT.longest_delay
        ill.unlink()
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)
    assert watcher.of(RestartsExhausted, "one") == []


async def test_a_service_whose_program_is_gone_for_a_while_comes_back(tmp_path: Path) -> None:
    program, away = tmp_path / "program", tmp_path / "away"
    program.write_text(f"#!{sys.executable} -IS\n{SERVES}")
    program.chmod(0o755)
    watcher = Watcher()
    async with supervise(watcher, Service("one", (str(program),))) as supervisor:
        program.rename(away)
        await supervisor.kill("one")
        await watcher.until(lambda: len(watcher.of(Exited, "one")) > 2 * IMPATIENT.attempts)
        away.rename(program)
        await watcher.until(lambda: len(watcher.of(Ready, "one")) == 2)


async def test_stop_uses_force_in_time_for_a_service_that_ignores_it() -> None:
    watcher = Watcher()
    loop = asyncio.get_running_loop()
    supervisor = supervise(watcher, *(service(name, DEAF) for name in "abc"), stop_deadline=3.0)
    async with supervisor:
        began = loop.time()
    assert loop.time() - began < 8.5, "one after the other they would take nine seconds"
    assert [event.code for name in "abc" for event in watcher.of(Exited, name)] == [-SIGKILL] * 3
    await supervisor.stop()


async def test_a_service_may_have_the_port_it_asks_for_and_gives_it_back() -> None:
    lease = ports.reserve(1)
    (port,) = lease.ports
    lease.release()
    async with supervise(Watcher(), service("one", SERVES, port=port)) as supervisor:
        assert supervisor.url("one") == f"http://127.0.0.1:{port}"
    ports.claim(port).release()


async def test_a_port_that_the_caller_has_claimed_is_used_and_stays_claimed() -> None:
    lease = ports.reserve(1)
    (port,) = lease.ports
    one = service("one", SERVES, port=port)
    async with Supervisor([one], patience=IMPATIENT, claimed=lease) as supervisor:
        assert supervisor.url("one") == f"http://127.0.0.1:{port}"
    with pytest.raises(LocalStackError, match=f"port {port} .* a local stack that is starting or stopping"):
        ports.claim(port)
    lease.release()


async def test_a_port_that_is_taken_starts_nothing() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as listener:
        watcher = Watcher()
        taken = service("two", SERVES, port=listener.getsockname()[1])
        with pytest.raises(LocalStackError, match="is taken"):
            async with supervise(watcher, service("one", SERVES), taken):
                pytest.fail("started")
    assert watcher.events == []


def test_delays_grow_to_a_limit() -> None:
    patience = RestartPolicy(first_delay=0.5, longest_delay=10.0)
    assert [patience.delay(failures) for failures in (1, 2, 3, 6, 7, 10_000)] == [0.5, 1.0, 2.0, 10.0, 10.0, 10.0]


def test_the_four_services_are_run_with_what_they_share() -> None:
    shared = {"BUCKETLINE_MONGODB_URL": "mongodb://there"}
    services = bucketline_services(shared, replicas={"processor": 2}, ports={"ingest-api": 8080})
    assert [each.name for each in services] == ["ingest-api", "dedup", "batcher", "processor"]
    assert [each.replicas for each in services] == [1, 1, 1, 2]
    assert [each.port for each in services] == [8080, None, None, None]
    assert all(each.environment == shared for each in services)
    assert all(Path(each.command[0]) == Path(sys.executable) for each in services)
    assert services[1].command[1:] == ("-m", "bucketline.cli.main", "serve", "dedup")
