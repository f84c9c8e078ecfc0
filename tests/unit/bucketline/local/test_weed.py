"""What SeaweedFS leaves in the system's temporary folder."""

import socket
from pathlib import Path

import pytest

from bucketline.local import weed
from bucketline.local.ports import LOOPBACK, reserve


def test_sockets_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weed, "SOCKETS", tmp_path)
    leased, dead = reserve(1), reserve(1)
    (gone,) = dead.ports
    dead.release()
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        alive = listening.getsockname()[1]
        names = [f"seaweedfs-s3-{alive}.sock", f"seaweedfs-master-grpc-{leased.ports[0]}.sock", "seaweedfs-other.sock"]
        for name in (*names, f"seaweedfs-filer-grpc-{gone}.sock"):
            (tmp_path / name).touch()
        weed.remove_dead_sockets()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    leased.release()
