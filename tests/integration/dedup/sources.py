"""An HTTP server on loopback for the sources of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

CHUNK = 256 * 1024


@dataclass
class Page:
    """What is at a path. ``failures`` are statuses answered first, one a request; ``gate`` holds back what
    comes after the first ``free`` bytes.

    ``announced`` off sends the body in chunks, without its length. ``cut`` closes the connection after so many bytes,
    once.
    """

    size: int = 0
    data: bytes | None = None
    content_type: str = "application/octet-stream"
    failures: list[int] = field(default_factory=list)
    announced: bool = True
    cut: int | None = None
    ranges: bool = False
    gate: asyncio.Event | None = None
    free: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0

    async def chunks(self, start: int) -> AsyncIterator[bytes]:
        if self.data is not None:
            for first in range(start, len(self.data), CHUNK):
                yield self.data[first : first + CHUNK]
            return
        block = bytes(range(256)) * (CHUNK // 256)
        for first in range(start, self.size, CHUNK):
            yield block[: min(CHUNK, self.size - first)]


class Sources:
    """Use as an asynchronous context manager; ``put`` pages and give out their ``url``."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}

    def put(self, path: str, page: Page | bytes) -> str:
        self.pages[path] = page if isinstance(page, Page) else Page(data=page)
        return f"http://127.0.0.1:{self.port}{path}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        page.requests += 1
        if page.failures:
            return web.Response(status=page.failures.pop(0), headers=page.headers)
        size = len(page.data) if page.data is not None else page.size
        start = 0
        response = web.StreamResponse(headers={"Content-Type": page.content_type, **page.headers})
        if page.ranges:
            response.headers.update({"Accept-Ranges": "bytes", "ETag": '"one"'})
            if wanted := request.headers.get("Range"):
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                response.set_status(206)
                response.headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if page.announced:
            response.content_length = size - start
        await response.prepare(request)
        sent = 0
        with suppress(ConnectionError):
            async for chunk in page.chunks(start):
                if page.gate is not None and sent >= page.free:
                    await page.gate.wait()
                if page.cut is not None and sent + len(chunk) > page.cut:
                    page.cut = None
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write(chunk)
                sent += len(chunk)
            await response.write_eof()
        return response
