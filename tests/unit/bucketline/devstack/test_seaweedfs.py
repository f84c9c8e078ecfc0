"""What SeaweedFS leaves in the system's temporary folder."""

import hashlib
import re
import shutil
import socket
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bucketline.devstack import seaweedfs
from bucketline.devstack.binaries import Binary
from bucketline.devstack.ports import LOOPBACK, reserve


def test_sockets_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweedfs, "SOCKETS", tmp_path)
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
        seaweedfs.remove_dead_sockets()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    leased.release()


def test_shard_paths_reach_every_database_of_the_filer_once() -> None:
    folders = [path.rpartition("/")[0] for path in seaweedfs.shard_paths()]
    assert [hashlib.md5(folder.encode(), usedforsecurity=False).digest()[-1] % 8 for folder in folders] == list(
        range(8)
    )


@pytest.mark.parametrize("broken", [None, *range(8)])
@pytest.mark.parametrize("free", [10 * 1024**3, 1024])
async def test_needs_restart_with_a_shard_that_refuses_writes_depends_on_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int | None, free: int
) -> None:
    written: list[str] = []

    async def put(request: web.Request) -> web.Response:
        written.append(request.path)
        shard = hashlib.md5(request.path.rpartition("/")[0].encode(), usedforsecurity=False).digest()[-1] % 8
        return web.json_response({}, status=500 if shard == broken else 201)

    app = web.Application()
    app.router.add_put("/{path:.*}", put)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=free))
    async with TestServer(app) as server:
        assert server.port is not None
        ports = seaweedfs.SeaweedFSPorts(master=1, volume=2, filer=server.port, s3=3, s3_grpc=4)
        local = seaweedfs.SeaweedFS(Binary(Path("weed")), tmp_path, ports, bucket="b")
        assert await local.needs_restart() == (broken is not None and free > 1024**2)
    assert all(re.fullmatch(r"/bucketline-probe/\d+/written", path) for path in written)


async def test_needs_restart_without_an_answer_of_the_filer_is_true(tmp_path: Path) -> None:
    lease = reserve(1)
    ports = seaweedfs.SeaweedFSPorts(master=1, volume=2, filer=lease.ports[0], s3=3, s3_grpc=4)
    assert await seaweedfs.SeaweedFS(Binary(Path("weed")), tmp_path, ports, bucket="b").needs_restart()
    lease.release()
