import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bucketline.devstack import ports, readiness


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that gives every request the same answer; its port and what it was sent."""
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, ports.LOOPBACK, 0)
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
async def test_status_of_an_answer(answer: bytes, status: int | None) -> None:
    async with answering(answer) as (port, seen):
        assert await readiness.http_status(port, "/ready") == status
        assert seen[0].startswith(b"GET /ready HTTP/1.1\r\n")


async def test_nobody_there_is_an_answer_too() -> None:
    lease = ports.reserve(1)
    assert await readiness.http_status(lease.ports[0], "/ready") is None
    assert not await readiness.accepts(lease.ports[0])
    lease.release()


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUT", 0.05)
    async with await asyncio.start_server(lambda _r, _w: asyncio.Event().wait(), ports.LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await readiness.accepts(port)
        assert await readiness.http_status(port, "/ready") is None
