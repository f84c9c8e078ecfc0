"""A worker process as the service sees it: started, spoken to, watched, killed."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, cast

import psutil

from bucketline_processor.worker_protocol import HEADER, Frame, FrameType, WireError, frame_sizes, unpack

START_SECONDS = 30.0
WATCH_SECONDS = 0.5
KILL_SECONDS = 5.0
STDERR_TAIL_LINES = 20
DRAIN_BYTES = 256 * 1024
PIPE_BYTES = 64 * 1024
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
# One worker is one core: a library's own thread pool would only take it from the others.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX")

Cause = Literal["time", "memory", "exit"]
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "memory allocation of")
"""What Python, C++ and Rust write when they cannot allocate memory."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Bytes of memory a worker may use, and seconds a run may keep it busy."""

    memory_bytes: int
    time_limit: float


class WorkerDied(Exception):
    """The process is gone or was killed for ``cause``; the text has its exit code and last words."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class WorkerProcess:
    """One process and all that it starts. Make it with :meth:`start`; not for use by two tasks at once.

    However it ends, the processes that it started end with it, unless they made themselves sessions of their own. Its
    temporary files go when it is killed.
    """

    def __init__(self, process: asyncio.subprocess.Process, limits: WorkerLimits, folder: Path) -> None:
        assert process.stdin is not None  # noqa: S101  started with pipes
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self.runs = 0
        self._process, self._limits, self._folder = process, limits, folder
        self._stdin, self._stdout = process.stdin, process.stdout
        self._last_words: deque[bytes] = deque(maxlen=STDERR_TAIL_LINES)
        self._listener = asyncio.create_task(self._listen(process.stderr))
        self._left = START_SECONDS
        self._watched_at = time.monotonic()

    @classmethod
    async def start(cls, limits: WorkerLimits, parent: Path) -> Self:
        """A process that said it is ready, with a folder in ``parent`` as its place for temporary files.

        It is a new interpreter, not a fork: a fork of a process with threads may find any lock taken for
        ever. Raises :class:`WorkerDied` when it is not ready within 30 seconds.
        """
        try:
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="worker-", dir=parent))
            process = await _started(limits, folder)
        except OSError as error:
            raise WorkerDied("exit", f"it cannot be started: {error}") from error
        worker = cls(process, limits, folder)
        try:
            await worker._expect(FrameType.READY)
        except BaseException:
            await worker.kill()
            raise
        return worker

    async def begin(self, request: bytes) -> None:
        """Hand over a run and wait until it is taken up; the time limit starts anew. Raises
        :class:`WorkerDied`.
        """
        self.runs += 1
        self._left = self._limits.time_limit
        await self.send(request)
        await self._expect(FrameType.STARTED)

    async def send(self, frame: bytes) -> None:
        """Raises :class:`WorkerDied`."""
        try:
            self._stdin.write(frame)
            await self._stdin.drain()
        except (ConnectionError, OSError) as error:
            raise await self._death() from error

    async def receive(self) -> Frame:
        """The next frame. Only the waiting in here counts against the time limit.

        Raises :class:`WorkerDied`, for ``time`` and ``memory`` after killing it, and ``WireError``.
        """
        try:
            kind, text, binary = frame_sizes(await self._exactly(HEADER.size))
            return unpack(kind, await self._exactly(text), await self._exactly(binary))
        except asyncio.IncompleteReadError as error:
            raise await self._death() from error

    async def kill(self) -> None:
        """End it and its children now, and remove its files. May be called more than once."""
        self._signal()
        self._stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await self._drain()
                await self._process.wait()
        self._listener.cancel()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _drain(self) -> None:
        """Throw away what it still said: asyncio counts a process as ended only when its pipes are read to
        the end.
        """
        with suppress(RuntimeError):  # a run that waits for a frame reads, and ends, by itself
            while await self._stdout.read(DRAIN_BYTES):
                pass

    async def _expect(self, kind: FrameType) -> None:
        try:
            frame = await self.receive()
        except WireError as error:
            raise WorkerDied("exit", f"it spoke nonsense: {error}") from error
        if frame.kind is not kind:
            raise WorkerDied("exit", f"{frame.kind.name} came instead of {kind.name}")

    async def _exactly(self, size: int) -> bytes:
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(min(self._left, WATCH_SECONDS)):
                    return await self._stdout.readexactly(size)
            except TimeoutError:
                pass  # nothing is lost: readexactly takes all or nothing
            finally:
                now = time.monotonic()
                self._left -= now - began
            if self._left <= 0:
                self._signal()
                raise WorkerDied("time", "it was busy for too long")
            await self._watch_memory(now)

    async def _watch_memory(self, now: float) -> None:
        """The second wall: where the operating system does not hold the limit, or children use the memory."""
        if now - self._watched_at < WATCH_SECONDS:
            return
        self._watched_at = now
        if await asyncio.to_thread(_private_bytes, self._process.pid) > self._limits.memory_bytes:
            self._signal()
            raise WorkerDied("memory", "it grew too large")

    def _signal(self) -> None:
        if self._process.returncode is None:  # otherwise its end was the end of them all
            _kill_group(self._process.pid)

    async def _death(self) -> WorkerDied:
        """Why the pipe broke. A kill that was not ours is the kernel's, for want of memory."""
        try:
            code = await asyncio.wait_for(asyncio.shield(self._process.wait()), KILL_SECONDS)
        except TimeoutError:
            return WorkerDied("exit", "it closed its pipe")
        await asyncio.wait({self._listener}, timeout=1.0)
        words = b" / ".join(self._last_words).decode("utf-8", "replace")[-2000:]
        no_memory = code == -signal.SIGKILL or any(sign in words for sign in OUT_OF_MEMORY)
        cause: Cause = "memory" if no_memory else "exit"
        return WorkerDied(cause, f"exit code {code}: {words or 'no last words'}")

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(4096):
            self._last_words.extend(line for line in chunk.splitlines() if line.strip())


class _KillGroupOnExit(asyncio.subprocess.SubprocessStreamProtocol):
    """Kills what a process leaves behind at the moment of its end.

    Not later: as soon as nobody is left in its group, the number may be another's. And what holds its pipes open would
    keep asyncio from believing in its end.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._group = cast("asyncio.SubprocessTransport", transport).get_pid()

    def process_exited(self) -> None:
        _kill_group(self._group)
        super().process_exited()


async def _started(limits: WorkerLimits, folder: Path) -> asyncio.subprocess.Process:
    """As ``asyncio.create_subprocess_exec`` does it, but with a family."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: _KillGroupOnExit(limit=PIPE_BYTES, loop=loop),
        sys.executable,
        *("-P", "-m", "bucketline_processor.worker", str(limits.memory_bytes), str(os.getpid())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=_environment(folder),
        start_new_session=True,  # so that Ctrl-C is ours alone, and its children can be killed with it
    )
    return asyncio.subprocess.Process(transport, protocol, loop)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _environment(folder: Path) -> dict[str, str]:
    """The little that Python needs to find the same code. No credentials: a worker reads strangers' files."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    threads = dict.fromkeys(ONE_THREAD, "1")
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**kept, **threads, "PYTHONPATH": path, "HOME": str(folder), "TMPDIR": str(folder)}


def _private_bytes(pid: int) -> int:
    """Resident memory of the process and its children, without what they share with files."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                usage = member.memory_info()
                total += usage.rss - getattr(usage, "shared", 0)
    return total
