import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bucketline.devstack import reservations
from bucketline.devstack.reservations import GRPC_PORT_OFFSET, LOOPBACK, hold_lock, reserve_port, reserve_ports
from bucketline.errors import LocalStackError

OTHER_PROCESS = """
import sys
from bucketline.devstack.reservations import reserve_port
from bucketline.errors import LocalStackError
for port in sys.argv[1:]:
    try:
        reserve_port(int(port))
        print("reserved")
    except LocalStackError:
        print("refused")
"""


def reserve_in_another_process(*ports: int) -> list[str]:
    """Try to reserve each port in another process."""
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, *map(str, ports)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_reserve_ports_returns_distinct_ports_that_servers_can_listen_on() -> None:
    reservation = reserve_ports(20)
    try:
        assert len(set(reservation.ports)) == 20
        for port in reservation.ports:
            with socket.create_server((LOOPBACK, port)):
                pass
    finally:
        reservation.release()


def test_reserve_ports_several_times_returns_distinct_ports() -> None:
    reserved = [reserve_ports(40, with_grpc=True) for _ in range(5)]
    try:
        taken = [
            port + offset for reservation in reserved for port in reservation.ports for offset in (0, GRPC_PORT_OFFSET)
        ]
        assert len(set(taken)) == len(taken)
    finally:
        for reservation in reserved:
            reservation.release()


def test_reserved_port_is_refused_to_another_process_until_it_is_released() -> None:
    reservation = reserve_ports(1, with_grpc=True)
    (port,) = reservation.ports
    assert reserve_in_another_process(port, port + GRPC_PORT_OFFSET) == ["refused", "refused"]
    reservation.release()
    reservation.release()
    assert reserve_in_another_process(port, port + GRPC_PORT_OFFSET) == ["reserved", "reserved"]


def test_reserve_ports_with_a_used_grpc_port_skips_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    free = reserve_ports(1, with_grpc=True)
    (port,) = free.ports
    free.release()
    monkeypatch.setattr(reservations, "MIN_PORT", port)
    monkeypatch.setattr(reservations, "MAX_PORT", port + GRPC_PORT_OFFSET + 1)
    with socket.create_server((LOOPBACK, port + GRPC_PORT_OFFSET)), pytest.raises(LocalStackError, match="0 of 1"):
        reserve_ports(1, with_grpc=True)
    reserve_ports(1, with_grpc=True).release()


def test_reserve_port_that_is_in_use_names_the_process() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(LocalStackError, match=rf"{port} .* is in use by process {os.getpid()} \(.*python"):
            reserve_port(port)
    reservation = reserve_port(port)
    with pytest.raises(LocalStackError, match=str(port)):
        reserve_port(port)
    reservation.release()


def test_reserve_port_that_the_user_may_not_use_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: tuple[str, int]) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.bind", refuse)
    with pytest.raises(LocalStackError, match=r"this user may not use port 80 of .*: Permission denied"):
        reserve_port(80)


def test_reserve_ports_that_fails_releases_what_it_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    first = reserve_ports(1)
    (port,) = first.ports
    first.release()
    monkeypatch.setattr(reservations, "MIN_PORT", port)
    monkeypatch.setattr(reservations, "MAX_PORT", port + 1)
    with pytest.raises(LocalStackError, match="1 of 2"):
        reserve_ports(2)
    reserve_port(port).release()


def test_hold_lock_that_is_held_fails_and_succeeds_after_the_release(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    with hold_lock(lock), pytest.raises(LocalStackError, match="lock"), hold_lock(lock, timeout=0):
        pytest.fail("two at once")
    with hold_lock(lock, timeout=0):
        pass
