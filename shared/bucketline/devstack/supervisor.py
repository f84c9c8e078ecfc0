"""Keep servers and services running: restart what ends or no longer works, and report every change."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from signal import Signals
from typing import Self

from bucketline.backoff import backoff_seconds
from bucketline.devstack.process import ManagedProcess
from bucketline.devstack.reservations import LOOPBACK, reserve_port, reserve_ports
from bucketline.devstack.servers import Server, http_status
from bucketline.errors import LocalStackError
from bucketline.settings import SERVICES, ServiceName

WAITING_INTERVAL_SECONDS = 5.0
HEALTH_CHECK_INTERVAL_SECONDS = 15.0
MAX_FAILED_CHECKS = 2
STOP_TIMEOUT_SECONDS = 15.0
KILL_SHARE = 0.15
"""Share of the stop timeout that is kept for SIGKILL."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """``instances`` have been starting for ``seconds``. Sent every few seconds of a start."""

    instances: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Ready:
    """An instance has become ready, ``seconds`` after its process was started."""

    instance: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Exited:
    """An instance has ended, or did not start. ``code`` is negative for a signal.

    ``details`` has the last lines of a server's log file; a service's output was already sent line by line.
    """

    instance: str
    code: int
    details: str = ""


@dataclass(frozen=True, slots=True)
class Restarting:
    """An instance will be started again after ``delay`` seconds."""

    instance: str
    delay: float


@dataclass(frozen=True, slots=True)
class RestartsExhausted:
    """An instance ended too often before it was ready for the first time. It is not started again."""

    instance: str
    reason: str


Event = Waiting | Ready | Exited | Restarting | RestartsExhausted


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often, and after how many seconds, a process is started again.

    The delay doubles from ``first_delay`` up to ``longest_delay`` and starts over when the process was ready for
    ``steady_after`` seconds. A start fails when the process has been idle for ``idle_timeout`` seconds. After
    ``start_attempts`` failures before it was ready for the first time the process is given up; later there is no limit.
    """

    first_delay: float = 0.5
    longest_delay: float = 10.0
    steady_after: float = 10.0
    idle_timeout: float = 60.0
    start_attempts: int = 8


SERVER_RESTARTS = RestartPolicy(longest_delay=30.0, steady_after=30.0)


class Monitor:
    """Restarts a server whenever it ends, and when two health checks in a row say that it needs a restart.

    Sends every change to ``on_event``, which is called on the event loop and must not block.
    """

    def __init__(
        self,
        name: str,
        server: Server,
        on_event: Callable[[Event], None],
        *,
        policy: RestartPolicy = SERVER_RESTARTS,
        check_interval: float = HEALTH_CHECK_INTERVAL_SECONDS,
    ) -> None:
        self.name = name
        self.first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._on_event = on_event
        self._policy = policy
        self._check_interval = check_interval
        self._replacing = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to monitor the server, and start it if it does not run."""
        if self._task is None:
            if self._server.process.running and not self.first_ready.done():
                self.first_ready.set_result(None)
            self._task = asyncio.create_task(self._run(), name=f"monitor {self.name}")

    async def end(self) -> None:
        """Stop to monitor the server, which goes on running. Does nothing the second time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        if not self.first_ready.done():
            self.first_ready.cancel()
        elif not self.first_ready.cancelled():
            self.first_ready.exception()  # marks it as retrieved, in case nothing waits for it

    async def replace(self) -> None:
        """Stop the server in order. It is started again at once, and this does not count as a failure."""
        self._replacing = self._server.process.running
        await self._server.stop()

    async def _run(self) -> None:
        failures = 0
        while True:
            self._replacing = False
            error = "" if self._server.process.running else await self._start()
            if not error:
                ready_at = time.monotonic()
                self._on_event(await self._wait_for_end())
                if time.monotonic() - ready_at >= self._policy.steady_after:
                    failures = 0
            if self._replacing:
                failures = 0
                continue
            failures += 1
            if failures >= self._policy.start_attempts and not self.first_ready.done():
                self._give_up(f"did not start in {failures} attempts: {error}")
                return
            delay = backoff_seconds(failures, initial=self._policy.first_delay, maximum=self._policy.longest_delay)
            self._on_event(Restarting(self.name, delay))
            await asyncio.sleep(delay)

    async def _start(self) -> str:
        """Start the server and wait until it is ready. Return what went wrong, or an empty string."""
        process, started = self._server.process, time.monotonic()
        try:
            await self._server.kill()  # what the previous process left behind may be in the way
            await self._server.start()
        except (LocalStackError, OSError) as error:
            details = f"; it did not start: {error}" if process.log_file is not None else ""
            self._on_event(Exited(self.name, process.returncode or 0, details))
            return str(error)
        self._on_event(Ready(self.name, time.monotonic() - started))
        if not self.first_ready.done():
            self.first_ready.set_result(None)
        return ""

    async def _wait_for_end(self) -> Exited:
        """Wait for the end of the process, and cause it when the server no longer works."""
        process = self._server.process
        end = asyncio.create_task(process.wait())
        failed_checks = 0
        try:
            while not (await asyncio.wait({end}, timeout=self._check_interval))[0]:
                failed_checks = failed_checks + 1 if await self._server.needs_restart() else 0
                if failed_checks >= MAX_FAILED_CHECKS:
                    with contextlib.suppress(LocalStackError):  # it survived SIGKILL: try again
                        await self._server.kill()
            cause = " because it no longer worked and was killed" if failed_checks >= MAX_FAILED_CHECKS else ""
            return Exited(self.name, end.result(), cause + (process.describe_output() if process.log_file else ""))
        finally:
            end.cancel()

    def _give_up(self, reason: str) -> None:
        self._on_event(RestartsExhausted(self.name, reason))
        self.first_ready.set_exception(LocalStackError(f"{self.name} {reason}"))


