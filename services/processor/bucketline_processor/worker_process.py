"""Starts, watches and kills one worker process, and exchanges frames with it."""

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

from bucketline_processor.worker_protocol import HEADER, Frame, FrameType, ProtocolError, parse_frame, parse_header

START_SECONDS = 30.0
WATCH_SECONDS = 0.5
KILL_SECONDS = 5.0
STDERR_TAIL_LINES = 20
DRAIN_BYTES = 256 * 1024
PIPE_BYTES = 64 * 1024
INHERITED_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
# A worker uses one core: a library's own thread pool would take cores from the other workers.
SINGLE_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX")

Cause = Literal["time", "memory", "exit"]
OUT_OF_MEMORY_MESSAGES = ("MemoryError", "bad_alloc", "memory allocation of")
"""What Python, C++ and Rust write to standard error when they cannot allocate memory."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Bytes of memory that a worker may use, and seconds for which a run may keep it busy."""

    memory_bytes: int
    time_limit: float


class WorkerDied(Exception):
    """The process exited or was killed for ``cause``; the message has its exit code and the tail of its stderr."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class WorkerProcess:
    """A worker process with its children. Create it with :meth:`start`; one task at a time may use it.

    However it ends, its children are killed with it unless they have started sessions of their own. Its temporary files
    are deleted by :meth:`kill`.
    """

    def __init__(self, process: asyncio.subprocess.Process, limits: WorkerLimits, folder: Path) -> None:
        assert process.stdin is not None  # noqa: S101  It was started with pipes.
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self.runs = 0
        self._process, self._limits, self._folder = process, limits, folder
        self._stdin, self._stdout = process.stdin, process.stdout
        self._stderr_tail: deque[bytes] = deque(maxlen=STDERR_TAIL_LINES)
        self._stderr_reader = asyncio.create_task(self._read_stderr(process.stderr))
        self._remaining_seconds = START_SECONDS
        self._memory_checked_at = time.monotonic()

    @classmethod
    async def start(cls, limits: WorkerLimits, parent: Path) -> Self:
        """Start a process that is ready to run, with a folder in ``parent`` for temporary files.

        It is a new interpreter: in a fork of a process with threads, any lock may be held forever. Raises
        :class:`WorkerDied` when it is not ready within 30 seconds.
        """
        try:
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="worker-", dir=parent))
            process = await _start_process(limits, folder)
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
        """Send a run, wait until it has started, and restart the time limit. Raises :class:`WorkerDied`."""
        self.runs += 1
        self._remaining_seconds = self._limits.time_limit
        await self.send(request)
        await self._expect(FrameType.STARTED)

    async def send(self, frame: bytes) -> None:
        """Send a frame. Raises :class:`WorkerDied`."""
        try:
            self._stdin.write(frame)
            await self._stdin.drain()
        except OSError as error:
            raise await self._death() from error

    async def receive(self) -> Frame:
        """Return the next frame. Only the time spent in here counts against the time limit.

        Raises :class:`WorkerDied`, after killing the process for ``time`` and ``memory``, and ``ProtocolError``.
        """
        try:
            frame_type, text, binary = parse_header(await self._read_exactly(HEADER.size))
            return parse_frame(frame_type, await self._read_exactly(text), await self._read_exactly(binary))
        except asyncio.IncompleteReadError as error:
            raise await self._death() from error

    async def kill(self) -> None:
        """Kill the process and its children, and delete its files. May be called more than once."""
        self._kill_group()
        self._stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                # asyncio regards a process as ended only when its pipes have been read to the end.
                with suppress(RuntimeError):  # A run that is waiting for a frame reads the pipe itself.
                    while await self._stdout.read(DRAIN_BYTES):
                        pass
                await self._process.wait()
        self._stderr_reader.cancel()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _expect(self, frame_type: FrameType) -> None:
        try:
            frame = await self.receive()
        except ProtocolError as error:
            raise WorkerDied("exit", f"it sent an invalid frame: {error}") from error
        if frame.type is not frame_type:
            raise WorkerDied("exit", f"it sent {frame.type.name} instead of {frame_type.name}")

    async def _read_exactly(self, size: int) -> bytes:
        while True:
            started = time.monotonic()
            try:
                async with asyncio.timeout(min(self._remaining_seconds, WATCH_SECONDS)):
                    return await self._stdout.readexactly(size)
            except TimeoutError:
                pass  # readexactly consumes all or nothing.
            finally:
                now = time.monotonic()
                self._remaining_seconds -= now - started
            if self._remaining_seconds <= 0:
                self._kill_group()
                raise WorkerDied("time", "it was busy for too long")
            await self._check_memory(now)

    async def _check_memory(self, now: float) -> None:
        """Enforce the memory limit where the operating system does not, or where children use the memory."""
        if now - self._memory_checked_at < WATCH_SECONDS:
            return
        self._memory_checked_at = now
        if await asyncio.to_thread(_private_bytes, self._process.pid) > self._limits.memory_bytes:
            self._kill_group()
            raise WorkerDied("memory", "it grew too large")

    def _kill_group(self) -> None:
        if self._process.returncode is None:  # Otherwise the group was killed when the process exited.
            _kill_group(self._process.pid)

    async def _death(self) -> WorkerDied:
        """Return why the pipe broke. A SIGKILL that is not ours comes from the kernel, for lack of memory."""
        try:
            code = await asyncio.wait_for(asyncio.shield(self._process.wait()), KILL_SECONDS)
        except TimeoutError:
            return WorkerDied("exit", "it closed its pipe")
        await asyncio.wait({self._stderr_reader}, timeout=1.0)
        stderr = b" / ".join(self._stderr_tail).decode("utf-8", "replace")[-2000:]
        out_of_memory = code == -signal.SIGKILL or any(message in stderr for message in OUT_OF_MEMORY_MESSAGES)
        cause: Cause = "memory" if out_of_memory else "exit"
        return WorkerDied(cause, f"exit code {code}: {stderr or 'nothing on stderr'}")

    async def _read_stderr(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(4096):
            self._stderr_tail.extend(line for line in chunk.splitlines() if line.strip())


class _KillGroupOnExit(asyncio.subprocess.SubprocessStreamProtocol):
    """Kills the children of a process at the moment of its exit.

    Later, the number of an empty process group may have been reused; and children that hold the pipes open would keep
    asyncio from noticing the exit.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._group = cast("asyncio.SubprocessTransport", transport).get_pid()

    def process_exited(self) -> None:
        _kill_group(self._group)
        super().process_exited()


async def _start_process(limits: WorkerLimits, folder: Path) -> asyncio.subprocess.Process:
    """Do what ``asyncio.create_subprocess_exec`` does, but kill the process group on exit."""
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
        start_new_session=True,  # Ctrl-C does not reach it, and its children can be killed with it.
    )
    return asyncio.subprocess.Process(transport, protocol, loop)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _environment(folder: Path) -> dict[str, str]:
    """Return what Python needs to find the same code. Credentials are left out: workers read untrusted files."""
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    threads = dict.fromkeys(SINGLE_THREAD_VARIABLES, "1")
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**inherited, **threads, "PYTHONPATH": path, "HOME": str(folder), "TMPDIR": str(folder)}


def _private_bytes(pid: int) -> int:
    """Return the resident memory of the process and its children, without shared mappings."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                usage = member.memory_info()
                total += usage.rss - getattr(usage, "shared", 0)
    return total
