"""Measures Bucketline and its peers with the same job, one after the other on the same servers."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median

import aiohttp
import orjson
import psutil
from tests.bench.contestants import Contestant, bucketline, install_peers, peer
from tests.bench.load import request, run
from tests.bench.rows import Row

from bucketline.devstack.stack import LocalStack

PEERS = ("plain", "celery", "taskiq")
CONNECTIONS = 64
BLOB_BYTES = 10_000
ROUNDS = 50
KILLS = 3
KILLED_OBJECTS = 600
DEADLINE_SECONDS = 300.0
RECOVERY_SECONDS = 60.0
"""How long objects may take to complete after the last kill; what is not completed then counts as lost."""


async def compare(
    stack: LocalStack, cache: Path, peers: Iterable[str], objects: int, progress: Callable[[str], None]
) -> list[Row]:
    """Measure every contestant; Bucketline's rows stand beside the best value of the peers."""
    starts: list[AbstractAsyncContextManager[Contestant]] = []
    names = list(peers)
    if names:
        progress("installing the peers")
        python = await asyncio.to_thread(install_peers, cache)
        starts += [peer(name, stack, python) for name in names]
    starts.append(bucketline(stack))
    rows: list[Row] = []
    best: dict[str, float] = {}
    for start in starts:
        async with start as contestant:
            progress(f"comparing: {contestant.name}")
            values = await _measure(contestant, objects)
        for (name, unit, higher), value in values.items():
            beside = best.get(name)
            rows.append(Row(f"{contestant.name}: {name}", value, unit, "best peer" if beside else None, beside))
            if contestant.name in PEERS:
                choose = max if higher else min
                best[name] = value if beside is None else choose(beside, value)
    return rows


async def _measure(contestant: Contestant, objects: int) -> dict[tuple[str, str, bool], float]:
    """Return values by (name, unit, whether higher is better)."""
    await _warm_up(contestant)
    values: dict[tuple[str, str, bool], float] = {}
    completed = await contestant.count_completed()
    cpu = _cpu(contestant)
    started = time.perf_counter()
    peak: list[float] = [0.0]
    memory = asyncio.create_task(_watch_memory(contestant, peak))
    load = await run(contestant.url, _posts(contestant, distinct=True), requests=objects, connections=CONNECTIONS)
    assert not load.failures, f"{contestant.name}: {load.failures} creates failed"
    await _until_completed(contestant, completed + objects)
    seconds = time.perf_counter() - started
    own, servers = (after - before for after, before in zip(_cpu(contestant), cpu, strict=True))
    memory.cancel()
    values["accept, workers running", "1/s", True] = load.rate
    values["end to end, distinct blobs", "1/s", True] = objects / seconds
    values["CPU per object, own processes", "ms", False] = own / objects * 1000
    values["CPU per object, servers", "ms", False] = servers / objects * 1000
    values["memory, peak", "MiB", False] = peak[0]

    posts, totals = await _idle(contestant)
    values["idle POST, p50", "ms", False] = median(posts) * 1000
    values["idle POST to COMPLETED, p50", "ms", False] = median(totals) * 1000

    completed = await contestant.count_completed()
    started = time.perf_counter()
    await run(contestant.url, _posts(contestant, distinct=False), requests=objects, connections=CONNECTIONS)
    await _until_completed(contestant, completed + objects)
    values["end to end, half duplicates", "1/s", True] = objects / (time.perf_counter() - started)
    values[f"not completed after {KILLS} kills, of {KILLED_OBJECTS}", "objects", False] = await _kills(contestant)
    return values


async def _warm_up(contestant: Contestant) -> None:
    load = await run(contestant.url, _posts(contestant, distinct=True), requests=50, connections=8)
    assert not load.failures, f"{contestant.name} does not accept objects"
    await _until_completed(contestant, 50)


async def _kills(contestant: Contestant) -> int:
    """Send objects while all workers are killed again and again; return how many never completed."""
    completed = await contestant.count_completed()
    posts = _posts(contestant, distinct=True)
    for _ in range(KILLS):
        sending = asyncio.create_task(
            run(contestant.url, posts, requests=KILLED_OBJECTS // KILLS, connections=CONNECTIONS)
        )
        await _until(lambda: _more_than(contestant, completed), RECOVERY_SECONDS)
        await contestant.kill_workers()
        await sending
    expected = completed + KILLED_OBJECTS
    await _until(lambda: _more_than(contestant, expected - 1), RECOVERY_SECONDS)
    return expected - await contestant.count_completed()


async def _more_than(contestant: Contestant, count: int) -> bool:
    return await contestant.count_completed() > count


async def _idle(contestant: Contestant) -> tuple[list[float], list[float]]:
    """Return the seconds of each POST and of each POST until COMPLETED, one object after the other."""
    posts, totals = [], []
    async with aiohttp.ClientSession(contestant.url, headers=dict(contestant.headers)) as session:
        for number in range(ROUNDS):
            body = _body(f"idle-{number}", os.urandom(BLOB_BYTES // 2).hex())
            started = time.perf_counter()
            async with session.post(
                contestant.create_path, data=body, headers={"Content-Type": "application/json"}
            ) as answer:
                object_id = (await answer.json())["object_id"]
            posts.append(time.perf_counter() - started)
            status = ""
            while status != "COMPLETED":
                assert time.perf_counter() - started < DEADLINE_SECONDS, (
                    f"{contestant.name}: an object did not complete"
                )
                await asyncio.sleep(0.002)
                async with session.get(f"{contestant.read_path}/{object_id}") as answer:
                    status = (await answer.json())["status"]
            totals.append(time.perf_counter() - started)
    return posts, totals


async def _watch_memory(contestant: Contestant, peak: list[float]) -> None:
    """Keep the highest sum of resident memory, in MiB, in ``peak[0]``."""
    while True:
        total = 0.0
        for process in contestant.processes():
            try:
                total += process.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                continue
        peak[0] = max(peak[0], total)
        await asyncio.sleep(0.25)


def _cpu(contestant: Contestant) -> tuple[float, float]:
    """Return the CPU seconds so far of the contestant's processes and of the servers of the stack."""
    own = {process.pid: process for process in contestant.processes()}
    everything = {process.pid: process for process in psutil.Process().children(recursive=True)}
    servers = [process for pid, process in everything.items() if pid not in own]
    return _seconds(own.values()), _seconds(servers)


def _seconds(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def _until_completed(contestant: Contestant, count: int) -> None:
    done = await _until(lambda: _more_than(contestant, count - 1), DEADLINE_SECONDS)
    assert done, f"{contestant.name}: {await contestant.count_completed()} of {count} objects completed in time"


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    ends = time.perf_counter() + seconds
    while not await condition():
        if time.perf_counter() > ends:
            return False
        await asyncio.sleep(0.05)
    return True


def _body(name: str, text: str) -> bytes:
    return orjson.dumps({"name": name, "blobs": [{"property": "note", "type": "text", "data": text}]})


def _posts(contestant: Contestant, *, distinct: bool) -> Callable[[int], bytes]:
    """Return what makes the n-th request; without ``distinct`` every second blob is the same."""
    text = os.urandom(BLOB_BYTES // 2 - 10).hex()
    run_id = os.urandom(4).hex()
    headers = {**contestant.headers, "Content-Type": "application/json"}

    def make(number: int) -> bytes:
        prefix = number if distinct or number % 2 else 0
        body = _body(f"{run_id}-{number}", f"{prefix:020d}{text}")
        return request(contestant.url, contestant.create_path, headers, body)

    return make
