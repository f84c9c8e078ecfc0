"""Reservations of loopback ports and data folders: one process at a time, released when the process dies.

Ports come from below the kernel's ephemeral range, so that no outgoing connection takes one before its server
listens on it, nor while a killed server is being restarted.
"""

import contextlib
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom
from typing import Self

import psutil

from bucketline.errors import LocalStackError

LOOPBACK = "127.0.0.1"
GRPC_PORT_OFFSET = 10_000
"""SeaweedFS listens for gRPC this far above each HTTP port."""
MIN_PORT, MAX_PORT = 11_000, 32_700
MAX_PORT_ATTEMPTS = 4_000
MAX_COMMAND_LENGTH = 120
"""Characters of another process's command line in an error message."""

LOCK_FILE = "lock"
"""File in a data folder that is locked by the stack which uses the folder."""
LOCK_TIMEOUT_SECONDS = 900.0
LOCK_POLL_SECONDS = 0.2


@contextlib.contextmanager
def hold_lock(lock_file: Path, *, timeout: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
    """Hold ``lock_file`` against other processes and threads. The kernel releases it when the process dies.

    Blocks for up to ``timeout`` seconds, so run it in a thread. Raises LocalStackError after that.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a") as file:
        deadline = time.monotonic() + timeout
        while not try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise LocalStackError(f"{lock_file} is still locked by another process after {timeout:.0f} s")
            time.sleep(LOCK_POLL_SECONDS)
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed. Return False if it is locked already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class PortReservation:
    """Ports that belong to this process until ``release`` or its death, whether or not a server listens on them."""

    def __init__(self, ports: tuple[int, ...], locks: contextlib.ExitStack) -> None:
        self.ports = ports
        self._locks = locks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the ports. Does nothing the second time."""
        self._locks.close()


def reserve_ports(count: int, *, with_grpc: bool = False) -> PortReservation:
    """Reserve ``count`` free ports, with ``with_grpc`` also the SeaweedFS gRPC port above each.

    Raises LocalStackError when there are not enough. Programs that do not reserve ports here may still take one.
    """
    offsets = (0, GRPC_PORT_OFFSET) if with_grpc else (0,)
    last = MAX_PORT - offsets[-1]
    ports: list[int] = []
    with contextlib.ExitStack() as locks:
        for port in SystemRandom().sample(range(MIN_PORT, last), min(MAX_PORT_ATTEMPTS, last - MIN_PORT)):
            if len(ports) == count:
                break
            with contextlib.ExitStack() as group:
                if all(_lock_free_port(port + offset, group) for offset in offsets):
                    ports.append(port)
                    locks.push(group.pop_all())
        if len(ports) < count:
            raise LocalStackError(f"only {len(ports)} of {count} free ports found between {MIN_PORT} and {MAX_PORT}")
        return PortReservation(tuple(ports), locks.pop_all())


def reserve_port(port: int) -> PortReservation:
    """Reserve a given port.

    Raises LocalStackError when it is in use, and names the process that listens on it if this user may see that.
    """
    with contextlib.ExitStack() as locks:
        if _lock_free_port(port, locks):
            return PortReservation((port,), locks.pop_all())
    error = _try_bind(port)
    if isinstance(error, PermissionError):
        raise LocalStackError(f"this user may not use port {port} of {LOOPBACK}: {error.strerror}")
    other = "a local stack that is starting or stopping" if error is None else "a process of another user"
    raise LocalStackError(f"port {port} of {LOOPBACK} is in use by {_find_listener(port) or other}")


def reserve_preferred_port(port: int) -> PortReservation:
    """Reserve a given port, or any other one if it is in use."""
    try:
        return reserve_port(port)
    except (LocalStackError, OverflowError):
        return reserve_ports(1)


def _lock_free_port(port: int, locks: contextlib.ExitStack) -> bool:
    """Lock the file of the port until ``locks`` is closed, if a server could listen on the port."""
    folder = Path(tempfile.gettempdir()) / f"bucketline-{os.getuid()}-ports"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = locks.enter_context((folder / str(port)).open("a"))
    return try_lock(file.fileno()) and _try_bind(port) is None


def _try_bind(port: int) -> OSError | None:
    """Return why a server could not listen on the port right now, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: connections that linger after a restart do not occupy a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error
    return None


def _find_listener(port: int) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline()) or process.name()
                return f"process {connection.pid} ({command[:MAX_COMMAND_LENGTH]})"
    return None
