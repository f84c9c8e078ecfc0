"""A child process with a beginning, a readiness and an end, that never outlives this process."""

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

import psutil

from bucketline.devstack import exec_with_parent
from bucketline.devstack.readiness import Probe
from bucketline.errors import LocalStackError

PROBE_INTERVAL = 0.05
STOP_DEADLINE = 10.0
KILL_DEADLINE = 5.0
IDLE_DEADLINE = 60.0
WORKING_CPU_SECONDS = 0.5
"""A process that used less CPU time than this within its idle deadline is stuck, and not just slow."""
CPU_INTERVAL = 1.0
LINE_LIMIT = 64 * 1024
TAIL_LINES = 12
TAIL_BYTES = 16 * 1024

MECHANISM = "kernel" if sys.platform == "linux" else "watch"


class ManagedProcess:
    """One command, run once or again and again, in a process group of its own.

    Output (both streams) goes to ``log_file``, whose last content is kept as ``<log_file>.1``, or line by line to
    ``on_line``. Ctrl-C in the terminal does not reach the child: whoever made it stops it. When the child ends,
    what it left in its group is killed, and the kernel kills the child when this process dies, however it dies.

    Call ``start`` from a thread that lives as long as the child should: the main thread, or the loop's.
    Without ``inherit`` the child sees ``environment`` and nothing of ours.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        inherit: bool = False,
        folder: Path | None = None,
        log_file: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        stop_deadline: float = STOP_DEADLINE,
        mechanism: str = MECHANISM,
    ) -> None:
        self.name = name
        self._command = tuple(command)
        # Not configuration: a program that is run for the user gets the user's PATH, HOME, locale and proxies.
        inherited = os.environ if inherit else {"PATH": os.defpath, "LC_ALL": "C"}
        self._environment = {**inherited, **(environment or {})}
        self._folder = folder
        self._log_file = log_file
        self._on_line = on_line
        self._stop_deadline = stop_deadline
        self._mechanism = mechanism
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[int] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def pid(self) -> int | None:
        """The pid while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        return self._ended is not None and not self._ended.done()

    @property
    def returncode(self) -> int | None:
        """Of the last run; negative is the signal that ended it. None while it runs."""
        return self._process.returncode if self._process is not None else None

    async def start(self) -> None:
        """Starts the command; returns at once. Raises LocalStackError if it runs already or cannot be run."""
        if self.running:
            raise LocalStackError(f"{self.name} runs already")
        command = [
            sys.executable,
            "-I",
            "-S",
            exec_with_parent.__file__,
            self._mechanism,
            str(os.getpid()),
            *self._command,
        ]
        self._tail.clear()
        with contextlib.ExitStack() as ours:
            if self._log_file is not None:
                output = os.open(_rotated(self._log_file), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            else:
                # A pipe of our own: asyncio's would make waiting for the child also wait for whoever inherited it.
                source, output = os.pipe()
                pump = asyncio.create_task(self._pump(source), name=f"output of {self.name}")
            ours.callback(os.close, output)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._folder,
                    env=self._environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise LocalStackError(f"cannot start {self.name}: {error}") from error
        self._ended = asyncio.create_task(
            self._reap(self._process, None if self._log_file is not None else pump), name=f"end of {self.name}"
        )

    async def ready(self, probe: Probe, *, idle_deadline: float = IDLE_DEADLINE) -> None:
        """Return when ``probe`` says yes, however long that takes while the process works: a busy machine is slow.

        Raises LocalStackError, with the end of the output, if the process ends first or used hardly any CPU time for
        ``idle_deadline`` seconds; it is not stopped then.
        """
        began = active = measured = time.monotonic()
        used = self._cpu_seconds()
        while not await probe():
            if not self.running:
                raise LocalStackError(f"{self.name} ended with code {self.returncode}{self.last_words()}")
            now = time.monotonic()
            if now - measured >= min(CPU_INTERVAL, idle_deadline):
                measured = now
                if (cpu := self._cpu_seconds()) - used >= WORKING_CPU_SECONDS:
                    active, used = now, cpu
                elif now - active >= idle_deadline:
                    raise LocalStackError(
                        f"{self.name} was not ready after {now - began:.0f} s, the last {now - active:.0f} of them "
                        f"without work{self.last_words()}"
                    )
            await asyncio.sleep(PROBE_INTERVAL)

    def _cpu_seconds(self) -> float:
        """Return the CPU time that the process and its ended children have used."""
        try:
            return sum(psutil.Process(self.pid).cpu_times()[:4]) if self.pid is not None else 0.0
        except psutil.Error:
            return 0.0

    async def wait(self, *, deadline: float | None = None) -> int:
        """Waits for the end, all output included; the return code. Cancelling it does not stop the process.

        Raises LocalStackError after ``deadline`` seconds. None is for a process that is meant to run for good.
        """
        if self._ended is None:
            raise LocalStackError(f"{self.name} was never started")
        try:
            async with asyncio.timeout(deadline):
                return await asyncio.shield(self._ended)
        except TimeoutError:
            raise LocalStackError(f"{self.name} did not end within {deadline:.0f} s") from None

    async def stop(self) -> int | None:
        """SIGTERM, and SIGKILL for the group after the deadline. Returns when it is gone; harmless when it is."""
        if self._ended is None:
            return None
        if not self._ended.done():
            self.signal(SIGTERM)
            await asyncio.wait({self._ended}, timeout=self._stop_deadline)
        return await self.kill()

    async def kill(self) -> int | None:
        """SIGKILL for the process and its group. Returns when it is gone."""
        if self._ended is None:
            return None
        if not self._ended.done():
            self._kill_group()
            await asyncio.wait({self._ended}, timeout=KILL_DEADLINE)
            if not self._ended.done():
                raise LocalStackError(f"{self.name} (pid {self.pid}) survived SIGKILL for {KILL_DEADLINE:.0f} s")
        return self._ended.result()

    def output_tail(self) -> str:
        """The last lines of the output, of this run."""
        if self._log_file is None:
            return "\n".join(self._tail)
        try:
            with self._log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                lines = log.read(TAIL_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-TAIL_LINES:])

    def last_words(self) -> str:
        """For a message about its end: the last lines of its output, and where the rest is."""
        tail = self.output_tail()
        if not tail:
            return " and said nothing"
        where = f" of {self._log_file} ({self._log_file.name}.1 after the next start)" if self._log_file else ""
        return f"; its last lines{where}:\n{tail}"

    def signal(self, number: Signals) -> None:
        """Sends a signal to the process, not to its group. Harmless when it is gone."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, SIGKILL)

    async def _reap(self, process: asyncio.subprocess.Process, pump: asyncio.Task[None] | None) -> int:
        code = await process.wait()
        self._kill_group()
        if pump is not None:
            # Whoever left the group may hold the pipe for as long as it likes; we do not wait for it.
            await asyncio.wait({pump}, timeout=KILL_DEADLINE)
            pump.cancel()
        return code

    async def _pump(self, source: int) -> None:
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", buffering=0)
        )
        pending = b""
        try:
            while chunk := await reader.read(LINE_LIMIT):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._emit(line)
                if len(pending) > LINE_LIMIT:
                    self._emit(pending)
                    pending = b""
            if pending:
                self._emit(pending)
        finally:
            transport.close()

    def _emit(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self._tail.append(text)
        if self._on_line is not None:
            self._on_line(text)


def _rotated(log_file: Path) -> Path:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        log_file.rename(log_file.with_name(f"{log_file.name}.1"))
    return log_file
