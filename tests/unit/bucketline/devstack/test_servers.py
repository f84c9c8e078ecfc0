"""Probes of servers, and what SeaweedFS leaves in the system's temporary folder."""

import asyncio
import hashlib
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bucketline.devstack import servers
from bucketline.devstack.downloads import Binary
from bucketline.devstack.reservations import LOOPBACK, reserve_ports
from bucketline.devstack.servers import (
    SeaweedFS,
    SeaweedFSPorts,
    accepts_connections,
    build_shard_paths,
    http_status,
    remove_stale_sockets,
)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a server that sends every client the same bytes. Yield its port and the requests."""
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, LOOPBACK, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\nstarting", 503),
        (b"", None),
        (b"SSH-2.0-OpenSSH\r\n", None),
        (b"HTTP/1.1 nonsense\r\n", None),
        (b"x" * 5000, None),
    ],
)
async def test_http_status_of_an_answer_is_its_status_or_none(answer: bytes, status: int | None) -> None:
    async with answering(answer) as (port, seen):
        assert await http_status(port, "/ready") == status
        assert seen[0].startswith(b"GET /ready HTTP/1.1\r\n")


async def test_probes_without_a_server_report_that() -> None:
    lease = reserve_ports(1)
    assert await http_status(lease.ports[0], "/ready") is None
    assert not await accepts_connections(lease.ports[0])
    lease.release()


async def test_http_status_of_a_silent_server_is_none_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "REQUEST_TIMEOUT_SECONDS", 0.05)

    async def stay_silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with await asyncio.start_server(stay_silent, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await accepts_connections(port)
        assert await http_status(port, "/ready") is None


def test_remove_stale_sockets_keeps_those_of_used_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SEAWEEDFS_SOCKETS", tmp_path)
    leased, dead = reserve_ports(1), reserve_ports(1)
    (gone,) = dead.ports
    dead.release()
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        alive = listening.getsockname()[1]
        names = [f"seaweedfs-s3-{alive}.sock", f"seaweedfs-master-grpc-{leased.ports[0]}.sock", "seaweedfs-other.sock"]
        for name in (*names, f"seaweedfs-filer-grpc-{gone}.sock"):
            (tmp_path / name).touch()
        remove_stale_sockets()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    leased.release()


def test_build_shard_paths_returns_one_path_per_shard() -> None:
    folders = [path.rpartition("/")[0] for path in build_shard_paths()]
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
        ports = SeaweedFSPorts(master=1, volume=2, filer=server.port, s3=3, s3_grpc=4)
        local = SeaweedFS(Binary(Path("weed")), tmp_path, ports, bucket="b")
        assert await local.needs_restart() == (broken is not None and free > 1024**2)
    assert all(re.fullmatch(r"/bucketline-probe/\d+/written", path) for path in written)


async def test_needs_restart_without_an_answer_of_the_filer_is_true(tmp_path: Path) -> None:
    lease = reserve_ports(1)
    ports = SeaweedFSPorts(master=1, volume=2, filer=lease.ports[0], s3=3, s3_grpc=4)
    assert await SeaweedFS(Binary(Path("weed")), tmp_path, ports, bucket="b").needs_restart()
    lease.release()
