"""A source of content of any size, as a process: ``/<seed>/<size>`` is that many bytes, different for each seed.

Prints its port, and ends when its standard input is closed. Only the standard library is used, so it starts quickly.
"""

import asyncio
import hashlib
import sys

BLOCK = 256 * 1024


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    _, seed, size = head.split(b" ", 2)[1].split(b"/")
    left = int(size)
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % left)
    block = (hashlib.sha512(seed).digest() * (BLOCK // 64))[:BLOCK]
    while left:
        writer.write(block[: min(left, BLOCK)])
        left -= min(left, BLOCK)
        await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
