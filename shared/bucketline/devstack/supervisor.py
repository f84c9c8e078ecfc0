"""Runs the services as child processes: starts, watches, restarts and ends them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from signal import Signals
from typing import Self

from bucketline.devstack.ports import LOOPBACK, PortReservation, claim, reserve
from bucketline.devstack.service_process import ServiceProcess
from bucketline.devstack.service_specs import WAITING_INTERVAL, Event, RestartPolicy, Service, Waiting
from bucketline.errors import LocalStackError

STOP_DEADLINE = 15.0


def _ignore_line(_instance: str, _line: str) -> None: ...


def _ignore_event(_event: Event) -> None: ...


class Supervisor:
    """Keeps services running until ``stop``. As a context manager: started and ready inside, gone after.

    Instances are named after their service, with ``.1``, ``.2`` … when it has several. Each line of output goes to
    ``on_line(instance, line)``, each change to ``on_event``; both are called on the event loop and must not block.
    Children die with this process, however it dies. Ports in ``claimed`` are the caller's already.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        on_line: Callable[[str, str], None] = _ignore_line,
        on_event: Callable[[Event], None] = _ignore_event,
        patience: RestartPolicy | None = None,
        stop_deadline: float = STOP_DEADLINE,
        claimed: PortReservation | None = None,
    ) -> None:
        self._claimed = claimed
        self._services = {service.name: service for service in services}
        self._on_line = on_line
        self._on_event = on_event
        self._patience = patience or RestartPolicy()
        self._stop_deadline = stop_deadline
        self._instances: dict[str, ServiceProcess] = {}
        self._leases: list[PortReservation] = []

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            await self.ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_reason: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts every instance; does not wait for them to be ready."""
        for service in self._services.values():
            for number in range(1, service.replicas + 1):
                name = service.name if service.replicas == 1 else f"{service.name}.{number}"
                port = service.port if number == 1 else None
                if port is None or self._claimed is None or port not in self._claimed.ports:
                    lease = reserve(1) if port is None else claim(port)
                    self._leases.append(lease)
                    (port,) = lease.ports
                self._instances[name] = self._instance(name, service, port)
        for instance in self._instances.values():
            instance.begin()

    async def ready(self) -> None:
        """Return when every instance has been ready once, however long that takes; raise LocalStackError when one
        gave up. Sends ``Waiting`` every few seconds."""
        names = {instance.first_ready: name for name, instance in self._instances.items()}
        began = time.monotonic()
        pending: set[asyncio.Future[None]] = set(names)
        while pending:
            done, pending = await asyncio.wait(pending, timeout=WAITING_INTERVAL, return_when=asyncio.FIRST_EXCEPTION)
            for outcome in done:
                outcome.result()
            if pending:
                late = tuple(sorted(names[outcome] for outcome in pending))
                self._on_event(Waiting(late, time.monotonic() - began))

    def names(self, service: str | None = None) -> list[str]:
        """The instances, of one service or of all."""
        return [name for name, it in self._instances.items() if service in (None, it.service.name)]

    def pids(self) -> dict[str, int]:
        """Of the instances that run now."""
        return {name: it.process.pid for name, it in self._instances.items() if it.process.pid is not None}

    def url(self, name: str) -> str:
        """Where an instance serves HTTP."""
        return f"http://{LOOPBACK}:{self._named(name)[0].port}"

    async def kill(self, name: str) -> None:
        """SIGKILL for an instance, or for every instance of a service; they are started again after a delay."""
        await asyncio.gather(*(instance.process.kill() for instance in self._named(name)))

    async def terminate(self, name: str) -> None:
        """SIGTERM, as in a rolling update: ends in order and is started again at once."""
        await asyncio.gather(*(instance.replace() for instance in self._named(name)))

    def signal(self, name: str, number: Signals) -> None:
        """Any other signal, such as SIGSTOP, to an instance or to all of a service."""
        for instance in self._named(name):
            instance.process.signal(number)

    async def stop(self) -> None:
        """Ends everything at the same time, by force before ``stop_deadline`` is over. Harmless a second time."""
        try:
            outcomes = await asyncio.gather(
                *(instance.end() for instance in self._instances.values()), return_exceptions=True
            )
        finally:
            while self._leases:
                self._leases.pop().release()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _instance(self, name: str, service: Service, port: int) -> ServiceProcess:
        return ServiceProcess(
            name,
            service,
            port,
            on_line=lambda line: self._on_line(name, line),
            on_event=self._on_event,
            patience=self._patience,
            stop_deadline=self._stop_deadline,
        )

    def _named(self, name: str) -> list[ServiceProcess]:
        if name in self._instances:
            return [self._instances[name]]
        found = [self._instances[each] for each in self.names(name)]
        if not found:
            raise LocalStackError(f"no service {name}; there are {', '.join(self._instances)}")
        return found
