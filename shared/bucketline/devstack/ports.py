"""Free loopback ports, handed out so that no two processes of one user get the same one.

Ports come from below the kernel's ephemeral range: no outgoing connection takes one between the moment it is
found free and the moment its server listens on it, nor while a killed server is being restarted.
"""

import contextlib
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from random import SystemRandom

import psutil

from bucketline.errors import LocalStackError

LOOPBACK = "127.0.0.1"
TWIN = 10_000
"""SeaweedFS listens for gRPC this far above each HTTP port."""

COMMAND_SHOWN = 120
"""Characters of a command line in a message."""

FIRST, LAST = 11_000, 32_700
TRIES = 4_000


class _Claims:
    """Claims on ports, one byte of a shared file each: the kernel drops them when the process dies.

    POSIX record locks belong to the process and vanish when *any* descriptor of the file is closed, so there is
    one descriptor for the life of the process, and a set that keeps this process from taking a port twice.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._mine: set[int] = set()
        self._descriptor: tuple[int, int] | None = None

    def take(self, port: int) -> bool:
        with self._guard:
            if port in self._mine:
                return False
            try:
                fcntl.lockf(self._file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except OSError:
                return False
            self._mine.add(port)
            return True

    def give_back(self, port: int) -> None:
        with self._guard:
            if port in self._mine:
                self._mine.remove(port)
                fcntl.lockf(self._file(), fcntl.LOCK_UN, 1, port)

    def _file(self) -> int:
        pid = os.getpid()
        if self._descriptor is None or self._descriptor[0] != pid:
            if self._descriptor is not None:
                self._mine.clear()  # a forked child holds none of its parent's locks
            path = Path(tempfile.gettempdir()) / f"bucketline-ports-{os.getuid()}"
            self._descriptor = (pid, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        return self._descriptor[1]


_claims = _Claims()


class PortReservation:
    """Ports that are this process's until ``release`` (or its death), whether a server listens on them or not."""

    def __init__(self, claimed: Iterable[int], ports: Iterable[int]) -> None:
        self._claimed = tuple(claimed)
        self.ports = tuple(ports)

    def release(self) -> None:
        """Lets others have the ports. Harmless a second time."""
        for port in self._claimed:
            _claims.give_back(port)
        self._claimed = ()


def reserve(count: int, *, twins: bool = False) -> PortReservation:
    """Claims ``count`` free ports; with ``twins`` also the port 10,000 above each, for SeaweedFS.

    Raises LocalStackError when it finds none. Another program may still bind a port before the server does:
    only processes that come here honour a claim.
    """
    claimed: list[int] = []
    ports: list[int] = []
    last = min(LAST, LAST - TWIN) if twins else LAST
    for candidate in SystemRandom().sample(range(FIRST, last), min(TRIES, last - FIRST)):
        if len(ports) == count:
            break
        wanted = (candidate, candidate + TWIN) if twins else (candidate,)
        if _claim_all(wanted):
            claimed.extend(wanted)
            ports.append(candidate)
    lease = PortReservation(claimed, ports)
    if len(ports) < count:
        lease.release()
        raise LocalStackError(f"found only {len(ports)} of {count} free ports between {FIRST} and {LAST}")
    return lease


def claim(port: int) -> PortReservation:
    """Claim one port that was chosen before.

    Raises LocalStackError when it is taken, with the process that listens on it if this user may know.
    """
    if not _claim_all((port,)):
        error = _bind_error(port)
        if isinstance(error, PermissionError):
            raise LocalStackError(f"port {port} of {LOOPBACK} may not be used by this user: {error.strerror}")
        other = "a local stack that is starting or stopping" if error is None else "a process of another user"
        raise LocalStackError(f"port {port} of {LOOPBACK} is taken by {listener(port) or other}")
    return PortReservation((port,), (port,))


def listener(port: int) -> str | None:
    """Describe the process that listens on the port; None if there is none that this user may look at."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline()) or process.name()
                return f"process {connection.pid} ({command[:COMMAND_SHOWN]})"
    return None


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port right now."""
    return _bind_error(port) is None


def _bind_error(port: int) -> OSError | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: connections that linger after a restart do not make a port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error
    return None


def _claim_all(ports: tuple[int, ...]) -> bool:
    taken: list[int] = []
    for port in ports:
        if not _claims.take(port):
            break
        taken.append(port)
        if not is_free(port):
            break
    else:
        return True
    for port in taken:
        _claims.give_back(port)
    return False
