"""An HTTP proxy on loopback that breaks things on demand: put it between a client and a server.

Requests are forwarded as they are, ``Host`` included, so that signatures made for the proxy's address stay valid on a
server that checks them against that header. Connections to the client are kept alive, as a real server keeps them.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

CHUNK = 64 * 1024
PATIENCE = 30.0

Kind = Literal["answer", "drop_reply", "hang", "cut_request", "cut_reply", "delay"]


@dataclass
class Fault:
    """What happens to the next ``times`` requests that match.

    - ``answer``: ``status`` with S3's error ``code``, without forwarding
    - ``drop_reply``: forwarded; when the server has answered, the connection is closed without a reply
    - ``hang``: forwarded; the server's answer is kept back until the client gives up
    - ``cut_request``: the connection is closed after ``after`` bytes of the request's body, on both sides
    - ``cut_reply``: the connection is closed after ``after`` bytes of the reply's body
    - ``delay``: forwarded after ``seconds``
    """

    kind: Kind
    times: int = 1
    method: str = ".*"
    path: str = ".*"
    status: int = 503
    code: str = "SlowDown"
    after: int = 0
    seconds: float = 0.0

    def matches(self, request: "Seen") -> bool:
        return (
            self.times > 0
            and re.fullmatch(self.method, request.method) is not None
            and re.search(self.path, request.path) is not None
        )


@dataclass
class Seen:
    """A request as it passed. ``status`` is what the server answered, None if it was not asked or not heard."""

    method: str
    path: str
    headers: dict[str, str]
    fault: Kind | None = None
    status: int | None = None
    connection: int = 0


class _CutError(Exception):
    """Both connections are to be closed now."""


@dataclass
class FaultyProxy:
    """Use as an asynchronous context manager; then ``url`` is where clients connect."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def plan(self, *faults: Fault) -> None:
        """Adds faults; for each request the first that matches and is not used up applies."""
        self.faults.extend(faults)

    def count(self, method: str, path: str = ".*", *, where: Callable[[Seen], bool] = lambda _: True) -> int:
        """How many requests of this kind arrived."""
        return sum(1 for s in self.seen if s.method == method and re.search(path, s.path) and where(s))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer, number):
                pass
        except (_CutError, ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        """One request and its reply; False when the client has closed."""
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        line, headers = _parse(raw)
        method, path, _ = line.split(" ", 2)
        request = Seen(method, path, headers, connection=number)
        self.seen.append(request)
        fault = next((fault for fault in self.faults if fault.matches(request)), None)
        if fault is not None:
            fault.times -= 1
            request.fault = fault.kind
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault is not None and fault.kind == "answer":
            await _copy_body(reader, None, headers)
            writer.write(_error(fault, method))
            await writer.drain()
            return True
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        await self._forward(reader, writer, raw, request, fault)
        return True

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        raw: bytes,
        request: Seen,
        fault: Fault | None,
    ) -> None:
        kind = fault.kind if fault is not None else None
        host, _, port = self.upstream.removeprefix("http://").partition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        try:
            up_writer.write(_closing(raw))
            most = fault.after if fault is not None and kind == "cut_request" else None
            await _copy_body(reader, up_writer, request.headers, most=most)
            async with asyncio.timeout(PATIENCE):
                head = await up_reader.readuntil(b"\r\n\r\n")
            line, _ = _parse(head)
            request.status = int(line.split(" ", 2)[1])
            if kind in ("drop_reply", "hang"):
                async with asyncio.timeout(PATIENCE):
                    await up_reader.read()
                    if kind == "hang":
                        await reader.read(1)
                raise _CutError
            writer.write(_keeping(head))
            left = fault.after if fault is not None and kind == "cut_reply" else None
            while chunk := await up_reader.read(CHUNK):
                if left is not None and len(chunk) > left:
                    writer.write(chunk[:left])
                    await writer.drain()
                    raise _CutError
                left = None if left is None else left - len(chunk)
                writer.write(chunk)
                await writer.drain()
        finally:
            up_writer.close()


def _parse(raw: bytes) -> tuple[str, dict[str, str]]:
    first, *rest = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    pairs = (line.partition(":") for line in rest)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _without_connection(raw: bytes) -> bytes:
    return re.sub(rb"(?i)\r\n(connection|keep-alive):[^\r]*", b"", raw)


def _closing(raw: bytes) -> bytes:
    """The request's head, such that the server closes after its reply: its end is then easy to see."""
    return _without_connection(raw)[:-2] + b"Connection: close\r\n\r\n"


def _keeping(raw: bytes) -> bytes:
    return _without_connection(raw)


def _error(fault: Fault, method: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>planned</Message></Error>".encode()
    head = f"HTTP/1.1 {fault.status} Planned\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)


async def _copy_body(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter | None,
    headers: dict[str, str],
    *,
    most: int | None = None,
) -> None:
    """Passes the request's body on, or swallows it. After ``most`` bytes it cuts."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while True:
            size_line = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size_line.split(b";")[0], 16) + 2)
            if writer is not None:
                writer.write(size_line + chunk)
                await writer.drain()
            if chunk == b"\r\n":
                return
    left = int(headers.get("content-length", "0"))
    while left:
        chunk = await reader.read(min(CHUNK, left))
        if not chunk:
            raise _CutError
        left -= len(chunk)
        if most is not None and len(chunk) > most:
            chunk, left = chunk[:most], -1
        if writer is not None:
            writer.write(chunk)
            await writer.drain()
        if left < 0:
            raise _CutError
        most = None if most is None else most - len(chunk)
