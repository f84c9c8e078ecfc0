"""``bucketline up`` as a user runs it: two deployments, other commands, crashes and a stop."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from tests.waiting import eventually

from bucketline.devstack.reservations import reserve_ports

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
        env={**os.environ, "COLUMNS": "40"},
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


async def command(folder: Path, *arguments: str) -> str:
    """Run a command with nothing but the data folder set; return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BUCKETLINE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bucketline.cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "BUCKETLINE_DATA": str(folder)},
        cwd=folder,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_up_stopped_during_its_start_ends_in_order(number: signal.Signals, tmp_path: Path) -> None:
    lease = reserve_ports(1)
    (port,) = lease.ports
    lease.release()
    async with up(tmp_path, port) as running:
        await running.says("s3 is ready")
        family = running.family()
        running.process.send_signal(number)
        async with asyncio.timeout(STOP_SECONDS):
            assert await running.process.wait() == 0, running.output[-3000:]
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, f"left behind: {alive}"
    assert "Traceback" not in running.output
    assert "stopped; the data is kept in" in running.output


async def test_two_deployments_run_side_by_side_survive_crashes_and_end_in_order(tmp_path: Path) -> None:
    lease = reserve_ports(2)
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

        mongodb_url = (await first.says(r"(mongodb://127\.0\.0\.1:\d+/\?replicaSet=local&directConnection=true)\n"))[1]
        assert f"'{mongodb_url}'" in (tmp_path / str(first_port) / "env").read_text()
        folder = tmp_path / str(first_port)
        sample = tmp_path / "note.txt"
        sample.write_text("a note")
        await command(folder, "upload", str(sample), "--bucket", "notes")
        assert "events of 1 objects published" in await command(
            folder, "events", "replay", "--bucket", "notes", "--since", "1h"
        )
        assert "0 records replayed" in await command(folder, "dlq", "replay")
        found = json.loads(await command(folder, "doctor", "--json"))
        assert {row["part"] for row in found} == {"MongoDB", "Kafka", "S3", "Bucketline"}

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
            assert "Traceback" not in running.output
            assert not (tmp_path / str(running.port) / "env").exists()
