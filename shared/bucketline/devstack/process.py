"""A child process with its output, its readiness and its end, which never outlives this process."""

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

import psutil

from bucketline.devstack import exec_with_parent
from bucketline.errors import LocalStackError

Probe = Callable[[], Awaitable[bool]]
"""Returns whether a server is ready. Does not raise, and returns within a few seconds."""

PROBE_INTERVAL_SECONDS = 0.05
STOP_TIMEOUT_SECONDS = 10.0
KILL_TIMEOUT_SECONDS = 5.0
IDLE_TIMEOUT_SECONDS = 60.0
MIN_CPU_SECONDS = 0.5
"""A process that uses less CPU time than this within its idle timeout is stuck, not just slow."""
CPU_CHECK_INTERVAL_SECONDS = 1.0
MAX_LINE_BYTES = 64 * 1024
MAX_TAIL_LINES = 12
MAX_TAIL_BYTES = 16 * 1024


class ManagedProcess:
    """One command, run once or several times, in a process group of its own.

    Both output streams go to ``log_file`` (the file of the previous run is kept as ``<log_file>.1``) or line by line to
    ``on_line``. Ctrl-C in the terminal does not reach the child. When the child ends, the rest of its process group is
    killed; when this process dies, for whatever reason, the child is killed.

    Call ``start`` from a thread that lives as long as the child should: the main thread or the event loop's.
    Unless ``inherit_environment`` is set, the child gets ``environment`` and nothing of this process's environment.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        inherit_environment: bool = False,
        folder: Path | None = None,
        log_file: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        stop_timeout: float = STOP_TIMEOUT_SECONDS,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._command = tuple(command)
        # Not configuration: a program that is run for the user gets the user's PATH, HOME, locale and proxies.
        inherited = os.environ if inherit_environment else {"PATH": os.defpath, "LC_ALL": "C"}
        self._environment = {**inherited, **(environment or {})}
        self._folder = folder
        self._on_line = on_line
        self._stop_timeout = stop_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.Task[int] | None = None
        self._tail: deque[str] = deque(maxlen=MAX_TAIL_LINES)

    @property
    def pid(self) -> int | None:
        """The process id; None if it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process has started and not ended."""
        return self._end is not None and not self._end.done()

    @property
    def returncode(self) -> int | None:
        """The exit code of the last run, negative for a signal; None while it runs."""
        return self._process.returncode if self._process is not None else None

    async def start(self) -> None:
        """Start the command and return at once. Raises LocalStackError if it runs already or cannot be run."""
        if self.running:
            raise LocalStackError(f"{self.name} is already running")
        wrapper = [sys.executable, "-I", "-S", exec_with_parent.__file__, str(os.getpid())]
        self._tail.clear()
        reader: asyncio.Task[None] | None = None
        if self.log_file is not None:
            output = os.open(_rotate(self.log_file), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        else:
            # Not asyncio's own pipe: waiting for the child would also wait for every process that inherited it.
            source, output = os.pipe()
            reader = asyncio.create_task(self._read_lines(source), name=f"output of {self.name}")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *wrapper,
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            raise LocalStackError(f"cannot start {self.name}: {error}") from error
        finally:
            os.close(output)
        self._end = asyncio.create_task(self._wait_for_end(self._process, reader), name=f"end of {self.name}")

    async def wait_ready(self, probe: Probe, *, idle_timeout: float = IDLE_TIMEOUT_SECONDS) -> None:
        """Return when ``probe`` returns true. There is no limit while the process works: a busy machine is slow.

        Raises LocalStackError, with the end of the output, if the process ends first or uses hardly any CPU time for
        ``idle_timeout`` seconds. The process is not stopped then.
        """
        started = active = checked = time.monotonic()
        used = self._cpu_seconds()
        while not await probe():
            if not self.running:
                raise LocalStackError(f"{self.name} ended with code {self.returncode}{self.describe_output()}")
            now = time.monotonic()
            if now - checked >= min(CPU_CHECK_INTERVAL_SECONDS, idle_timeout):
                checked = now
                if (cpu := self._cpu_seconds()) - used >= MIN_CPU_SECONDS:
                    active, used = now, cpu
                elif now - active >= idle_timeout:
                    raise LocalStackError(
                        f"{self.name} was not ready after {now - started:.0f} s and has been idle for "
                        f"{now - active:.0f} s{self.describe_output()}"
                    )
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)

    async def wait(self, *, timeout: float | None = None) -> int:  # noqa: ASYNC109 - raises our error with the name
        """Wait for the end of the process and of its output. Return the exit code.

        Canceling does not stop the process. Raises LocalStackError after ``timeout`` seconds.
        """
        if self._end is None:
            raise LocalStackError(f"{self.name} was never started")
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._end)
        except TimeoutError:
            raise LocalStackError(f"{self.name} did not end within {timeout:.0f} s") from None

    async def stop(self) -> int | None:
        """Send SIGTERM, and SIGKILL to the group after the timeout. Return the exit code, None if it never ran."""
        if self._end is not None and not self._end.done():
            self.send_signal(SIGTERM)
            await asyncio.wait({self._end}, timeout=self._stop_timeout)
        return await self.kill()

    async def kill(self) -> int | None:
        """Send SIGKILL to the process and its group, and wait for the end."""
        if self._end is None:
            return None
        if not self._end.done():
            self._kill_group()
            await asyncio.wait({self._end}, timeout=KILL_TIMEOUT_SECONDS)
            if not self._end.done():
                raise LocalStackError(f"{self.name} (pid {self.pid}) survived SIGKILL for {KILL_TIMEOUT_SECONDS:.0f} s")
        return self._end.result()

    def send_signal(self, number: Signals) -> None:
        """Send a signal to the process, not to its group, if it runs."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def output_tail(self) -> str:
        """Return the last lines of the output of this run."""
        if self.log_file is None:
            return "\n".join(self._tail)
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - MAX_TAIL_BYTES))
                lines = log.read(MAX_TAIL_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-MAX_TAIL_LINES:])

    def describe_output(self) -> str:
        """Return the end of an error message: the last lines of the output and where the rest is."""
        tail = self.output_tail()
        if not tail:
            return " without output"
        file = f" of {self.log_file} ({self.log_file.name}.1 after the next start)" if self.log_file else ""
        return f"; its last lines{file}:\n{tail}"

    def _cpu_seconds(self) -> float:
        """Return the CPU time that the process and its ended children have used."""
        try:
            return sum(psutil.Process(self.pid).cpu_times()[:4]) if self.pid is not None else 0.0
        except psutil.Error:
            return 0.0

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, SIGKILL)

    async def _wait_for_end(self, process: asyncio.subprocess.Process, reader: asyncio.Task[None] | None) -> int:
        code = await process.wait()
        self._kill_group()
        if reader is not None:
            # A process that left the group may keep the pipe open.
            await asyncio.wait({reader}, timeout=KILL_TIMEOUT_SECONDS)
            reader.cancel()
        return code

    async def _read_lines(self, source: int) -> None:
        stream = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(source, "rb", buffering=0)
        )
        pending = b""
        try:
            while chunk := await stream.read(MAX_LINE_BYTES):
                *lines, pending = (pending + chunk).split(b"\n")
                if len(pending) > MAX_LINE_BYTES:
                    lines, pending = [*lines, pending], b""
                self._emit(lines)
            self._emit([pending] if pending else [])
        finally:
            transport.close()

    def _emit(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            self._tail.append(text)
            if self._on_line is not None:
                self._on_line(text)


def _rotate(log_file: Path) -> Path:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        log_file.rename(log_file.with_name(f"{log_file.name}.1"))
    return log_file