@dataclass(frozen=True, slots=True)
class Service:
    """A command to keep running, ``replicas`` times.

    Each instance gets ``BUCKETLINE_HTTP_PORT`` (``port`` for the first one if given, otherwise a free one) and keeps
    it over restarts. It is ready when ``GET /ready`` on that port returns 200.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    replicas: int = 1


def bucketline_services(
    environment: Mapping[str, str],
    *,
    replicas: Mapping[ServiceName, int] | None = None,
    ports: Mapping[ServiceName, int] | None = None,
    names: Sequence[ServiceName] = SERVICES,
) -> list[Service]:
    """Return the services of Bucketline, which share an environment."""
    return [
        Service(
            name=name,
            command=(sys.executable, "-m", "bucketline.cli.main", "serve", name),
            environment=environment,
            port=(ports or {}).get(name),
            replicas=(replicas or {}).get(name, 1),
        )
        for name in names
    ]


def console_service(environment: Mapping[str, str], *, api_port: int, port: int) -> Service:
    """Return the web console of the API on ``api_port``. It gets no credentials of the servers."""
    return Service(
        name="console",
        command=(sys.executable, "-m", "bucketline.cli.main", "serve", "console"),
        environment={"BUCKETLINE_CONSOLE_API_URL": f"http://{LOOPBACK}:{api_port}", **environment},
        port=port,
    )


class ServiceInstance(Server):
    """One process of a service on ``port``."""

    def __init__(self, service: Service, port: int, process: ManagedProcess, idle_timeout: float) -> None:
        self.service = service
        self.port = port
        self.process = process
        self.idle_timeout = idle_timeout

    async def is_ready(self) -> bool:
        """Return whether the service reports that it is ready."""
        return await http_status(self.port, "/ready") == 200


class Supervisor:
    """Keeps services running until ``stop``. As a context manager: ready inside, gone afterwards.

    Instances have the name of their service, with ``.1``, ``.2`` … when there are several. Each line of output goes to
    ``on_line(instance, line)`` and each change to ``on_event``; both are called on the event loop and must not block.
    No instance outlives this process. The caller has reserved ``reserved_ports`` already.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        on_line: Callable[[str, str], None] = lambda _instance, _line: None,
        on_event: Callable[[Event], None] = lambda _event: None,
        policy: RestartPolicy | None = None,
        stop_timeout: float = STOP_TIMEOUT_SECONDS,
        reserved_ports: Sequence[int] = (),
    ) -> None:
        self._services = services
        self._on_line = on_line
        self._on_event = on_event
        self._policy = policy or RestartPolicy()
        self._stop_timeout = stop_timeout
        self._caller_ports = reserved_ports
        self._reservations = contextlib.ExitStack()
        self._instances: dict[str, ServiceInstance] = {}
        self._monitors: dict[str, Monitor] = {}

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            await self.wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every instance without waiting for them to be ready."""
        for service in self._services:
            for number in range(1, service.replicas + 1):
                name = service.name if service.replicas == 1 else f"{service.name}.{number}"
                port = self._reserve(service.port if number == 1 else None)
                self._instances[name] = self._create_instance(name, service, port)
        for name, instance in self._instances.items():
            self._monitors[name] = Monitor(name, instance, self._on_event, policy=self._policy)
            self._monitors[name].begin()

    async def wait_ready(self) -> None:
        """Return when every instance has been ready once. Sends ``Waiting`` every few seconds.

        Raises LocalStackError when an instance is given up.
        """
        names = {monitor.first_ready: name for name, monitor in self._monitors.items()}
        started = time.monotonic()
        pending: set[asyncio.Future[None]] = set(names)
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=WAITING_INTERVAL_SECONDS, return_when=asyncio.FIRST_EXCEPTION
            )
            for future in done:
                future.result()
            if pending:
                self._on_event(Waiting(tuple(sorted(names[future] for future in pending)), time.monotonic() - started))

    def names(self, service: str | None = None) -> list[str]:
        """Return the names of the instances of one service, or of all."""
        return [name for name, instance in self._instances.items() if service in (None, instance.service.name)]

    def pids(self) -> dict[str, int]:
        """Return the process ids of the instances that run now."""
        return {name: instance.pid for name, instance in self._instances.items() if instance.pid is not None}

    def url(self, name: str) -> str:
        """Return the base URL of an instance, or of the first one of a service."""
        return f"http://{LOOPBACK}:{self._instances[self._find(name)[0]].port}"

    async def kill(self, name: str) -> None:
        """Kill an instance, or every instance of a service. They are started again after a delay."""
        await asyncio.gather(*(self._instances[found].process.kill() for found in self._find(name)))

    async def terminate(self, name: str) -> None:
        """Stop an instance, or every instance of a service, in order. They are started again at once."""
        await asyncio.gather(*(self._monitors[found].replace() for found in self._find(name)))

    def signal(self, name: str, number: Signals) -> None:
        """Send another signal, such as SIGSTOP, to an instance or to every instance of a service."""
        for found in self._find(name):
            self._instances[found].process.send_signal(number)

    async def stop(self) -> None:
        """Stop all instances at the same time, by force before the stop timeout. Does nothing the second time."""
        with self._reservations:
            results = await asyncio.gather(*map(self._stop_instance, self._monitors), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _stop_instance(self, name: str) -> None:
        await self._monitors[name].end()
        process = self._instances[name].process
        if process.running:
            self._on_event(Exited(name, await process.stop() or 0))

    def _reserve(self, port: int | None) -> int:
        if port is not None and port in self._caller_ports:
            return port
        reservation = reserve_ports(1) if port is None else reserve_port(port)
        return self._reservations.enter_context(reservation).ports[0]

    def _create_instance(self, name: str, service: Service, port: int) -> ServiceInstance:
        process = ManagedProcess(
            name,
            service.command,
            environment={**service.environment, "BUCKETLINE_HTTP_PORT": str(port)},
            inherit_environment=True,
            on_line=lambda line: self._on_line(name, line),
            stop_timeout=self._stop_timeout * (1 - KILL_SHARE),
        )
        return ServiceInstance(service, port, process, self._policy.idle_timeout)

    def _find(self, name: str) -> list[str]:
        names = [name] if name in self._instances else self.names(name)
        if not names:
            raise LocalStackError(f"there is no service {name}; there are {', '.join(self._instances)}")
        return names
