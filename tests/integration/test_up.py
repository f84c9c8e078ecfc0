"""``bucketline up`` as its users run it: side by side, over a crash, and gone when told."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from tests.conditions import eventually

from bucketline.local.ports import reserve

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

STOP_SECONDS = 60
"""Far above what the product allows itself: a loaded machine is not what is tested."""


class Up:
    """One ``bucketline up`` and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.output = ""

    async def read(self) -> None:
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(4096):
            self.output += chunk.decode(errors="replace")

    async def says(self, pattern: str, *, deadline: float = 90) -> re.Match[str]:
        async def found() -> re.Match[str] | None:
            assert self.process.returncode is None, self.output[-3000:]
            return re.search(pattern, self.output)

        match = await eventually(found, deadline=deadline)
        assert match is not None
        return match

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@asynccontextmanager
async def up(folder: Path, port: int) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bucketline.cli.main", "up", "--port", str(port), "--data", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    running = Up(process, port)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def test_two_side_by_side_one_crash_and_a_clean_end(tmp_path: Path) -> None:
    lease = reserve(2)
    first_port, second_port = lease.ports
    lease.release()
    async with up(tmp_path, first_port) as first, up(tmp_path, second_port) as second:
        for running in (first, second):
            await running.says("Bucketline is up")
        key = (await first.says(r"(sk_local_[\w-]+)")).group(1)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
            for running, status in ((first, 200), (second, 401)):
                async with session.get(f"http://127.0.0.1:{running.port}/v1/namespaces") as answer:
                    assert answer.status == status, "each deployment has a key and data of its own"

        dedup = next(child for child in first.family() if child.cmdline()[-2:] == ["serve", "dedup"])
        dedup.kill()
        await first.says(r"dedup ended with -9")
        await first.says(r"dedup is ready[\s\S]*dedup ended with -9[\s\S]*dedup is ready")

        mongod = next(child for child in first.family() if "mongod" in child.name())
        mongod.kill()
        await first.says(r"mongodb ended with -9; its last lines of \S+mongod\.log")
        await first.says(r"mongodb ended with -9[\s\S]*mongodb is ready")
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

            async def answers() -> bool:
                async with session.get(f"http://127.0.0.1:{first_port}/v1/namespaces") as answer:
                    return answer.status == 200

            await eventually(answers)

        for running, number in ((first, signal.SIGINT), (second, signal.SIGTERM)):
            family = running.family()
            assert len(family) >= 7, "three servers and four services"
            running.process.send_signal(number)
            async with asyncio.timeout(STOP_SECONDS):
                assert await running.process.wait() == 0, running.output[-3000:]
            _, alive = psutil.wait_procs(family, timeout=20)
            assert not alive, f"left behind: {alive}"
