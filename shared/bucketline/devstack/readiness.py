"""Readiness questions to a server on this machine: one answer each, never an exception, never a long wait."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from bucketline.devstack.ports import LOOPBACK

Probe = Callable[[], Awaitable[bool]]
"""Asked again and again until it says yes."""

TIMEOUT = 2.0
STATUS_LINE_LIMIT = 1024


async def accepts(port: int) -> bool:
    """Whether something takes connections on the port."""
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_status(port: int, path: str, *, method: str = "GET") -> int | None:
    """The status of a request without a body; None when there was no answer in time."""
    request = f"{method} {path} HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=STATUS_LINE_LIMIT)
            try:
                writer.write(request.encode("ascii"))
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return None
    version, _, rest = line.partition(b" ")
    status = rest[:3]
    return int(status) if version.startswith(b"HTTP/1.") and status.isdigit() else None
