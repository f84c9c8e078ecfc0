"""A lean HTTP/1.1 load generator: keep-alive connections, one request in flight on each, bounded in count.

It shares the machine with what it measures, so it must cost little: no client library, requests built once.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """What a run did. Latencies in seconds, sorted; ``failures`` are answers other than 200."""

    seconds: float
    latencies: list[float]
    failures: int

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))]


def request(url: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """One POST, ready for the wire."""
    host = urlsplit(url).netloc
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def run(url: str, make: Callable[[int], bytes], *, requests: int, connections: int) -> Load:
    """Sends ``make(0)`` to ``make(requests - 1)`` over ``connections`` connections, as fast as answers come."""
    parts = urlsplit(url)
    numbers = iter(range(requests))
    latencies: list[float] = []
    failures = 0

    async def lane() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            for number in numbers:
                started = time.perf_counter()
                writer.write(make(number))
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                latencies.append(time.perf_counter() - started)
                if not head.startswith(b"HTTP/1.1 200"):
                    failures += 1
        finally:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(connections)))
    return Load(time.perf_counter() - started, sorted(latencies), failures)
