import asyncio
import os
import resource
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from signal import SIGKILL

import pytest

from bucketline.devstack.exec_with_parent import MAX_OPEN_FILES
from bucketline.devstack.process import MAX_LINE_BYTES, MAX_TAIL_LINES, ManagedProcess
from bucketline.errors import LocalStackError

DEADLINE = 20.0

WAITS_FOREVER = "import signal, time\nprint('here', flush=True)\nwhile True: time.sleep(60)\n"
IGNORES_SIGTERM = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITS_FOREVER
HAS_A_CHILD = "import subprocess, sys\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"


class Output(list[str]):
    """Collects lines of output."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def add(self, line: str) -> None:
        self.append(line)
        self._more.set()

    async def first(self) -> str:
        async with asyncio.timeout(DEADLINE):
            await self._more.wait()
        return self[0]


Make = Callable[..., tuple[ManagedProcess, Output]]


@pytest.fixture
async def run() -> AsyncIterator[Make]:
    """Return a function that creates a process from Python source; kill the processes after the test."""
    made: list[ManagedProcess] = []

    def make(source: str, **options: object) -> tuple[ManagedProcess, Output]:
        output = Output()
        if "log_file" not in options:
            options["on_line"] = output.add
        process = ManagedProcess("script", [sys.executable, "-uIS", "-c", source], **options)  # type: ignore[arg-type]
        made.append(process)
        return process, output

    yield make
    for process in made:
        await process.kill()


def gone(pid: int) -> bool:
    """Return whether a process that is not a child of this one ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], DEADLINE)[0])
    finally:
        os.close(descriptor)


async def never() -> bool:
    return False


async def test_process_output_arrives_line_by_line_and_wait_returns_the_code(run: Make) -> None:
    process, output = run("import sys\nprint('one')\nsys.stderr.write('two\\nthree')\nsys.exit(3)")
    await process.start()
    assert await process.wait(timeout=DEADLINE) == 3
    assert sorted(output) == ["one", "three", "two"]
    assert process.pid is None


async def test_process_output_without_newlines_is_split(run: Make) -> None:
    process, output = run(f"print('x' * {MAX_LINE_BYTES * 3})")
    await process.start()
    await process.wait(timeout=DEADLINE)
    assert "".join(output) == "x" * (MAX_LINE_BYTES * 3)
    assert max(map(len, output)) <= MAX_LINE_BYTES * 2


async def test_process_environment_is_inherited_only_on_request(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKETLINE_OURS", "1")
    source = "import os\nprint(os.environ.get('BUCKETLINE_OURS'), os.environ.get('GIVEN'))"
    clean, clean_output = run(source, environment={"GIVEN": "2"})
    heir, heir_output = run(source, environment={"GIVEN": "2"}, inherit_environment=True)
    for process in (clean, heir):
        await process.start()
        await process.wait(timeout=DEADLINE)
    assert clean_output == ["None 2"]
    assert heir_output == ["1 2"]


async def test_process_with_a_low_limit_of_open_files_gets_a_higher_one(run: Make) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process, output = run("import resource\nprint(*resource.getrlimit(resource.RLIMIT_NOFILE))")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    try:
        await process.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await process.wait(timeout=DEADLINE)
    assert output == [f"{min(hard, MAX_OPEN_FILES)} {hard}"]


async def test_process_log_of_the_previous_run_is_kept(run: Make, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "script.log"
    process, _ = run("import os\nprint('pid', os.getpid())", log_file=log)
    for _ in range(2):
        await process.start()
        await process.wait(timeout=DEADLINE)
    now, before = log.read_text(), (tmp_path / "logs" / "script.log.1").read_text()
    assert now.startswith("pid ")
    assert before.startswith("pid ")
    assert now != before


async def test_wait_ready_with_a_process_that_ends_fails_with_its_output(run: Make, tmp_path: Path) -> None:
    process, _ = run(
        "import sys\nprint(*range(100), sep='\\n')\nsys.exit('no such disk')", log_file=tmp_path / "script.log"
    )
    await process.start()
    with pytest.raises(LocalStackError, match="script ended with code 1") as caught:
        await process.wait_ready(never, idle_timeout=DEADLINE)
    assert caught.value.message.endswith("99\nno such disk")
    assert len(caught.value.message.splitlines()) == MAX_TAIL_LINES + 1


async def test_wait_ready_with_an_idle_process_fails_after_the_idle_timeout(run: Make) -> None:
    process, output = run(WAITS_FOREVER)
    await process.start()
    await output.first()
    with pytest.raises(LocalStackError, match=r"script was not ready after \d s and has been idle for \d s"):
        await process.wait_ready(never, idle_timeout=0.1)
    assert process.running


async def test_wait_ready_with_a_working_process_has_no_limit(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketline.devstack.process.MIN_CPU_SECONDS", 0.01)
    process, output = run("import time\nwhile time.process_time() < 1.5: pass\nprint('worked')\n" + WAITS_FOREVER)
    await process.start()

    async def worked() -> bool:
        return "worked" in output

    await process.wait_ready(worked, idle_timeout=0.5)


async def test_process_with_a_missing_command_names_it() -> None:
    process = ManagedProcess("ghost", ["/nonexistent/program"])
    await process.start()
    with pytest.raises(LocalStackError, match="cannot run /nonexistent/program: No such file"):
        await process.wait_ready(never, idle_timeout=DEADLINE)
    assert process.returncode == 127


async def test_stop_lets_the_process_end_in_order(run: Make) -> None:
    process, output = run(
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')))\n" + WAITS_FOREVER
    )
    await process.start()
    await output.first()
    assert await process.stop() == 0
    assert output == ["here", "bye"]
    assert await process.stop() == 0


async def test_stop_kills_the_process_after_the_timeout(run: Make) -> None:
    process, output = run(IGNORES_SIGTERM, stop_timeout=0.1)
    await process.start()
    await output.first()
    assert await process.stop() == -SIGKILL


async def test_process_can_be_started_again_but_not_twice(run: Make) -> None:
    process, output = run(WAITS_FOREVER)
    await process.start()
    await output.first()
    with pytest.raises(LocalStackError, match="already running"):
        await process.start()
    first = process.pid
    await process.kill()
    assert process.pid is None
    await process.start()
    assert process.pid not in (None, first)


@pytest.mark.parametrize("ending", ["", "import os\nos.kill(os.getpid(), 9)\n"])
async def test_process_that_ends_has_its_group_killed(run: Make, ending: str) -> None:
    process, output = run(HAS_A_CHILD + ending)
    await process.start()
    await process.wait(timeout=DEADLINE)
    assert gone(int(output[0]))


PARENT = """
import asyncio
from bucketline.devstack.process import ManagedProcess

async def main():
    child = ManagedProcess("child", ["sleep", "600"], on_line=print)
    await child.start()
    while open(f"/proc/{child.pid}/comm").read() != "sleep\\n":
        await asyncio.sleep(0.01)
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_process_is_killed_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert select.select([os.pidfd_open(child)], [], [], 0) == ([], [], [])
        os.kill(parent.pid, SIGKILL)
        parent.wait(timeout=DEADLINE)
    assert gone(child)
