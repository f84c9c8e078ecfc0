import os
import socket
import subprocess
import sys

import pytest

from bucketline.devstack import ports
from bucketline.errors import LocalStackError

OTHER_PROCESS = """
import sys
from bucketline.devstack import ports
print(*(int(ports._claims.take(int(port))) for port in sys.argv[1:]))
"""


def claimed_elsewhere(*wanted: int) -> list[bool]:
    """Whether another process gets a claim on each port."""
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, *map(str, wanted)], capture_output=True, text=True, check=True
    )
    return [answer == "1" for answer in done.stdout.split()]


def test_reserved_ports_are_distinct_and_can_be_listened_on() -> None:
    lease = ports.reserve(20)
    try:
        assert len(set(lease.ports)) == 20
        for port in lease.ports:
            with socket.create_server((ports.LOOPBACK, port)):
                pass
    finally:
        lease.release()


def test_two_leases_share_no_port() -> None:
    leases = [ports.reserve(40, twins=True) for _ in range(5)]
    try:
        taken = [port + offset for lease in leases for port in lease.ports for offset in (0, ports.TWIN)]
        assert len(set(taken)) == len(taken)
    finally:
        for lease in leases:
            lease.release()


def test_another_process_cannot_claim_what_is_leased_until_it_is_released() -> None:
    lease = ports.reserve(1, twins=True)
    (port,) = lease.ports
    assert claimed_elsewhere(port, port + ports.TWIN) == [False, False]
    lease.release()
    lease.release()
    assert claimed_elsewhere(port, port + ports.TWIN) == [True, True]


def test_a_port_whose_twin_is_listened_on_is_not_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    free = ports.reserve(1, twins=True)
    (port,) = free.ports
    free.release()
    monkeypatch.setattr(ports, "FIRST", port)
    monkeypatch.setattr(ports, "LAST", port + ports.TWIN + 1)
    with socket.create_server((ports.LOOPBACK, port + ports.TWIN)), pytest.raises(LocalStackError, match="0 of 1"):
        ports.reserve(1, twins=True)
    ports.reserve(1, twins=True).release()


def test_a_chosen_port_that_is_taken_is_named_in_the_error() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(LocalStackError, match=rf"{port} .* is taken by process {os.getpid()} \(.*pytest"):
            ports.claim(port)
    lease = ports.claim(port)
    with pytest.raises(LocalStackError, match=str(port)):
        ports.claim(port)
    lease.release()


def test_claim_of_a_port_that_this_user_may_not_use_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: tuple[str, int]) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.bind", refuse)
    with pytest.raises(LocalStackError, match=r"port 80 of .* may not be used by this user: Permission denied"):
        ports.claim(80)


def test_what_was_claimed_before_a_failure_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ports.reserve(1)
    (port,) = first.ports
    first.release()
    monkeypatch.setattr(ports, "FIRST", port)
    monkeypatch.setattr(ports, "LAST", port + 1)
    with pytest.raises(LocalStackError, match="1 of 2"):
        ports.reserve(2)
    ports.claim(port).release()
