"""What a supervisor runs, how patient it is with it, and what it tells about it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bucketline.settings import SERVICES, ServiceName


@dataclass(frozen=True, slots=True)
class Service:
    """A command to keep running, ``replicas`` times.

    Each instance gets ``BUCKETLINE_HTTP_PORT``: ``port`` for the first one if given, else a free one, and keeps it
    over restarts. It is ready when ``GET /ready`` on that port answers 200.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds and counts of restarts.

    A process that keeps ending is started again after ``first_delay``, twice that, and so on up to ``longest_delay``;
    having been ready for ``steady_after`` resets the delay. A start may take any time while the process works, and
    counts as failed when it has been idle for ``idle_deadline``. A service that ends ``attempts`` times in a row
    before it was ready once fails the start of the supervisor; after that it is restarted without a limit.
    """

    idle_deadline: float = 60.0
    first_delay: float = 0.5
    longest_delay: float = 10.0
    steady_after: float = 10.0
    attempts: int = 8

    def delay(self, failures: int) -> float:
        """Before the next start, after so many failures in a row (at least one)."""
        return min(self.longest_delay, self.first_delay * 2.0 ** min(failures - 1, 30))


WAITING_INTERVAL = 5.0
"""Seconds between two events about what a start waits for."""


@dataclass(frozen=True, slots=True)
class Started:
    instance: str
    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Ready:
    instance: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """``instances`` have been awaited for ``seconds`` and are not ready yet. Sent every few seconds of a start."""

    instances: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Exited:
    """``code`` is negative for a signal. Comes for every end of a service, also one that was asked for.

    ``last_words`` are a server's, whose output nobody else has shown.
    """

    instance: str
    code: int
    last_words: str = ""


@dataclass(frozen=True, slots=True)
class Restarting:
    instance: str
    delay: float


@dataclass(frozen=True, slots=True)
class RestartsExhausted:
    """A service ended too often before it was ready once; it is not started again."""

    instance: str
    reason: str


Event = Started | Waiting | Ready | Exited | Restarting | RestartsExhausted


def bucketline_services(
    environment: Mapping[str, str],
    *,
    replicas: Mapping[ServiceName, int] | None = None,
    ports: Mapping[ServiceName, int] | None = None,
    names: Sequence[ServiceName] = SERVICES,
) -> list[Service]:
    """The services of Bucketline, with the environment that they all share."""
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
